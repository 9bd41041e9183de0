"""Check digits: what tells a real number of its kind from any other of the same length."""

from __future__ import annotations

__all__ = ["base58_check", "codice_fiscale", "dni", "iban", "luhn", "mod11_nhs", "steuer_id", "us_ssn", "verhoeff"]

_IBAN_LENGTHS = {
    **{"AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20},
    **{"ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27},
    **{"LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24},
    **{"SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26, "UA": 29},
}
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_FISCALE_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VERHOEFF_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def luhn(digits: str) -> bool:
    """Payment cards and IMEIs. Source: ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0 and len(set(digits)) > 1


def iban(text: str) -> bool:
    """International bank account numbers, without spaces. Source: ISO 13616, ISO 7064 MOD 97-10."""
    if _IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def us_ssn(digits: str) -> bool:
    """US social security numbers have no check digit, but areas, groups and serials that are never given."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000" and len(set(digits)) > 1


def steuer_id(digits: str) -> bool:
    """German tax numbers (Steuer-ID). Source: ISO 7064 MOD 11,10, and the rule of one digit two or three times."""
    counts = sorted(digits[:10].count(digit) for digit in set(digits[:10]))
    if digits[0] == "0" or counts[-1] not in (2, 3) or len(counts) not in (8, 9):
        return False
    product = 10
    for digit in digits[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def mod11_nhs(digits: str) -> bool:
    """British NHS numbers. Source: NHS Data Dictionary, NHS NUMBER."""
    check = 11 - sum(int(digit) * (10 - place) for place, digit in enumerate(digits[:9])) % 11
    return check % 11 == int(digits[9]) and check != 10 and len(set(digits)) > 1


def dni(text: str) -> bool:
    """Spanish identity numbers: eight digits and a letter."""
    return _DNI_LETTERS[int(text[:8]) % 23] == text[8]


def codice_fiscale(text: str) -> bool:
    """Italian tax codes: sixteen characters, the last one a check letter. Source: D.M. 23 December 1976."""
    total = 0
    for place, character in enumerate(text[:15]):
        value = int(character) if character.isdigit() else ord(character) - 65
        total += value if place % 2 else _FISCALE_ODD[value]
    return chr(total % 26 + 65) == text[15]


def verhoeff(digits: str) -> bool:
    """Indian Aadhaar numbers. Source: Verhoeff, Error detecting decimal codes (1969)."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = _VERHOEFF_PERMUTATION[value]
        check = _dihedral(check, value)
    return check == 0 and len(set(digits)) > 1


def base58_check(text: str) -> bool:
    """Bitcoin addresses of the older kinds. Source: Bitcoin wiki, Base58Check."""
    from hashlib import sha256

    number = 0
    for character in text:
        number = number * 58 + _BASE58.index(character)
    try:
        data = number.to_bytes(25, "big")
    except OverflowError:
        return False
    return sha256(sha256(data[:21]).digest()).digest()[:4] == data[21:]


def _dihedral(one: int, other: int) -> int:
    """The product in the dihedral group of order ten, 0 to 4 turns and 5 to 9 flips."""
    if one < 5:
        return (one + other) % 5 if other < 5 else 5 + (one + other) % 5
    return 5 + (one - other) % 5 if other < 5 else (one - other) % 5
