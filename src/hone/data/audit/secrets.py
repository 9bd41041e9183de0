"""Secrets and personal data: what they look like, what proves them, and how they are shown and replaced.

A pattern alone finds too much. Where a kind has check digits they are computed; where it has none, the surroundings
must fit (separators of a telephone number, a name before a password). Values that documents use as examples
(``example.com``, telephone numbers 555-01xx, all-equal digits) are left alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hone.data.audit import checksums

__all__ = [
    "KINDS",
    "Found",
    "PrivateKind",
    "Redactor",
    "find_private",
    "hidden",
    "mask",
    "secret_findings",
    "secret_signs",
]


@dataclass(frozen=True, slots=True)
class PrivateKind:
    """One kind of value that should not be learned.

    Args:
        name: as in a placeholder, ``EMAIL``.
        code: ``secret`` or ``personal_data``.
        words: as in a message, "an e-mail address".
        pattern: where it may stand; the group ``value``, where there is one, is the value itself.
        before: what may not end right before it. No pattern begins with a look behind: searching is then ten times as
            slow.
        signs: words in lower case of which one stands in every text with such a value; empty for numbers, whose sign
            is :data:`_NUMBERS`.
        check: whether what the pattern found is one.
    """

    name: str
    code: str
    words: str
    pattern: re.Pattern[str]
    before: re.Pattern[str]
    signs: tuple[str, ...]
    check: Callable[[str], bool] = lambda value: True

    @property
    def numeric(self) -> bool:
        """Whether a number is its sign."""
        return self.code == "personal_data" and self.name != "EMAIL"


@dataclass(frozen=True, slots=True)
class Found:
    """A value and its place in a text: characters ``start`` to ``end``."""

    kind: PrivateKind
    start: int
    end: int
    value: str


_EXAMPLE_MAIL = re.compile(
    r"@(?:[\w-]+\.)*(?:example(?:\.\w+)?|test|invalid|localhost|(?:your|my)?(?:domain|company|email|site)\.\w+)$", re.I
)
_COUNTING = "0123456789012345678901234567890"
_SEPARATORS = re.compile(r"[\s().\-/]")
_PLACEHOLDER_VALUE = re.compile(
    r"(?i)^(?:xxx|[*.<\[{$%_-]|your|my|example|test|none|null|true|false|change|password|secret)"
)


def _digits(text: str) -> str:
    return _SEPARATORS.sub("", text).lstrip("+")


def _is_mail(value: str) -> bool:
    return _EXAMPLE_MAIL.search(value) is None and ".." not in value


def _is_card(value: str) -> bool:
    digits = _digits(value)
    issuers = ("4", "51", "52", "53", "54", "55", "34", "37", "36", "6011", "65", "35", "2221", "2720", "62")
    lengths = (15,) if digits[:2] in ("34", "37") else (14,) if digits[:2] == "36" else (16, 19)
    return len(digits) in lengths and digits.startswith(issuers) and checksums.luhn(digits)


def _is_phone(value: str) -> bool:
    digits = _digits(value)
    if not 9 <= len(digits) <= 15 or len(set(digits)) < 4 or digits in _COUNTING:
        return False
    # 555-0100 to 555-0199 are kept free for fiction
    return re.search(r"55501\d\d$", digits) is None


def _is_address(value: str) -> bool:
    parts = [int(part) for part in value.split(".")]
    private = parts[0] in (0, 10, 127) or parts[:2] == [192, 168] or (parts[0] == 172 and 16 <= parts[1] <= 31)
    documentation = parts[:3] in ([192, 0, 2], [198, 51, 100], [203, 0, 113])
    return all(part < 256 for part in parts) and not private and not documentation and parts[0] < 224 and parts[0] > 9


def _looks_random(value: str) -> bool:
    """Whether a text has the spread of characters of a key rather than of a word."""
    counts = Counter(value)
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return bits > 3.0 and any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


def _is_password(value: str) -> bool:
    kinds = sum(any(test(c) for c in value) for test in (str.isdigit, str.islower, str.isupper))
    kinds += any(not c.isalnum() for c in value)
    return kinds >= 2 and _PLACEHOLDER_VALUE.match(value) is None and len(set(value)) > 3


_WORD_BEFORE = re.compile(r"\w\Z")


def _kind(
    code: str,
    name: str,
    words: str,
    pattern: str,
    check: Callable[[str], bool] = lambda value: True,
    *,
    signs: str = "",
    before: str = "",
) -> PrivateKind:
    behind = re.compile(before) if before else _WORD_BEFORE
    return PrivateKind(name, code, words, re.compile(pattern), behind, tuple(signs.split()), check)


_STREET = (
    r"\d{1,5}[A-Za-z]?,? (?:[NSEW]\.? )?(?:[A-Z][a-z]+ ){1,3}(?:Street|Avenue|Road|Lane|Drive|Boulevard|"
    r"Crescent|Terrace|Highway|Close|St\.|Ave\.|Rd\.|Ln\.|Dr\.|Blvd\.)(?=[\s,.;)]|$)"
    r"|[A-ZÄÖÜ][a-zäöüß]+(?:straße|strasse|allee|gasse) \d{1,4}[a-z]?\b"
)

KINDS: tuple[PrivateKind, ...] = (
    _kind("secret", "PRIVATE_KEY", "a private key", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"
          r"(?:[\s\S]{0,8000}?-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----)?", signs="-----begin"),
    _kind("secret", "AWS_KEY", "an AWS access key", r"(?:AKIA|ASIA)[0-9A-Z]{16}\b", _looks_random, signs="akia asia"),
    _kind("secret", "GITHUB_TOKEN", "a GitHub token", r"(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{50,})",
          signs="ghp_ gho_ ghs_ ghu_ ghr_ github_pat_"),
    _kind("secret", "GITLAB_TOKEN", "a GitLab token", r"glpat-[\w-]{20,}", signs="glpat-"),
    _kind("secret", "ANTHROPIC_KEY", "an Anthropic key", r"sk-ant-[\w-]{20,}", signs="sk-ant-"),
    _kind("secret", "OPENAI_KEY", "an OpenAI key",
          r"sk-(?!ant-)(?:proj-|svcacct-)?[A-Za-z0-9_-]{20,}", _looks_random, signs="sk-"),
    _kind("secret", "STRIPE_KEY", "a Stripe key", r"[rs]k_(?:live|test)_[A-Za-z0-9]{20,}", signs="k_live_ k_test_"),
    _kind("secret", "SLACK_TOKEN", "a Slack token", r"xox[abprs]-[A-Za-z0-9-]{10,}", signs="xox"),
    _kind("secret", "GOOGLE_KEY", "a Google API key", r"AIza[\w-]{35}(?![\w-])", signs="aiza"),
    _kind("secret", "HUGGINGFACE_TOKEN", "a Hugging Face token", r"hf_[A-Za-z]{30,}\b", signs="hf_"),
    _kind("secret", "SENDGRID_KEY", "a SendGrid key", r"SG\.[\w-]{16,32}\.[\w-]{16,64}", signs="sg."),
    _kind("secret", "NPM_TOKEN", "an npm token", r"npm_[A-Za-z0-9]{36}\b", signs="npm_"),
    _kind("secret", "PYPI_TOKEN", "a PyPI token", r"pypi-AgE[\w-]{50,}", signs="pypi-"),
    _kind("secret", "JWT", "a JSON web token", r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}", signs="eyj"),
    _kind("secret", "URL_PASSWORD", "a password in an address",
          r"[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,60}:(?P<value>[^\s:/@]{3,60})@[\w.-]+",
          lambda value: _PLACEHOLDER_VALUE.match(value) is None, signs="://"),
    _kind("secret", "PASSWORD", "a password or key",
          r"(?i)(?:password|passwd|pwd|secret|api[_ -]?key|access[_ -]?token|auth[_ -]?token|secret[_ -]?key)"
          r"""(?:["']?\s{0,3}[=:]\s{0,3}| is )["']?(?P<value>[^\s"',;]{7,127}[^\s"',;.:)!?])""", _is_password,
          signs="passw pwd secret api token"),
    _kind("personal_data", "EMAIL", "an e-mail address",
          r"[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}\b", _is_mail,
          signs="@", before=r"[\w.+-]\Z"),
    _kind("personal_data", "IBAN", "a bank account (IBAN)",
          r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b",
          lambda value: checksums.iban(value.replace(" ", ""))),
    _kind("personal_data", "CARD", "a payment card", r"\d(?:[ -]?\d){13,18}(?![\d-])", _is_card, before=r"[\d.-]\Z"),
    _kind("personal_data", "SSN", "a US social security number", r"\d{3}-\d{2}-\d{4}(?![\d-])",
          lambda value: checksums.us_ssn(_digits(value)), before=r"[\d-]\Z"),
    _kind("personal_data", "NHS_NUMBER", "an NHS number", r"(?i)NHS\D{0,20}(?P<value>\d{3} ?\d{3} ?\d{4})\b",
          lambda value: checksums.mod11_nhs(_digits(value)), signs="nhs"),
    _kind("personal_data", "AADHAAR", "an Aadhaar number", r"(?i)aadhaar\D{0,20}(?P<value>\d{4} ?\d{4} ?\d{4})\b",
          lambda value: checksums.verhoeff(_digits(value)), signs="aadhaar"),
    _kind("personal_data", "TAX_ID", "a German tax number",
          r"(?i)(?:steuer|idnr|tax)\D{0,30}(?P<value>\d{2} ?\d{3} ?\d{3} ?\d{3})\b",
          lambda value: checksums.steuer_id(_digits(value)), signs="steuer idnr tax"),
    _kind("personal_data", "DNI", "a Spanish identity number", r"\d{8}-?[A-HJ-NP-TV-Z]\b",
          lambda value: checksums.dni(value.replace("-", ""))),
    _kind("personal_data", "TAX_CODE", "an Italian tax code", r"[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b",
          checksums.codice_fiscale),
    _kind("personal_data", "BITCOIN_ADDRESS", "a Bitcoin address", r"[13][1-9A-HJ-NP-Za-km-z]{25,34}\b",
          checksums.base58_check),
    _kind("personal_data", "IP_ADDRESS", "a public IP address", r"\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)",
          _is_address, before=r"[\d.]\Z"),
    _kind("personal_data", "PHONE", "a telephone number",
          r"(?:\+\d{1,3}[ .-]?(?:\(0?\d{1,5}\)[ .-]?)?\d{1,5}(?:[ .-]?\d{2,5}){1,4}"
          r"|\(0?\d{2,5}\) ?\d{3,4}(?:[ .-]?\d{3,4}){1,2}"
          r"|\d{3}[.-]\d{3}[.-]\d{4}|0\d{2,4}[ /-]\d{3,4}(?:[ -]?\d{2,4}){1,2}|0[1-9]\d{8,9})(?![\d-]|\.\d|[+*/=])",
          _is_phone, before=r"[\w.+/-]\Z|\d \Z"),
    _kind("personal_data", "STREET_ADDRESS", "a street address", _STREET),
)  # fmt: skip

