"""A tokenizer as GGUF metadata: rules of splitting by llama.cpp's names; what it would split otherwise is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from gguf import TokenType
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hone.errors import ModelError
from hone.model.gguf_vocabulary import SPLITTING_RULES, GgufVocabulary, read_vocabulary
from tests.data.chat_tokenizers import CHATML, metaspace_tokenizer
from tests.tiny import tiny_tokenizer

# As the tokenizers of Llama 3 and of Qwen2 state them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def bytes_after(*first: Any, use_regex: bool) -> Any:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return pre_tokenizers.Sequence([*first, level]) if first else level


def read(tokenizer: PreTrainedTokenizerFast, stop_ids: Sequence[int] = (2,)) -> GgufVocabulary:
    return read_vocabulary(tokenizer, num_rows=352, chat_template=CHATML, stop_ids=stop_ids)


def split_by(pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


@pytest.mark.parametrize(
    ("pre_tokenizer", "rule"),
    [
        (bytes_after(use_regex=True), "gpt-2"),
        (bytes_after(pre_tokenizers.Digits(individual_digits=True), use_regex=True), "smollm"),
        (bytes_after(pre_tokenizers.Split(Regex(QWEN2), "isolated"), use_regex=False), "qwen2"),
    ],
)
def test_a_rule_has_llama_cpps_name(pre_tokenizer: Any, rule: str) -> None:
    assert read(split_by(pre_tokenizer)).rule == rule
    assert rule in SPLITTING_RULES


def test_llama_3s_rule_keeps_words_whole_that_are_tokens() -> None:
    tokenizer = split_by(bytes_after(pre_tokenizers.Split(Regex(LLAMA3), "isolated"), use_regex=False))
    with pytest.raises(ModelError, match="splits text by a rule"):
        read(tokenizer)
    tokenizer.backend_tokenizer.model.ignore_merges = True
    assert read(tokenizer).rule == "llama-bpe"


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        bytes_after(pre_tokenizers.Digits(individual_digits=False), use_regex=True),
        bytes_after(pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), use_regex=False),
        bytes_after(use_regex=False),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
    ],
)
def test_another_rule_is_refused_with_those_that_are_known(pre_tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="gpt-2, llama-bpe, qwen2, smollm"):
        read(split_by(pre_tokenizer))


def test_other_kinds_of_tokenizer_are_refused() -> None:
    with pytest.raises(ModelError, match="no byte-level BPE"):
        read(metaspace_tokenizer(CHATML, bos=None, eos="<|im_end|>"))
    lower = tiny_tokenizer()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ModelError, match="Lowercase"):
        read(lower)


@pytest.mark.parametrize("stop_ids", [(), (1, 2, 5, 6)])
def test_a_file_names_one_to_three_stop_tokens(stop_ids: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="end its answers"):
        read(tiny_tokenizer(), stop_ids)


def test_kinds_of_tokens() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<part>"])
    number = tokenizer.convert_tokens_to_ids("<part>")
    found = read(tokenizer)
    assert found.tokens[number] == "<part>"
    assert found.types[number] == TokenType.USER_DEFINED
    assert found.types[1] == TokenType.CONTROL
    assert found.types[40] == TokenType.NORMAL
    assert (len(found.tokens), found.tokens[-1], found.types[-1]) == (352, "[PAD351]", TokenType.UNUSED)
    assert found.special_ids == {"pad": 0}
    assert all(len(merge.split(" ")) == 2 for merge in found.merges)
