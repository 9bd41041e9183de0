"""A seeded corpus of secrets and personal data in sentences, and of numbers that look like them and are none."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator

Maker = Callable[[random.Random], str]


def corpus(seed: int, count: int) -> Iterator[tuple[str, str, str]]:
    """(kind, text, value): ``count`` sentences of each kind with a valid value; both are empty where there is none."""
    rng = random.Random(seed)
    for kind, make in {**SECRETS, **PERSONAL}.items():
        for _ in range(count):
            value = make(rng)
            yield kind, rng.choice(_FRAMES.get(kind, _PLAIN)).replace("VALUE", value), value
    for make in LOOKALIKES:
        for _ in range(count):
            yield "", rng.choice(_PLAIN).replace("VALUE", make(rng)), ""


def _chars(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(length))


_UPPER, _LETTERS, _DIGITS = string.ascii_uppercase + string.digits, string.ascii_letters, string.digits
_ALNUM = _LETTERS + _DIGITS


def luhn_digit(digits: str) -> str:
    """The digit that completes a card's number, found by trying all ten."""
    for last in _DIGITS:
        total = 0
        for place, digit in enumerate(reversed(digits + last)):
            doubled = int(digit) * 2 if place % 2 else int(digit)
            total += doubled // 10 + doubled % 10
        if total % 10 == 0:
            return last
    raise AssertionError


def _card(rng: random.Random) -> str:
    start = rng.choice(("4", "51", "55", "37", "6011"))
    length = 15 if start == "37" else 16
    digits = start + _chars(rng, _DIGITS, length - 1 - len(start))
    digits += luhn_digit(digits)
    groups = [digits[:4], digits[4:10], digits[10:]] if length == 15 else [digits[i : i + 4] for i in range(0, 16, 4)]
    return rng.choice(("", " ", "-")).join(groups)


def _iban(rng: random.Random) -> str:
    country, length = rng.choice((("DE", 22), ("GB", 22), ("FR", 27), ("NL", 18), ("ES", 24)))
    body = _chars(rng, _UPPER, 4) if country in ("GB", "NL") else ""
    body += _chars(rng, _DIGITS, length - 4 - len(body))
    number = int("".join(str(int(c, 36)) for c in f"{body}{country}00"))
    text = f"{country}{98 - number % 97:02d}{body}"
    return rng.choice((text, " ".join(text[i : i + 4] for i in range(0, length, 4))))


def _mail(rng: random.Random) -> str:
    name = _chars(rng, string.ascii_lowercase, rng.randint(3, 10)) + rng.choice(("", ".x", "_2", "+tag", "99"))
    return f"{name}@{_chars(rng, string.ascii_lowercase, 6)}.{rng.choice(('com', 'de', 'co.uk', 'io', 'org'))}"


def _phone(rng: random.Random) -> str:
    def some(length: int) -> str:
        return rng.choice("23456789") + _chars(rng, _DIGITS, length - 1)

    return rng.choice(
        (
            f"+1 {some(3)} {some(3)} {some(4)}",
            f"({some(3)}) {some(3)}-{some(4)}",
            f"{some(3)}-{some(3)}-{some(4)}",
            f"+44 20 {some(4)} {some(4)}",
            f"+49 {some(3)} {some(7)}",
            f"+33 {rng.randint(1, 7)} {some(2)} {some(2)} {some(2)} {some(2)}",
            f"07{_chars(rng, _DIGITS, 9)}",
            f"0{some(3)} {some(3)} {some(4)}",
            f"030/{some(4)} {some(3)}",
            f"+{rng.choice(('43', '41', '39'))}{some(9)}",
        )
    )


def _ssn(rng: random.Random) -> str:
    return f"{rng.randint(1, 665):03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"


def _dni(rng: random.Random) -> str:
    number = rng.randrange(10**8)
    return f"{number:08d}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def _address(rng: random.Random) -> str:
    name = rng.choice(("Main", "Oak", "Maple Hill", "King", "Washington", "High"))
    kind = rng.choice(("Street", "Avenue", "Road", "Lane", "Drive", "Boulevard", "St.", "Ave."))
    german = rng.choice(("Haupt", "Bahnhof", "Garten", "Linden")) + rng.choice(("straße", "strasse", "allee", "gasse"))
    return rng.choice((f"{rng.randint(1, 9999)} {name} {kind}", f"{german} {rng.randint(1, 200)}"))


def _ip(rng: random.Random) -> str:
    return f"{rng.choice((13, 34, 52, 91, 151, 188))}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"


def _password(rng: random.Random) -> str:
    return rng.choice(string.ascii_lowercase) + _chars(rng, _ALNUM + "!#+-", 8) + "7Q"


def _private_key(rng: random.Random) -> str:
    kind = rng.choice(("RSA ", "EC ", "", "OPENSSH "))
    body = "\n".join(_chars(rng, _ALNUM + "+/", 64) for _ in range(4))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----"