# Of the signs: characters that are quick to look for, and words as they are written.
_MARKS = ("_", "-", "@", "://")
_EXACT = ("AKIA", "ASIA", "AIza", "eyJ", "SG.")
_NAMED = ("passw", "pwd", "secret", "api", "token")
# What every number, address or account that is looked for has somewhere: a digit, and then more of it.
_NUMBERS = re.compile(
    r"[0-9](?:[0-9 ().\-/]{5,}[0-9]|[A-Za-z]?,? (?:[NSEW]\.? )?[A-Z][a-z]|[0-9] ?[A-Z0-9]{4}|[0-9]{7}-?[A-Z]"
    r"|[0-9][A-EHLMPRST][0-9][0-9]|[1-9A-HJ-NP-Za-km-z]{25})"
)
_STREET_SIGNS = ("straße ", "strasse ", "allee ", "gasse ")
# How far a value may reach from its sign: letters before an IBAN or a street, words between "NHS" and its number.
_REACH_BEFORE, _REACH_BEHIND = 48, 96


def secret_signs(text: str) -> bool:
    """Whether a text holds a sign of anything that :func:`find_private` may find; cheap, and never wrongly no."""
    if any(mark in text for mark in _MARKS) or any(word in text for word in _EXACT):
        return True
    return any(word in text.lower() for word in _NAMED) or bool(_number_windows(text))


