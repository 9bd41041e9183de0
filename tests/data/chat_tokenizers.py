"""Small tokenizers for real chat templates: byte-level BPE with the special tokens that a template writes."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TOKEN_PATTERN = re.compile(r"<[|｜][^<>|｜\s'\"]+?[|｜]>|<[a-z_]+\|>|<\|[a-z_]+>|</?(?:think|tool_call)>|\[gMASK\]|<sop>")
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
NEVER_SPECIAL = {"<think>", "</think>", "<tool_call>", "</tool_call>"}

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
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer.to_str()


def small_tokenizer(
    template: str | None, *, bos: str | None = None, eos: str | None = None, further: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that has, as one token each, all special tokens that stand in a template."""
    tokenizer = Tokenizer.from_str(_trained())
    found = set(TOKEN_PATTERN.findall(template or "")) | {text for text in OTHER_TOKENS if text in (template or "")}
    found |= {text for text in (bos, eos, *further) if text}
    tokenizer.add_tokens([AddedToken(text, special=text not in NEVER_SPECIAL, normalized=False) for text in sorted(found)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    fast.chat_template = template
    return fast


def family_tokenizer(name: str, template: str) -> PreTrainedTokenizerFast:
    """The small tokenizer for a named template, with the family's tokens at the beginning and end of texts."""
    family = max((prefix for prefix in BOS_AND_EOS if name.startswith(prefix)), key=len)
    bos, eos = BOS_AND_EOS[family]
    return small_tokenizer(template, bos=bos, eos=eos)
