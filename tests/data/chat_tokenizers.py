"""Small tokenizers for real chat templates: byte-level BPE with the special tokens that a template writes."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Set
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TOKEN_PATTERN = re.compile(
    r"<[|｜][^<>|｜\s'\"]+?[|｜]>|<[a-z_]+\|>|<\|[a-z_]+>|</?(?:think|tool_call)>|\[gMASK\]|<sop>|\[/?[A-Z_]{4,}\]"
)
OTHER_TOKENS = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_utterance>", "<image>", "<s>", "</s>")

# Family by the beginning of the template's file name: tokens that begin and end texts, as the models' own tokenizers
# have them. The end of a turn is often another token than the end of a sequence: that is the point.
BOS_AND_EOS: dict[str, tuple[str | None, str]] = {
    "cohere": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "diffusion_gemma": ("<bos>", "<eos>"),
    "gemma": ("<bos>", "<eos>"),
    "glm": (None, "<|endoftext|>"),
    "gptoss": ("<|startoftext|>", "<|return|>"),
    "idefics": ("<|begin_of_text|>", "<end_of_utterance>"),
    "lfm2": ("<|startoftext|>", "<|im_end|>"),
    "llama": ("<|begin_of_text|>", "<|eot_id|>"),
    "llava": ("<s>", "</s>"),
    "mistral": ("<s>", "</s>"),
    "muse": ("<|begin_of_text|>", "<|eot|>"),
    "nemotron": ("<s>", "<|im_end|>"),
    "phi3": ("<s>", "<|endoftext|>"),
    "qwen": (None, "<|im_end|>"),
    "smolvlm": ("<|im_start|>", "<end_of_utterance>"),
}
NEVER_SPECIAL = frozenset({"<think>", "</think>", "<tool_call>", "</tool_call>"})

# How Qwen and Llama 3 split text into words: line breaks stay together, whatever follows them.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = [
    "what is the answer to this question of mine, and why is it so?\n\n",
    "you are an assistant user system model tool\n<think>\n\n</think>\n\n",
    '{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}\n',
    "Today Date: 26 Jul 2024\n\nEnvironment: ipython\n",
]


def trl_templates() -> dict[str, str]:
    """Every chat template that TRL ships, by name."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations))) / "chat_templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


@functools.cache
def _trained(words: str | None) -> str:
    """Byte-level BPE that splits text by a pattern, or by GPT-2's where there is none."""
    tokenizer = Tokenizer(models.BPE())
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)
    split = [] if words is None else [pre_tokenizers.Split(Regex(words), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, levels])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer.to_str()


@functools.cache
def _trained_metaspace() -> str:
    """BPE over characters with a space put before each text, as SentencePiece's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    alphabet = [chr(code) for code in range(33, 127)] + ["\n", "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, min_frequency=1, special_tokens=["<unk>"]
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer.to_str()


def _with_special_tokens(
    trained: str,
    template: str | None,
    bos: str | None,
    eos: str | None,
    further: tuple[str, ...],
    *,
    rstrip: bool = False,
    ordinary: Set[str] = frozenset(),
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(trained)
    found = set(TOKEN_PATTERN.findall(template or "")) | {text for text in OTHER_TOKENS if text in (template or "")}
    found |= {text for text in (bos, eos, *further) if text}
    tokenizer.add_tokens(
        [
            AddedToken(text, special=text not in NEVER_SPECIAL | ordinary, normalized=False, rstrip=rstrip)
            for text in sorted(found)
        ]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    fast.chat_template = template
    return fast


def small_tokenizer(
    template: str | None,
    *,
    bos: str | None = None,
    eos: str | None = None,
    further: tuple[str, ...] = (),
    ordinary: Set[str] = frozenset(),
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that has, as one token each, all special tokens that stand in a template.

    Those in ``ordinary`` are added tokens, but not marked as special, as DeepSeek's ``<｜User｜>``.
    """
    return _with_special_tokens(_trained(WORDS), template, bos, eos, further, ordinary=ordinary)


def gpt2_like_tokenizer(template: str, *, bos: str | None, eos: str | None) -> PreTrainedTokenizerFast:
    """The same, but it splits text as GPT-2 does: the last white space before a word goes with the word."""
    return _with_special_tokens(_trained(None), template, bos, eos, ())


def metaspace_tokenizer(template: str, *, bos: str | None, eos: str | None) -> PreTrainedTokenizerFast:
    """SentencePiece's ways, and special tokens that swallow the white space after them, as Phi-3's do."""
    further = ("<|user|>", "<|assistant|>", "<|system|>")
    return _with_special_tokens(_trained_metaspace(), template, bos, eos, further, rstrip=True)


def family_tokenizer(name: str, template: str) -> PreTrainedTokenizerFast:
    """The small tokenizer for a named template, with the family's tokens at the beginning and end of texts."""
    family = max((prefix for prefix in BOS_AND_EOS if name.startswith(prefix)), key=len)
    bos, eos = BOS_AND_EOS[family]
    return small_tokenizer(template, bos=bos, eos=eos)
