"""Seeded mutations of valid files: what disks, editors, exports and hasty scripts do to data."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]

_TOKENS = (b"null", b"NaN", b"1e999", b"[]", b"{}", b'""', b"true", b"-0", b"12345678901234567890", b"'a'", b"// x")
_PIECES = (
    b"\x00",
    b"\r",
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    b'"',
    b"\\",
)
_PIECES += (
    b",",
    b"}",
    b"]",
    b"{",
    b"[",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"<|im_end|>",
    b"\x1b[0m",
    b"jane@mail.org",
    b"\t",
)
_KEYS = (b"role", b"content", b"messages", b"prompt", b"completion", b"from", b"value", b"tools", b"weight", b"chosen")


def valid_files(rows: int = 12) -> dict[str, bytes]:
    """One valid file of each kind and format, by name."""
    texts = [(f"what is {n} and {n + 1}? é\u2028ü", f"it is {2 * n + 1}, says \U0001f642") for n in range(rows)]
    chat = [
        {"messages": [{"role": "system", "content": "be brief"}] * (n % 2)
         + [{"role": "user", "content": q}, {"role": "assistant", "content": a}] * (1 + n % 3)}
        for n, (q, a) in enumerate(texts)
    ]  # fmt: skip
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    tools = [
        {"messages": [
            {"role": "user", "content": q},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            {"role": "assistant", "content": a, "weight": 1},
        ], "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}]}
        for q, a in texts
    ]  # fmt: skip
    sharegpt = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in texts]
    alpaca = [{"instruction": q, "input": "" if n % 2 else "so", "output": a} for n, (q, a) in enumerate(texts)]
    pairs = [{"prompt": q, "completion": a, "id": n} for n, (q, a) in enumerate(texts)]
    sides = [{"prompt": q, "chosen": a, "rejected": "no"} for q, a in texts]
    csv = "prompt,completion\n" + "".join(f'"{q}","{a}"\n' for q, a in texts)
    return {
        "chat.jsonl": _lines(chat),
        "tools.jsonl": _lines(tools),
        "sharegpt.jsonl": _lines(sharegpt),
        "alpaca.json": json.dumps(alpaca, indent=1, ensure_ascii=False).encode(),
        "pairs.jsonl": _lines(pairs),
        "array.json": json.dumps(pairs).encode(),
        "sides.jsonl": _lines(sides),
        "table.csv": csv.encode(),
        "table.tsv": csv.replace('","', '"\t"').replace(",", "\t", 1).encode(),
    }


def mutated(content: bytes, rng: random.Random) -> bytes:
    """``content`` after one to four mutations."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(_MUTATIONS)(content, rng)
    return content


def _lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _flip(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(max(len(content), 1))
    return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]


def _delete(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(max(len(content), 1))
    return content[:at] + content[at + rng.choice((1, 1, 2, 5, 40, 400)) :]


def _insert(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice((*_PIECES, rng.randbytes(3))) + content[at:]


def _replace_value(content: bytes, rng: random.Random) -> bytes:
    at = content.find(b":", rng.randrange(max(len(content), 1)))
    end = min((place for sign in (b",", b"}") if (place := content.find(sign, at)) > 0), default=len(content))
    return content if at < 0 else content[: at + 1] + rng.choice(_TOKENS) + content[end:]


def _replace_key(content: bytes, rng: random.Random) -> bytes:
    key = rng.choice(_KEYS)
    places = [at for at in range(len(content)) if content.startswith(b'"' + key + b'"', at)]
    if not places:
        return content
    at = rng.choice(places)
    other = rng.choice((*_KEYS, b"x", key.upper(), key[:-1]))
    return content[: at + 1] + other + content[at + 1 + len(key) :]


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _on_lines(change: Callable[[list[bytes], random.Random], None]) -> Mutation:
    def mutation(content: bytes, rng: random.Random) -> bytes:
        lines = content.split(b"\n")
        change(lines, rng)
        return b"\n".join(lines)

    return mutation


def _swap(lines: list[bytes], rng: random.Random) -> None:
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]


def _repeat(lines: list[bytes], rng: random.Random) -> None:
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))


def _blank(lines: list[bytes], rng: random.Random) -> None:
    lines.insert(rng.randrange(len(lines)), rng.choice((b"", b"  ", b"\t", b"null", b"[]", b"#", b"{}")))


def _join(lines: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(lines))
    lines[at : at + 2] = [b" ".join(lines[at : at + 2])]


def _nest(lines: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(lines))
    depth = rng.choice((3, 70, 3000))
    lines[at] = b'{"prompt": "a", "completion": "b", "x": ' + b"[" * depth + b"]" * depth + b"}"


def _encode(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("utf-8", errors="replace")
    return text.encode(rng.choice(("utf-16", "utf-16-be", "utf-32", "latin-1", "cp1252")), errors="replace")


def _windows(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\xef\xbb\xbf")) + content.replace(b"\n", rng.choice((b"\r\n", b"\r\n", b"\r")))


_MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _delete, _insert, _insert, _replace_value, _replace_value, _replace_key, _replace_key, _truncate),
    *(_on_lines(_swap), _on_lines(_repeat), _on_lines(_blank), _on_lines(_join), _on_lines(_nest), _encode, _windows),
)
