"""JSON read strictly: each fault by its code, and everything else as Python's own parser reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data.ledger import RowError
from hone.data.strict_json import MAX_NESTING, decode_json, decode_prefix

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@given(json_values, st.booleans(), st.sampled_from([None, 2]))
def test_every_json_value_reads_back_as_written(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert decode_json(f" \t{text}\r\n") == json.loads(text)


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("", "not_json", "expecting value"),
        ('{"a": 1', "truncated", "character 8"),
        ("{'a': 1}", "python_repr", "json.dumps"),
        ('{"a": 1,}', "trailing_comma", "comma"),
        ("[1, 2,]", "trailing_comma", "comma"),
        ('{"a": 1 // one\n}', "json_comment", "comments"),
        ('{"a": 1} {"a": 2}', "not_json", "more text"),
        ('{"a": NaN}', "not_finite", "NaN"),
        ('{"a": [-Infinity]}', "not_finite", "-Infinity"),
        ('{"a": 1e999}', "not_finite", "1e999"),
        ('{"a": ' + "9" * 5000 + "}", "not_finite", "too long"),
        ('{"a": 1, "b": 2, "a": 1}', "duplicate_keys", '"a" stands twice'),
        ('{"x": {"ä": 1, "ä": 2}}', "duplicate_keys", '"ä"'),
        (r'{"a": "\ud83d"}', "lone_surrogate", "ud83d"),
        (r'{"\udc00": 1}', "lone_surrogate", "udc00"),
        ('{"a": "\x00"}', "nul_byte", "character 8"),
        ("[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1), "too_deep", "64"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "too_deep", "64"),
    ],
)
def test_faults_are_named(text: str, code: str, hint: str) -> None:
    with pytest.raises(RowError) as caught:
        decode_json(text)
    assert caught.value.code == code
    assert hint in caught.value.reason


def test_bytes_that_are_not_utf8_are_named() -> None:
    text = b'{"a": "caf\xe9"}'.decode("utf-8", errors="surrogateescape")
    with pytest.raises(RowError, match="0xE9 at character 11") as caught:
        decode_json(text)
    assert caught.value.code == "invalid_utf8"


def test_what_is_allowed_stays_allowed() -> None:
    pair = decode_json(r'{"a": "\ud83d\ude00"}')
    assert pair == {"a": "\N{GRINNING FACE}"}
    assert decode_json('["\u2028", "\x85", "\\u0000"]') == ["\u2028", "\x85", "\0"]
    deepest = "[" * MAX_NESTING + "]" * MAX_NESTING
    assert decode_json(deepest)
    assert decode_json('{"a": "' + "[" * 200 + '"}')  # brackets within a text are no nesting
    assert decode_json('[{"a": 1}, {"a": 2}]')  # equal keys of two objects


def test_a_readable_fault_lets_the_reader_go_on() -> None:
    text = '{"a": NaN}, {"a": 2}'
    value, end, fault = decode_prefix(text, 0)
    assert (text[:end], fault.code if fault else None) == ('{"a": NaN}', "not_finite")
    assert list(value) == ["a"]
    assert decode_prefix(text, end + 2) == ({"a": 2}, len(text), None)


@given(st.text(alphabet='{}[]",:0123eE.-+ntrufals\\\x00NaN \n', max_size=40))
def test_what_is_accepted_is_what_python_reads(text: str) -> None:
    try:
        value = decode_json(text)
    except RowError:
        return  # any other error fails the test
    assert value == json.loads(text)
