"""A tokenizer as GGUF metadata: tokens, merges, how text is split, special tokens, chat template and stop tokens.

Only what llama.cpp reads as the same tokens is written. Its name for the rule by which a text is split before the
merges (``tokenizer.ggml.pre``) is found from the tokenizer's own rule; a rule that has no name here is refused, because
under a wrong one numbers and white space become other tokens than those that the model was trained on.

Source: llama.cpp, ``src/llama-vocab.cpp`` (the rules by name) and ``convert_hf_to_gguf.py`` (the keys).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from hone.errors import ModelError

__all__ = ["SPLITTING_RULES", "GgufVocabulary", "read_vocabulary"]

# Rules as the tokenizers library states them, by llama.cpp's name. `gpt-2`: GPT-2's own; `smollm`: digits one by one,
# then GPT-2's; the other two differ in how many digits stay together.
_CASES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_REGEX_NAMES = {f"{_CASES}\\p{{N}}{{1,3}}{_REST}": "llama-bpe", f"{_CASES}\\p{{N}}{_REST}": "qwen2"}
SPLITTING_RULES = ("gpt-2", "llama-bpe", "qwen2", "smollm")
"""Rules for splitting text that can be written, by llama.cpp's names."""

_MOST_STOPS = 3  # the end of a text, of a turn and of a message: what a GGUF has places for
_WHY = "under another rule the model would read other tokens than those it was trained on"
_REMEDY = "export to merged, which keeps the tokenizer as it is"


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """A vocabulary as llama.cpp reads it.

    Args:
        rule: llama.cpp's name of how text is split.
        tokens: text of each id, in the byte-level alphabet.
        types: kind of each id.
        merges: pairs in the order of their priority.
        special_ids: ids by their place in the file (``bos``, ``pad``, ``unk``).
        stop_ids: ids that end an answer, the one that the template writes first.
        chat_template: Jinja.
    """

    rule: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...]
    special_ids: Mapping[str, int]
    stop_ids: tuple[int, ...]
    chat_template: str

    def write(self, writer: GGUFWriter) -> None:
        """Add it to a file's metadata.

        ``add_bos_token`` is false: the chat template's text holds the beginning of a text where the model has one, and
        with both it would stand there twice.
        """
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.rule)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        writer.add_token_merges(list(self.merges))
        places = {"bos": writer.add_bos_token_id, "pad": writer.add_pad_token_id, "unk": writer.add_unk_token_id}
        for name, token in self.special_ids.items():
            places[name](token)
        stops = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
        for add, token in zip(stops, self.stop_ids, strict=False):
            add(token)
        writer.add_add_bos_token(False)
        writer.add_add_space_prefix(False)
        writer.add_chat_template(self.chat_template)


def read_vocabulary(
    tokenizer: PreTrainedTokenizerBase, *, num_rows: int, chat_template: str, stop_ids: Sequence[int]
) -> GgufVocabulary:
    """The vocabulary of a tokenizer, in llama.cpp's terms.

    Args:
        tokenizer: a fast one.
        num_rows: rows of the model's embedding; ids without a token are filled up as unused.
        chat_template: what to store, Jinja.
        stop_ids: ids that end an answer; at most three.

    Raises:
        ModelError: it is no byte-level BPE tokenizer, splits text by a rule that is not known here, changes text before
            it splits it, or ends answers with more than three tokens.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    stated: Any = json.loads(backend.to_str()) if backend is not None else {"model": {"type": "slow"}}
    where = str(tokenizer.name_or_path) or None
    if stated["model"]["type"] != "BPE" or (stated.get("decoder") or {}).get("type") != "ByteLevel":
        raise _refused(f"its tokenizer is no byte-level BPE ({stated['model']['type']})", where)
    if stated["model"].get("byte_fallback") or stated["model"].get("continuing_subword_prefix"):
        raise _refused("its tokenizer falls back to bytes, or marks pieces of a word", where)
    if (stated.get("normalizer") or {"type": "NFC"})["type"] != "NFC":
        raise _refused(f"its tokenizer changes text before it splits it ({stated['normalizer']['type']})", where)
    if not 1 <= len(stop_ids) <= _MOST_STOPS:
        raise _refused(f"{len(stop_ids)} tokens end its answers; a GGUF names one to {_MOST_STOPS}", where)
    added = {entry["id"]: entry for entry in stated["added_tokens"]}
    whole: Any = tokenizer
    texts: dict[int, str] = {number: text for text, number in whole.get_vocab().items()}
    tokens, types = [], []
    for number in range(num_rows):
        text = texts.get(number)
        special = number in added and (added[number]["special"] or number in stop_ids)
        tokens.append(f"[PAD{number}]" if text is None else text)
        kind = TokenType.USER_DEFINED if number in added else TokenType.NORMAL
        types.append(TokenType.UNUSED if text is None else TokenType.CONTROL if special else kind)
    special_ids = {
        name: getattr(tokenizer, f"{name}_token_id")
        for name in ("bos", "pad", "unk")
        if getattr(tokenizer, f"{name}_token_id") is not None
    }
    merges = (" ".join(pair) if isinstance(pair, list) else str(pair) for pair in stated["model"]["merges"])
    return GgufVocabulary(
        _rule(stated, where), tuple(tokens), tuple(types), tuple(merges), special_ids, tuple(stop_ids), chat_template
    )


def _rule(stated: Mapping[str, Any], where: str | None) -> str:
    """llama.cpp's name of a tokenizer's rule for splitting text."""
    outer = stated.get("pre_tokenizer") or {}
    parts = outer.get("pretokenizers", [outer])
    kinds = [part.get("type") for part in parts]
    last = parts[-1]
    by_gpt2 = kinds[-1] == "ByteLevel" and last.get("use_regex", True) and not last.get("add_prefix_space")
    if by_gpt2 and kinds == ["ByteLevel"]:
        return "gpt-2"
    if by_gpt2 and kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True):
        name = _REGEX_NAMES.get(parts[0]["pattern"].get("Regex", ""), "")
        # llama.cpp keeps a word that is a token whole under Llama 3's rule, and under no other of these
        if name and bool(stated["model"].get("ignore_merges")) == (name == "llama-bpe"):
            return name
    raise _refused("its tokenizer splits text by a rule that has no name here", where)


def _refused(what: str, where: str | None) -> ModelError:
    known = ", ".join(SPLITTING_RULES)
    return ModelError(
        f"cannot be written as GGUF: {what}", where=where, why=_WHY, remedy=f"{_REMEDY}; written are: {known}"
    )
