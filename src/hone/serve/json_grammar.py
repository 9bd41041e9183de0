"""Which characters may come next in a JSON text that fits a schema: a parser that is fed one character at a time.

A state is what is still to come, as a stack of symbols; because a schema may leave a choice (``anyOf``, an optional
key), there are several at a time. Numbers, indentation and nesting are bounded; a string is bounded by the answer's
length alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hone.serve.json_schema import Node, SchemaNodes
from hone.serve.wire import ApiError

__all__ = ["JsonGrammar", "States"]

_SPACES = " \n\t"
_MOST_SPACES = 24
_MOST_DEPTH = 32
_DIGITS, _HEX = "0123456789", "0123456789abcdefABCDEF"
_WHOLE_DIGITS, _FURTHER_DIGITS, _EXPONENT_DIGITS = 15, 15, 2


@dataclass(frozen=True, slots=True)
class _Symbol:
    """Something that is still to come.

    Args:
        kind: ``text`` (these characters), ``spaces``, ``string`` (the rest of a string), ``number``, ``value``,
            ``member`` (what may follow in an object), ``item`` (in an array).
        text: the characters of a text; the state of a string or number.
        node: place of the schema's node.
        count: spaces or digits so far, properties or items passed.
        first: whether nothing has come in the object or array yet.
        depth: of nesting.
    """

    kind: str
    text: str = ""
    node: int = 0
    count: int = 0
    first: bool = False
    depth: int = 0


_Stack = tuple[_Symbol, ...]  # the next one last
States = frozenset[_Stack]


class JsonGrammar:
    """The texts of values that fit a schema.

    Args:
        nodes: from :func:`hone.serve.json_schema.read_schema`.
        root: place of the value's node.

    Raises:
        ApiError: every text that fits would be nested without end.
    """

    def __init__(self, nodes: SchemaNodes, root: int) -> None:
        self._nodes = nodes
        self._heights = _heights(nodes)
        if self._heights[root] > _MOST_DEPTH:
            raise ApiError("no text fits the schema", param="response_format", code="unsupported_response_format")
        self.start: States = frozenset({(_Symbol("value", node=root),)})
        self._ready = functools.lru_cache(maxsize=4096)(self._expanded)

    def after(self, states: States, text: str) -> States:
        """The states after a text; none where it does not fit."""
        for character in text:
            states = frozenset(
                following for stack in states for ready in self._ready(stack) for following in _taken(ready, character)
            )
            if not states:
                break
        return states

    def is_complete(self, states: States) -> bool:
        """Whether the value may end here."""
        return any(not ready for stack in states for ready in self._ready(stack))

    def _expanded(self, stack: _Stack) -> tuple[_Stack, ...]:
        """The same with a symbol on top that takes a character, in every way; empty where nothing has to come."""
        if not stack:
            return (stack,)
        top, rest = stack[-1], stack[:-1]
        if top.kind in ("value", "member", "item"):
            ways = {"value": self._value, "member": self._member, "item": self._item}[top.kind](top)
            return tuple(ready for way in ways for ready in self._expanded((*rest, *reversed(way))))
        if (top.kind == "spaces") or (top.kind == "number" and top.text in ("zero", "whole", "further", "power")):
            return (stack, *self._expanded(rest))  # it may end here as well
        return (stack,)

    def _value(self, top: _Symbol) -> Iterator[_Stack]:
        node, depth = self._nodes[top.node], top.depth
        yield from ((_Symbol("text", text),) for text in node.literals)
        for place in node.alternatives:
            if self._fits(place, depth):
                yield (_Symbol("value", node=place, depth=depth),)
        for name in node.types:
            if name == "string":
                yield _Symbol("text", '"'), _Symbol("string", "body")
            elif name in ("number", "integer"):
                yield (_Symbol("number", "start", first=name == "integer"),)
            elif name == "boolean":
                yield from ((_Symbol("text", text),) for text in ("true", "false"))
            elif name == "null":
                yield (_Symbol("text", "null"),)
            elif depth + _height(name, node, self._heights) <= _MOST_DEPTH:
                opening, inside = ("{", "member") if name == "object" else ("[", "item")
                yield _Symbol("text", opening), _space(), _Symbol(inside, node=top.node, first=True, depth=depth + 1)

    def _member(self, top: _Symbol) -> Iterator[_Stack]:
        node = self._nodes[top.node]
        left = node.properties[top.count :]
        comma = () if top.first else (_Symbol("text", ","), _space())
        if not any(required for _, _, required in left):
            yield (_Symbol("text", "}"),)
        for place, (keys, value, required) in enumerate(left, top.count + 1):
            following = _Symbol("member", node=top.node, count=place, depth=top.depth)
            for key in keys if self._fits(value, top.depth) else ():
                yield *comma, _Symbol("text", key), *self._keyed(value, top.depth), following
            if required:
                return
        if node.values is not None and self._fits(node.values, top.depth):
            following = _Symbol("member", node=top.node, count=top.count, depth=top.depth)
            name = (_Symbol("text", '"'), _Symbol("string", "body"))
            yield *comma, *name, *self._keyed(node.values, top.depth), following

    def _fits(self, node: int, depth: int) -> bool:
        """Whether a value of that node can still come to its end at this depth."""
        return depth + self._heights[node] <= _MOST_DEPTH

    def _keyed(self, value: int, depth: int) -> _Stack:
        return (
            _space(), _Symbol("text", ":"), _space(), _Symbol("value", node=value, depth=depth), _space(),
        )  # fmt: skip

    def _item(self, top: _Symbol) -> Iterator[_Stack]:
        node = self._nodes[top.node]
        if top.count >= node.fewest:
            yield (_Symbol("text", "]"),)
        if (node.most is None or top.count < node.most) and self._fits(node.items, top.depth):
            comma = () if top.first else (_Symbol("text", ","), _space())
            # beyond the fewest nobody counts where there is no limit, which keeps the states few
            count = top.count + 1 if node.most is not None or top.count < node.fewest else top.count
            following = _Symbol("item", node=top.node, count=count, depth=top.depth)
            yield *comma, _Symbol("value", node=node.items, depth=top.depth), _space(), following


def _heights(nodes: SchemaNodes) -> list[float]:
    """How deep the flattest value of each node is nested; infinite where every value holds another of its kind."""
    heights = [math.inf] * len(nodes)
    while True:
        found = [
            min(
                [0.0] * bool(node.literals)
                + [heights[place] for place in node.alternatives]
                + [_height(name, node, heights) for name in node.types],
                default=math.inf,
            )
            for node in nodes
        ]
        if found == heights:
            return heights
        heights = found


def _height(name: str, node: Node, heights: Sequence[float]) -> float:
    """How deep the flattest value of a node is nested, where it is of that JSON type."""
    if name == "object":
        return 1 + max((heights[value] for _, value, required in node.properties if required), default=0.0)
    if name == "array":
        return 1 + (heights[node.items] if node.fewest else 0.0)
    return 0.0


def _space() -> _Symbol:
    return _Symbol("spaces")


def _taken(stack: _Stack, character: str) -> Iterator[_Stack]:
    """The stack after a character, where the symbol on top takes it."""
    if not stack:
        return
    top, rest = stack[-1], stack[:-1]
    if top.kind == "text":
        if top.text[0] == character:
            yield (*rest, _Symbol("text", top.text[1:])) if top.text[1:] else rest
    elif top.kind == "spaces":
        if character in _SPACES and top.count < _MOST_SPACES:
            yield (*rest, _Symbol("spaces", count=top.count + 1))
    elif top.kind == "string":
        following = _in_string(top.text, character)
        if following is not None:
            yield (*rest, _Symbol("string", following)) if following else rest
    else:
        number = _in_number(top, character)
        if number is not None:
            yield (*rest, number)


def _in_string(state: str, character: str) -> str | None:
    """The state after a character within a string; empty at its end, None where it does not fit."""
    if state == "body":
        if character == '"':
            return ""
        if character == "\\":
            return "escape"
        return "body" if character >= " " and not "\ud800" <= character <= "\udfff" else None
    if state == "escape":
        return "u" if character == "u" else "body" if character in '"\\/bfnrt' else None
    # \uXXXX, never half of a surrogate pair, which no text has
    if character not in _HEX or (state == "ud" and character not in "01234567"):
        return None
    seen = state + ("d" if state == "u" and character in "dD" else "x")
    return "body" if len(seen) == len("uxxxx") else seen


def _in_number(top: _Symbol, character: str) -> _Symbol | None:
    """The symbol after a character of a number."""
    state, count, whole_only = top.text, top.count, top.first

    def now(text: str, count: int = 1) -> _Symbol:
        return _Symbol("number", text, count=count, first=whole_only)

    if character in _DIGITS:
        if state in ("start", "minus"):
            return now("zero" if character == "0" else "whole")
        limits = {"whole": _WHOLE_DIGITS, "further": _FURTHER_DIGITS, "power": _EXPONENT_DIGITS}
        if state in limits:
            return now(state, count + 1) if count < limits[state] else None
        following = {"point": "further", "exponent": "power", "sign": "power"}.get(state)
        return None if following is None else now(following)
    if character == "-" and state == "start":
        return now("minus")
    if whole_only:
        return None
    if character == "." and state in ("zero", "whole"):
        return now("point")
    if character in "eE" and state in ("zero", "whole", "further"):
        return now("exponent")
    return now("sign") if character in "+-" and state == "exponent" else None
