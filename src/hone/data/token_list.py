"""The tokens to add: written on the command line, or one a line in a file."""

from __future__ import annotations

from pathlib import Path

from hone.errors import DataError

__all__ = ["read_token_list"]


def read_token_list(given: str) -> list[str]:
    """The tokens that ``given`` names.

    Args:
        given: the path of a UTF-8 file with one token a line, or the tokens themselves with commas between.

    Returns:
        The tokens without the space around them, in their order.

    Raises:
        DataError: there is none, one stands twice, or the file is no UTF-8; every double is named.
    """
    path = Path(given)
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else given.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the file of tokens cannot be read: {error}", where=given) from error
    places: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        token = line.strip()
        if token in places:
            problems.append(f"{given}:{number}: {token!r} stands in line {places[token]} already")
        elif token:
            places[token] = number
    if problems or not places:
        raise DataError(
            f"{len(problems)} tokens are given twice" if problems else "there is no token in it",
            where=given if path.is_file() else "--add-tokens",
            details=problems,
            remedy="give a file with one token a line, or tokens with commas between",
        )
    return list(places)
