"""JSON by constraint: every text that is allowed fits the schema, and every text that fits is allowed."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.serve.json_answers import JsonAnswer
from hone.serve.json_grammar import JsonGrammar
from hone.serve.json_schema import read_schema
from hone.serve.wire import ApiError
from hone.types import JsonDict

OBJECT = {"type": "object"}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "mood": {"enum": ["glad", "süß", 3, None]},
        "friends": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
        "note": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "boolean"}, "minItems": 1}]},
    },
    "required": ["name", "mood"],
    "additionalProperties": False,
}
# escaped, a character above these is two escapes, which the grammar does not write: it writes the character
TEXT = st.text(st.characters(max_codepoint=0xD7FF), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e4, 1e4, width=16) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def grammar(schema: Any) -> JsonGrammar:
    return JsonGrammar(*read_schema(schema))


def fits(schema: Any, text: str) -> bool:
    made = grammar(schema)
    return made.is_complete(made.after(made.start, text))


@given(st.dictionaries(TEXT, JSON, max_size=4), st.sampled_from([None, 2]), st.booleans())
def test_every_object_may_be_written(value: JsonDict, indent: int | None, escaped: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped)
    assert fits(OBJECT, text)
    assert not fits(OBJECT, text[:-1])
    assert not fits(OBJECT, text + "}")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", '"a"', "{", '{"a"}', '{"a":}', '{"a":1,}', "{'a':1}", '{"a":01}', '{"a":1.}', '{"a":+1}',
     '{"a":tru}', '{"a":"\n"}', '{"a":"\\x"}', '{"a":"\\ud800"}', '{"a":NaN}', '{a:1}', '{"a":1}{', "{" + '"a":{' * 40],
)  # fmt: skip
def test_what_is_no_object_is_refused(text: str) -> None:
    assert not fits(OBJECT, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "a", "mood": "glad"}', True),
        ('{"name": "a", "mood": "süß"}', True),
        ('{"name": "a", "mood": "s\\u00fc\\u00df"}', True),
        ('{"name": "a", "mood": null, "friends": [{"name": "b", "mood": 3}], "note": null}', True),
        ('{"name": "a", "age": -3, "mood": 3, "note": [true, false]}', True),
        ('{"mood": "glad", "name": "a"}', False),
        ('{"name": "a"}', False),
        ('{"name": "a", "mood": "sad"}', False),
        ('{"name": 3, "mood": "glad"}', False),
        ('{"name": "a", "age": 3.5, "mood": "glad"}', False),
        ('{"name": "a", "mood": "glad", "note": []}', False),
        ('{"name": "a", "mood": "glad", "other": 1}', False),
        ('{"name": "a", "mood": 3, "friends": [' + ",".join(['{"name": "b", "mood": 3}'] * 3) + "]}", False),
    ],
)
def test_a_schema_is_held_to(text: str, expected: bool) -> None:
    assert fits(PERSON, text) is expected


@pytest.mark.parametrize("schema", [OBJECT, PERSON, {"type": ["integer", "null"]}, {"const": {"a": [1, "ä"]}},
                                    {"type": "object", "additionalProperties": {"type": "number"}}])  # fmt: skip
def test_whatever_is_drawn_is_json_and_comes_to_an_end(schema: JsonDict) -> None:
    characters = [*map(chr, range(0x20, 0x7F)), "\n", "ü", "ß", "ä"]
    made = grammar(schema)
    for seed in range(8):
        draw, states, text = random.Random(seed), made.start, ""
        while not (made.is_complete(states) and (len(text) > 60 or draw.random() < 0.3)):
            ways = [(one, after) for one in characters if (after := made.after(states, one))]
            assert ways or made.is_complete(states), f"{text!r} cannot go on"
            if not ways:
                break
            # a long text is brought to its end: closing characters first
            closing = [way for way in ways if way[0] in '"}],:'] if len(text) > 60 else []
            one, states = draw.choice(closing or ways)
            text += one
            assert len(text) < 3000
        json.loads(text)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "pattern": "a+"}, "pattern"),
        ({"type": "object", "properties": {"a": {"type": "number", "minimum": 3}}}, "schema.a: minimum"),
        ({"oneOf": [{"type": "null"}]}, "oneOf"),
        ({"$ref": "#/$defs/none"}, "names nothing"),
        ({"$ref": "https://example.org/schema"}, "within the schema"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "leads back to itself"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "no text fits"),
        ({"type": "thing"}, "type is one of"),
        ({"enum": []}, "enum"),
        ({"enum": ["a"], "type": "integer"}, "no value of enum"),
        ({"required": ["a"], "type": "object"}, "required names a"),
        ("object", "no JSON schema"),
    ],
)
def test_what_cannot_be_held_to_is_refused_by_name(schema: Any, named: str) -> None:
    with pytest.raises(ApiError, match=named if named.isalpha() else None) as refused:
        grammar(schema)
    assert named in refused.value.what
    assert refused.value.param == "response_format"


def test_a_token_is_refused_by_its_text_and_an_end_before_the_text_is_whole() -> None:
    texts = ["<end>", "{", "}", '"', 'a": ', "1", "x", '"}', "\ufffd", "é"]

    def decode(tokens: Any) -> str:
        return "".join(texts[token] for token in tokens if token)

    answer = JsonAnswer(grammar(OBJECT), decode, [0])
    written: list[int] = []
    for token, expected in (
        (1, {1}), (3, {2, 3, 7}), (8, {1, 2, 3, 4, 5, 6, 8, 9}), (4, {1, 2, 3, 4, 5, 6, 8, 9}), (5, {1, 3, 5, 7}),
        (2, {2, 5}),
    ):  # fmt: skip
        assert {one for one in range(len(texts)) if answer(written, one)} == expected, decode(written)
        written.append(token)
    assert {one for one in range(len(texts)) if answer(written, one)} == {0}