def _number_windows(text: str) -> list[tuple[int, int]]:
    """The parts of a text where a number, an account or an address may stand; they do not overlap."""
    places = [match.span() for match in _NUMBERS.finditer(text)]
    if any(sign in text for sign in _STREET_SIGNS):
        places = [(0, len(text))]
    windows: list[tuple[int, int]] = []
    for start, end in places:
        start, end = max(0, start - _REACH_BEFORE), end + _REACH_BEHIND
        # a window ends where a word does, so that no value is taken for one that it only begins
        end = space if (space := text.find(" ", end)) >= 0 else len(text)
        if windows and start <= windows[-1][1]:
            windows[-1] = (windows[-1][0], max(end, windows[-1][1]))
        else:
            windows.append((start, end))
    return windows


def _matches(kind: PrivateKind, text: str, lower: str, windows: list[tuple[int, int]]) -> Iterator[re.Match[str]]:
    if kind.signs and not any(sign in lower for sign in kind.signs):
        return
    for start, end in windows if kind.numeric else [(0, len(text))]:
        yield from kind.pattern.finditer(text, start, end)


def find_private(text: str) -> list[Found]:
    """The secrets and personal data in a text, in order; where two overlap, the kind that stands first counts."""
    lower, windows = text.lower(), _number_windows(text)
    found: list[Found] = []
    for kind in KINDS:
        for match in _matches(kind, text, lower, windows):
            if kind.before.search(text, max(0, match.start() - 2), match.start()):
                continue
            group = "value" if "value" in kind.pattern.groupindex else 0
            start, end = match.span(group)
            value = match.group(group)
            if any(start < other.end and other.start < end for other in found) or not kind.check(value):
                continue
            found.append(Found(kind, start, end, value))
    return sorted(found, key=lambda one: one.start)


