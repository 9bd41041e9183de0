"""Secrets and personal data: check digits by published numbers, recall and false alarms on a seeded corpus."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from hone.data.audit import checksums
from hone.data.audit.secrets import KINDS, Redactor, find_private, mask, secret_signs
from hone.data.audit.texts import worth_a_look
from tests.data.audit.private_corpus import LOOKALIKES, PERSONAL, SECRETS, corpus

# Numbers that their issuers, or the pages that define the check, publish as examples.
VALID = {
    checksums.luhn: ["4111111111111111", "5555555555554444", "378282246310005", "6011111111111117"],
    checksums.iban: ["DE89370400440532013000", "GB29NWBK60161331926819", "FR1420041010050500013M02606"],
    checksums.steuer_id: ["86095742719", "47036892816", "65929970489"],
    checksums.mod11_nhs: ["9434765919", "4010232137"],
    checksums.dni: ["12345678Z", "00000000T"],
    checksums.codice_fiscale: ["RSSMRA85T10A562S"],
    checksums.verhoeff: ["2363", "758722", "123451"],
    checksums.base58_check: ["1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy"],
    checksums.us_ssn: ["078051120", "219099999"],
}


@pytest.mark.parametrize("check", VALID, ids=lambda check: check.__name__)
def test_published_numbers_pass_and_altered_ones_do_not(check: object) -> None:
    assert callable(check)
    for number in VALID[check]:  # type: ignore[index]
        assert check(number), number
        if check is checksums.us_ssn:
            continue
        altered = [number[:-1] + other for other in "0123456789" if other != number[-1] and number[-1].isdigit()]
        assert sum(map(bool, map(check, altered))) <= (1 if check is checksums.steuer_id else 0), number


@pytest.mark.parametrize("number", ["000123456", "666123456", "912345678", "123004567", "123450000"])
def test_numbers_that_are_never_given_are_none(number: str) -> None:
    assert not checksums.us_ssn(number)


def measured(seed: int, count: int) -> tuple[Counter[str], Counter[str], int, int]:
    """Values by kind, those found whole under their kind, texts without any, and those of them with an alarm."""
    there: Counter[str] = Counter()
    found: Counter[str] = Counter()
    clean = alarms = 0
    for kind, text, value in corpus(seed, count):
        hits = {(one.kind.name, one.value) for one in find_private(text)}
        if kind:
            there[kind] += 1
            found[kind] += (kind, value) in hits
        else:
            clean += 1
            alarms += bool(hits)
    return there, found, clean, alarms


def test_recall_and_false_alarms_on_the_seeded_corpus() -> None:
    there, found, clean, alarms = measured(seed=7, count=200)
    recall = {kind: found[kind] / there[kind] for kind in there}
    print({kind: round(share, 3) for kind, share in recall.items() if share < 1}, alarms, clean)
    assert min(recall[kind] for kind in SECRETS) >= 0.97, recall
    assert min(recall[kind] for kind in PERSONAL) >= 0.95, recall
    assert sum(found.values()) / sum(there.values()) >= 0.99
    assert alarms / clean <= 0.01, alarms
    assert clean == 200 * len(LOOKALIKES)


def test_the_cheap_signs_miss_nothing() -> None:
    for _, text, _ in corpus(seed=3, count=100):
        if find_private(text):
            assert secret_signs(text)
            assert worth_a_look(text, "", "x")


def test_numbers_with_check_digits_are_no_alarm_where_the_digit_is_wrong() -> None:
    assert not find_private("card 4111 1111 1111 1112")
    assert not find_private("account DE89 3704 0044 0532 0130 01")
    assert not find_private("number 12345678A")


def test_every_kind_has_its_own_name_and_is_in_the_corpus_or_tested_here() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    rest = {
        "NHS_NUMBER": "My NHS number is 943 476 5919",
        "AADHAAR": "Aadhaar: 2341 2341 2346",
        "TAX_ID": "Steuer-ID 86 095 742 719",
        "TAX_CODE": "codice RSSMRA85T10A562S",
        "BITCOIN_ADDRESS": "pay 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
        "PYPI_TOKEN": "pypi-AgE" + "aB3_" * 20,
    }
    assert set(names) == set(SECRETS) | set(PERSONAL) | set(rest)
    for name, text in rest.items():
        assert [one.kind.name for one in find_private(text)] == [name], name


def test_what_is_printed_does_not_give_the_value_away() -> None:
    for kind, _, value in corpus(seed=5, count=20):
        if kind:
            shown = mask(value)
            assert len(shown.replace("***", "")) <= max(4, len(value) // 3)
            assert value not in shown


def test_redacted_texts_have_nothing_left_to_find() -> None:
    redactor = Redactor()
    for kind, text, value in corpus(seed=11, count=50):
        redacted = redactor.redact(text)
        if kind and value in {one.value for one in find_private(text)}:
            assert value not in redacted
        assert not [one for one in find_private(redacted) if one.value in value]
        assert redactor.redact(redacted) == redacted


# The column, and the findings there may be at most, as a share of the rows; each was looked at (docs/data.md).
SHARED = {
    "banking77/test.csv": ("text", 0.0),
    "gsm8k_train_1500/train-first1500.jsonl": ("question", 0.0),
    "e2e_nlg/devset-first3500.csv": ("ref", 0.001),
    "simple_arithmetic/simple_arithmetic_nospaces.jsonl": ("context", 0.0),
    "mbpp/mbpp.jsonl": ("code", 0.002),
    "tldrlegal/../medquad_ninds/medquad-ninds-first200docs.jsonl": ("answer", 0.01),
}


@pytest.mark.parametrize("name", SHARED)
def test_false_alarms_on_shared_data(shared_folder: Path, name: str) -> None:
    column, most = SHARED[name]
    path = shared_folder / "data" / name
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream)) if path.suffix == ".csv" else [json.loads(line) for line in stream]
    found = [(one.kind.name, one.value) for row in rows for one in find_private(str(row[column]))]
    assert len(found) <= most * len(rows), found
