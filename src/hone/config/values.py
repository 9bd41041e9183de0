"""What a value of an option may look like in a config file or on a command line; pydantic calls these first."""

from __future__ import annotations

import re

__all__ = ["byte_size", "column_mapping", "name_list", "no_truth_value", "on_or_off", "share_or_count"]


def no_truth_value(value: object) -> object:
    """A value that is no truth value: YAML reads a bare `yes` or `off` as one, and Python counts those as 1 and 0.

    Raises:
        ValueError: it is one.
    """
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def share_or_count(value: object) -> float | int:
    """A share between 0 and 1, or a whole number of rows; text as it comes from a command line is read.

    Raises:
        ValueError: it is neither; pydantic makes a problem of it.
    """
    message = "must be a share of the rows between 0 and 1, as 0.1, or a whole number of rows, as 40"
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            raise ValueError(message) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(message)
    if isinstance(value, float) and not 0 < value < 1:
        raise ValueError(message)
    if value < 0:
        raise ValueError(message)
    return value


def byte_size(value: object) -> object:
    """``6GB``, ``512MiB`` or a number of bytes.

    Raises:
        ValueError: it is none of these.
    """
    if not isinstance(value, str) or value.isdigit():
        return no_truth_value(value)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(i?)B\s*", value, re.IGNORECASE)
    if found is None:
        raise ValueError("must be a size, as 6GB or 512MiB, or a number of bytes")
    unit = (1024 if found[3] else 1000) ** ("KMGT".index(found[2].upper()) + 1)
    return int(float(found[1]) * unit)


def column_mapping(value: object) -> object:
    """``prompt=question,completion=answer`` as a mapping; a mapping stays as it is.

    Raises:
        ValueError: it does not read so.
    """
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in value.split(",")]
    if not all(separator and field.strip() and column.strip() for field, separator, column in pairs):
        raise ValueError("must read prompt=COLUMN,completion=COLUMN")
    return {field.strip(): column.strip() for field, _, column in pairs}


def name_list(value: object) -> object:
    """``base,tuned`` as a list; a list stays as it is."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def on_or_off(value: object) -> object:
    """``on`` or ``off``, which YAML reads as a truth value where they stand bare."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value
