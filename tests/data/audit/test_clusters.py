"""Kinds of prompts, odd prompts and odd languages: on prompts of which it is known what they are."""

from __future__ import annotations

import json
import random
from pathlib import Path

from hone.data.audit.audit import audit_source
from hone.data.audit.clusters import odd_prompts, prompt_groups
from hone.data.audit.languages import language_of
from hone.data.audit.report import AuditReport

CARD = ["card", "payment", "terminal", "declined", "shop", "purchase"]
TRIP = ["flight", "hotel", "luggage", "booking", "airport", "delay"]
FILLER = [
    a + b for a in ("bra", "klo", "mur", "sti", "tra", "vel", "wik", "zon") for b in ("da", "mi", "pe", "ru", "so")
]


def prompts_of(words: list[str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.sample([*rng.sample(words, 4), *rng.sample(FILLER, 2)], 6)) for _ in range(count)]


def audited(folder: Path, pairs: list[tuple[str, str]]) -> AuditReport:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs), encoding="utf-8")
    return audit_source(str(path))


def test_groups_are_the_kinds_that_there_are() -> None:
    prompts = prompts_of(CARD, 45, 0) + prompts_of(TRIP, 30, 1)
    groups = prompt_groups(prompts, least_share=0.1, most=3)
    assert [len(group.members) for group in groups] == [45, 30]
    assert set(groups[0].members) == set(range(45))
    assert set(groups[0].words) <= set(CARD)
    assert set(groups[1].words) <= set(TRIP)
    assert all(group.centre in group.members for group in groups)


def test_a_prompt_on_something_else_is_odd() -> None:
    prompts = [*prompts_of(CARD, 60, 2), "compose verses about autumn leaves falling"]
    assert odd_prompts(prompts) == [(60, ("autumn", "compose", "falling", "leaves", "verses"))]
    # where many are like none other, none is odd
    apart = [f"{chr(97 + n) * 5} {chr(98 + n) * 6} {chr(99 + n) * 7}" for n in range(20)]
    assert odd_prompts([*prompts, *apart]) == []
    assert odd_prompts(prompts[-5:]) == []


def test_what_the_audit_says_of_kinds(tmp_path: Path) -> None:
    prompts = [*prompts_of(CARD, 60, 3), *prompts_of(TRIP, 20, 4)]
    report = audited(tmp_path, [(prompt, f"answer {number}") for number, prompt in enumerate(prompts)])
    assert report.coverage is not None
    first, second = report.coverage["groups"]
    assert (first["share"], second["share"]) == (0.75, 0.25)
    assert set(first["words"]) <= set(CARD)
    assert 1 <= first["line"] <= 60 < second["line"] <= 80
    assert prompts[first["line"] - 1][:20] in first["prompt"]


def test_an_answer_in_another_language_is_odd(tmp_path: Path) -> None:
    pairs = [(f"What is the price of the lamp number {n}?", f"Das ist der Preis von Lampe {n} und er ist nicht hoch.")
             for n in range(40)]  # fmt: skip
    pairs[7] = (pairs[7][0], "This is the price of the lamp, and it is not high for you.")
    report = audited(tmp_path, pairs)
    told = [(fault.code, fault.line, fault.message) for fault in report.faults if fault.code == "odd_language"]
    assert told == [("odd_language", 8, "its answer reads as en, where 97% of the answers read as de")]


def test_only_clear_cases_of_a_language_are_sure() -> None:
    assert language_of("die Hard is a film") != "other"
    assert language_of("die Hard is a film", sure=True) == "other"
    assert language_of("what is the price of the lamp that you have and how can it be paid", sure=True) == "en"
    assert language_of("der Preis ist nicht hoch und das ist gut", sure=True) == "de"
