"""JSON Schema as a table of nodes, each with what a value there may be; what cannot be held to is refused.

Source: JSON Schema, draft 2020-12; the part of it that OpenAI's structured outputs use. Keywords that describe and do
not bind (``title``, ``description``, ``default``) are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hone.serve.wire import ApiError

__all__ = ["ANY", "Node", "SchemaNodes", "read_schema"]

ANY = 0
"""Place of the node that any value fits."""

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_DESCRIBING = frozenset(
    {"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated"}
)
_BINDING = frozenset(
    {"type", "enum", "const", "anyOf", "$ref", "properties", "required", "additionalProperties", "items", "minItems",
     "maxItems"}
)  # fmt: skip
_MOST_NESTED = 64
_PARAM = "response_format"


@dataclass(frozen=True, slots=True)
class Node:
    """What a value may be.

    Args:
        types: names of JSON types; empty where ``literals`` or ``alternatives`` say it.
        literals: texts of values, where only some are allowed.
        alternatives: places of nodes, one of which it must fit.
        properties: (key's texts, place of the value's node, whether it must be there) of an object, in their order.
        values: place of the node of values under any other key; None where there are no other keys.
        items: place of the node of an array's items.
        fewest: items.
        most: items; None for no limit.
    """

    types: tuple[str, ...] = ()
    literals: tuple[str, ...] = ()
    alternatives: tuple[int, ...] = ()
    properties: tuple[tuple[tuple[str, ...], int, bool], ...] = ()
    values: int | None = None
    items: int = ANY
    fewest: int = 0
    most: int | None = None


SchemaNodes = tuple[Node, ...]


def read_schema(schema: Any) -> tuple[SchemaNodes, int]:
    """The nodes of a schema and the place of its root.

    Raises:
        ApiError: it is no schema, or uses a keyword that cannot be held to here; it is named.
    """
    reader = _Reader(schema)
    root = reader.place(schema, "schema")
    nodes = tuple(reader.nodes)
    _refuse_endless_choice(nodes)
    return nodes, root


class _Reader:
    def __init__(self, whole: Any) -> None:
        self._whole = whole
        self._references: dict[str, int] = {}
        self.nodes: list[Node] = [Node(types=_TYPES, values=ANY)]

    def place(self, schema: Any, where: str) -> int:
        """The place of a schema's node, read now."""
        if schema is True:
            return ANY
        if not isinstance(schema, Mapping) or where.count(".") > _MOST_NESTED:
            raise _refused(f"{where[:200]} is no JSON schema, or is nested too deeply")
        if "$ref" in schema:
            if beside := sorted(set(schema) & _BINDING - {"$ref"}):
                raise _refused(f"{where}: {', '.join(beside)} beside $ref cannot be held to by this server")
            return self._referred(schema["$ref"], where)
        self.nodes.append(Node())
        place = len(self.nodes) - 1
        self.nodes[place] = self._node(schema, where)
        return place

    def _referred(self, reference: Any, where: str) -> int:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise _refused(f"{where}: $ref must name a place within the schema, as #/$defs/name")
        if reference in self._references:
            return self._references[reference]
        target = self._whole
        for part in reference.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or name not in target:
                raise _refused(f"{where}: $ref {reference!r} names nothing")
            target = target[name]
        if isinstance(target, Mapping) and "$ref" in target:
            raise _refused(f"{where}: $ref {reference!r} leads to another $ref")
        # the place is known before the node is read: a schema may hold itself
        self.nodes.append(Node())
        self._references[reference] = place = len(self.nodes) - 1
        self.nodes[place] = self._node(target, reference)
        return place

    def _node(self, schema: Any, where: str) -> Node:
        if not isinstance(schema, Mapping):
            raise _refused(f"{where} is no JSON schema")
        unknown = sorted(set(schema) - _DESCRIBING - _BINDING)
        if unknown:
            raise _refused(f"{where}: {', '.join(unknown)} cannot be held to by this server")
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            if not isinstance(values, list) or not values or set(schema) & (_BINDING - {"const", "enum", "type"}):
                raise _refused(f"{where}: enum needs a list of values, and stands with nothing but type")
            named = schema.get("type")
            types = [named] if isinstance(named, str) else named
            fitting = [value for value in values if types is None or any(_is_of(value, one) for one in types)]
            if not fitting:
                raise _refused(f"{where}: no value of enum has the type {named}")
            return Node(literals=tuple(text for value in fitting for text in _texts(value)))
        if "anyOf" in schema:
            if not isinstance(schema["anyOf"], list) or not schema["anyOf"] or set(schema) & (_BINDING - {"anyOf"}):
                raise _refused(f"{where}: anyOf needs a list of schemas, and stands alone")
            return Node(alternatives=tuple(self.place(one, f"{where}.anyOf") for one in schema["anyOf"]))
        return self._typed(schema, where)

    def _typed(self, schema: Mapping[str, Any], where: str) -> Node:
        named = schema.get("type", "object" if "properties" in schema else list(_TYPES))
        types = [named] if isinstance(named, str) else named
        if not isinstance(types, list) or not types or not all(one in _TYPES for one in types):
            raise _refused(f"{where}: type is one of {', '.join(_TYPES)}, or a list of them")
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise _refused(f"{where}: properties is an object and required a list of its keys")
        if missing := [str(name) for name in required if name not in properties]:
            raise _refused(f"{where}: required names {', '.join(missing)}, which properties does not have")
        further = schema.get("additionalProperties", True)
        # an object with named properties gets no others: none has to be there, and so the schema is kept
        closed = bool(properties) or further is False
        fewest, most = schema.get("minItems", 0), schema.get("maxItems")
        if not all(isinstance(one, int) and one >= 0 for one in (fewest, 0 if most is None else most)):
            raise _refused(f"{where}: minItems and maxItems are whole numbers")
        return Node(
            types=tuple(types),
            properties=tuple(
                (_texts(name), self.place(one, f"{where}.{name}"), name in required) for name, one in properties.items()
            ),
            values=None if closed else self.place(further, f"{where}.additionalProperties"),
            items=self.place(schema.get("items", True), f"{where}.items"),
            fewest=fewest,
            most=most,
        )


def _is_of(value: Any, name: Any) -> bool:
    """Whether a value has a JSON type."""
    if isinstance(value, bool) or value is None:
        return bool(name == ("null" if value is None else "boolean"))
    if isinstance(value, int | float):
        return name == "number" or (name == "integer" and float(value).is_integer())
    return bool(name == ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"))


def _refuse_endless_choice(nodes: SchemaNodes) -> None:
    """Refuse alternatives that lead back to themselves with nothing written in between."""
    for start in range(len(nodes)):
        seen, front = set[int](), set(nodes[start].alternatives)
        while front:
            if start in front:
                raise _refused("anyOf leads back to itself")
            seen |= front
            front = {one for place in front for one in nodes[place].alternatives} - seen


def _texts(value: Any) -> tuple[str, ...]:
    """How a value may be written: as it stands, or in plain letters for a tokenizer that has no others."""
    return tuple(dict.fromkeys(json.dumps(value, ensure_ascii=ascii) for ascii in (False, True)))


def _refused(message: str) -> ApiError:
    return ApiError(message, param=_PARAM, code="unsupported_response_format")