SECRETS: dict[str, Maker] = {
    "AWS_KEY": lambda rng: "AKIA" + _chars(rng, string.ascii_uppercase, 12) + _chars(rng, _DIGITS, 4),
    "GITHUB_TOKEN": lambda rng: rng.choice(("ghp_", "gho_", "ghs_")) + _chars(rng, _ALNUM, 36),
    "GITLAB_TOKEN": lambda rng: "glpat-" + _chars(rng, _ALNUM, 20),
    "ANTHROPIC_KEY": lambda rng: "sk-ant-api03-" + _chars(rng, _ALNUM, 40),
    "OPENAI_KEY": lambda rng: rng.choice(("sk-", "sk-proj-")) + _chars(rng, _ALNUM, 48),
    "STRIPE_KEY": lambda rng: "sk_live_" + _chars(rng, _ALNUM, 24),
    "SLACK_TOKEN": lambda rng: f"xoxb-{_chars(rng, _DIGITS, 11)}-{_chars(rng, _ALNUM, 24)}",
    "GOOGLE_KEY": lambda rng: "AIza" + _chars(rng, _ALNUM + "-_", 34) + "x",
    "HUGGINGFACE_TOKEN": lambda rng: "hf_" + _chars(rng, _LETTERS, 34),
    "SENDGRID_KEY": lambda rng: f"SG.{_chars(rng, _ALNUM, 22)}.{_chars(rng, _ALNUM, 43)}",
    "NPM_TOKEN": lambda rng: "npm_" + _chars(rng, _ALNUM, 36),
    "JWT": lambda rng: f"eyJ{_chars(rng, _ALNUM, 20)}.eyJ{_chars(rng, _ALNUM, 40)}.{_chars(rng, _ALNUM, 43)}",
    "PRIVATE_KEY": _private_key,
    "URL_PASSWORD": _password,
    "PASSWORD": _password,
}
PERSONAL: dict[str, Maker] = {
    "EMAIL": _mail,
    "PHONE": _phone,
    "CARD": _card,
    "IBAN": _iban,
    "SSN": _ssn,
    "DNI": _dni,
    "IP_ADDRESS": _ip,
    "STREET_ADDRESS": _address,
}
LOOKALIKES: tuple[Maker, ...] = (
    lambda rng: _chars(rng, _DIGITS, 12),  # an order
    lambda rng: f"{rng.randint(1990, 2030)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
    lambda rng: f"{rng.randint(1, 12)}/{rng.randint(1, 28)}/{rng.randint(1990, 2030)} 11:{rng.randint(10, 59)}",
    lambda rng: f"{rng.random() * 1000:.12f}",
    lambda rng: f"{rng.randint(1, 999)},{rng.randint(0, 999):03d},{rng.randint(0, 999):03d}.00",
    lambda rng: f"{rng.randint(100, 999)} + {rng.randint(100, 999)} = {rng.randint(1000, 2000)}",
    lambda rng: f"version {rng.randint(0, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 20)}",
    lambda rng: "192.168." + f"{rng.randint(0, 255)}.{rng.randint(1, 254)}",
    lambda rng: f"978-{rng.randint(0, 9)}-{rng.randint(10, 99)}-{rng.randint(100000, 999999)}-{rng.randint(0, 9)}",
    lambda rng: _chars(rng, "0123456789abcdef", 40),  # a commit
    lambda rng: f"{_chars(rng, '0123456789abcdef', 8)}-{_chars(rng, '0123456789abcdef', 4)}-4abc",
    lambda rng: f"[{rng.randint(10, 99)}, {rng.randint(10, 99)}, {rng.randint(10, 99)}, {rng.randint(10, 99)}]",
    lambda rng: f"a user@example.{rng.choice(('com', 'org'))} account",
    lambda rng: f"@{_chars(rng, string.ascii_lowercase, 8)}",
    lambda rng: f"password: {rng.choice(('********', 'your_password', '<password>', 'correct'))}",
    lambda rng: f"the key is {rng.choice(('important', 'kindness', 'persistence'))} and the secret is patience",
    lambda rng: f"https://{_chars(rng, string.ascii_lowercase, 6)}.com/a/{rng.randint(1000000, 9999999)}?x=12",
    lambda rng: f"{rng.randint(1, 300)} people live on that street",
)  # fmt: skip
_PLAIN = (
    "My number is VALUE, thanks.",
    "VALUE",
    "Please note: VALUE.",
    "Here it is (VALUE) for you",
    "see\nVALUE\nbelow",
    "Can you check VALUE and come back to me?",
)
_FRAMES = {
    "PASSWORD": ("password: VALUE", "my api_key=VALUE;", 'the "secret": "VALUE"', "The password is VALUE"),
    "URL_PASSWORD": ("postgres://admin:VALUE@db.host.net/x", "https://bob:VALUE@site.net is the address"),
}