def mask(value: str) -> str:
    """A value as it may be printed: enough to find it again in the file, too little to use it."""
    name, at, domain = value.partition("@")
    if at and "/" not in value:
        return f"{name[:1]}***@{domain[:1]}***"
    shown = 2 if len(value) < 16 else 4
    return f"{value[:shown]}***"


def hidden(text: str) -> str:
    """A text as it may be printed: with every secret and personal value in it masked."""
    for found in reversed(find_private(text)):
        text = text[: found.start] + mask(found.value) + text[found.end :]
    return text


def secret_findings(text: str) -> Iterator[tuple[str, str]]:
    """(code, message) of each value found, masked."""
    for found in find_private(text):
        yield found.kind.code, f"{found.kind.words}: {mask(found.value)}"


class Redactor:
    """Replaces values by placeholders, one value by the same placeholder throughout."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self._counts: Counter[str] = Counter()

    def redact(self, text: str) -> str:
        """The text with every value replaced, as ``[EMAIL_1]``; the same text where there is none."""
        pieces, end = [], 0
        for found in find_private(text):
            pieces += [text[end : found.start], self._placeholder(found)]
            end = found.end
        return "".join([*pieces, text[end:]]) if pieces else text

    def counts(self) -> dict[str, int]:
        """Different values replaced so far, by the name of their kind."""
        return dict(sorted(self._counts.items()))

    def _placeholder(self, found: Found) -> str:
        name = found.kind.name
        # one number may be written with and without separators
        plain = found.value if any(c.isalpha() for c in found.value) else _digits(found.value)
        key = (name, plain.casefold() if name == "EMAIL" else plain)
        if key not in self._numbers:
            self._counts[name] += 1
            self._numbers[key] = self._counts[name]
        return f"[{name}_{self._numbers[key]}]"
