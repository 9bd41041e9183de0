"""The text family: debris of encodings, terminals and web pages, tokens of other formats, and answers that are none.

A row is looked through closely only where a cheap sign is there (:func:`worth_a_look`): one character, one word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hone.data.audit.secrets import secret_findings, secret_signs
from hone.data.faults import Finding
from hone.types import Role

__all__ = ["control_tokens_in", "is_refusal", "text_findings", "worth_a_look"]

Text = tuple[str, Role, str]

# UTF-8 read as Windows-1252 or Latin-1: a lead byte's letter, then a continuation byte's.
_MOJIBAKE = re.compile(
    "[\u00c2-\u00c3][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
    "|\u00e2\u20ac[\u0080-\u00bf\u0152\u0153\u2018-\u201e\u2020-\u2022\u2026\u2122\u00a6\u02dc\u2013\u2014]"
    "|\u00f0\u0178[\u0080-\u024f\u2018-\u2122]"
    "|\ufffd"
)
_MOJIBAKE_SIGNS = ("\u00c2", "\u00c3", "\u00e2\u20ac", "\u00f0\u0178", "\ufffd")
_ESCAPE = re.compile("\x1b\\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CONTROLS = (
    "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17"
    "\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f"
)
_HTML = re.compile(
    r"</?(?:p|div|span|br|hr|a|b|i|u|em|strong|ul|ol|li|table|tr|td|th|h[1-6]|img|script|style|body|html|head|font|"
    r"code|pre|blockquote)(?:\s[^<>]{0,200})?/?>|&(?:amp|lt|gt|quot|nbsp|#\d{2,5});",
    re.IGNORECASE,
)
# What chat formats frame turns with; a tokenizer reads it as structure where it knows it.
_CONTROL = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|begin_of_text|end_of_text|start_header_id|end_header_id|system|user|"
    r"assistant|end|channel|message|start|return|call|eom_id|python_tag|tool_call|tool_response)\|>"
    r"|<(?:start_of_turn|end_of_turn|bos|eos|pad|unk)>|</?s>|\[/?INST\]|<</?SYS>>|<\uff5c[^\uff5c]{1,40}\uff5c>"
)
_REFUSAL = re.compile(
    r"(?:i(?:['\u2019]m| am) (?:very |really |so )?sorry,? (?:but )?(?!i need\b)(?:i|that|this|as)\b"
    r"|sorry,? (?:but )?i (?:can|am|do)"
    r"|i (?:can(?:['\u2019]t|not)|am (?:not able|unable)|['\u2019]?m (?:not able|unable)) (?:to )?"
    r"(?:help|assist|provide|fulfil|comply|answer|discuss|do that|share|give|create|write|generate)"
    r"|i(?:['\u2019]m| am) (?:unable|not able) to|as an ai (?:language )?model|i (?:must|have to) (?:decline|refuse)"
    r"|i apologi[sz]e,? but|es tut mir leid, (?:aber )?ich kann|lo siento, (?:pero )?no puedo"
    r"|je suis d\u00e9sol\u00e9)",
    re.IGNORECASE,
)
_REFUSAL_SIGNS = frozenset("iIsSaAeElLjJ")
_WORD = re.compile(r"[^\W_]")
_SHOWN = 40


def worth_a_look(asked: str, context: str, answer: str) -> bool:
    """Whether a row's texts hold any sign of what :func:`text_findings` looks for; cheap, and never wrongly no."""
    text = f"{asked}\n{context}\n{answer}"
    if not text.isascii() and any(sign in text for sign in (*_MOJIBAKE_SIGNS, "\uff5c")):
        return True
    if "<" in text and (_HTML.search(text) or _CONTROL.search(text)):
        return True
    if "[INST]" in text or "[/INST]" in text or ("&" in text and _HTML.search(text)):
        return True
    if any(control in text for control in _CONTROLS):
        return True
    if is_refusal(answer) or not _WORD.search(answer):
        return True
    return secret_signs(text)


def text_findings(texts: Sequence[Text]) -> list[Finding]:
    """Everything that is found in the texts of one row, one of a kind for each text.

    Args:
        texts: (pointer, role, text).
    """
    found: list[Finding] = []
    last_answer = max((index for index, (_, role, _) in enumerate(texts) if role == "assistant"), default=None)
    for index, (pointer, _, text) in enumerate(texts):
        found += [(code, pointer, message) for code, message in _debris(text)]
        found += [(code, pointer, message) for code, message in secret_findings(text)]
        if index == last_answer and is_refusal(text):
            found.append(("refusal", pointer, f"the answer refuses: {_shown(text.strip())}"))
        if index == last_answer and text.strip() and not _WORD.search(text):
            found.append(("near_empty_answer", pointer, f"the answer is {_shown(text.strip())} alone"))
    return found


def is_refusal(answer: str) -> bool:
    """Whether an answer begins as refusals do, in English and a few other languages."""
    start = answer[:200].lstrip()
    return start[:1] in _REFUSAL_SIGNS and _REFUSAL.match(start) is not None


def control_tokens_in(text: str) -> list[str]:
    """The control tokens of well-known chat formats that stand in a text, each once."""
    return list(dict.fromkeys(match.group() for match in _CONTROL.finditer(text)))


def _debris(text: str) -> Iterator[tuple[str, str]]:
    if not text.isascii() and (garbled := _MOJIBAKE.search(text)):
        around = text[max(0, garbled.start() - 12) : garbled.end() + 12]
        yield "mojibake", f"letters garbled by a wrong encoding: {_shown(around)}"
    if not text.isprintable() and (escape := _ESCAPE.search(text)):
        yield "ansi", f"a control character: {escape.group()!r}"
    if tokens := control_tokens_in(text):
        yield "control_token", f"the text holds {', '.join(tokens[:3])}"
    if "<" in text or "&" in text:
        tag = _HTML.search(text)
        if tag and tag.group() not in tokens:
            yield "html", f"HTML: {_shown(tag.group())}"


def _shown(text: str) -> str:
    short = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return repr(short)
