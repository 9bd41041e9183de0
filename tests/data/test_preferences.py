"""Preference rows in every shape: what they become, what is refused, and that they read back as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone.data.audit.audit import audit_source
from hone.data.audit.repair import repair_file
from hone.data.detection import detect_format
from hone.data.faults import RefusedSource
from hone.data.ledger import RowError
from hone.data.loader import load_examples
from hone.data.preferences import parse_preference, preference_to_json
from hone.data.rows import RawRow
from hone.errors import DataError
from hone.types import Message, Preference

ASKED = [{"role": "user", "content": "is it far?"}]
YES, NO = [{"role": "assistant", "content": "not far"}], [{"role": "assistant", "content": "two days"}]
WANTED = Preference(
    (Message("user", "is it far?"), Message("assistant", "not far", supervised=True)),
    others=(Message("assistant", "two days", supervised=True),),
    ranks=(1, 2),
)
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "texts": ("preference", {"prompt": "is it far?", "chosen": "not far", "rejected": "two days"}),
    "turns": ("preference", {"prompt": ASKED, "chosen": YES, "rejected": NO}),
    "conversations": ("preference", {"chosen": [*ASKED, *YES], "rejected": [*ASKED, *NO]}),
    "prompt and conversations": (
        "preference", {"prompt": "is it far?", "chosen": [*ASKED, *YES], "rejected": [*ASKED, *NO]},
    ),
    "transcripts": (
        "preference",
        {
            "chosen": "\n\nHuman: is it far?\n\nAssistant: not far",
            "rejected": "\n\nHuman: is it far?\n\nAssistant: two days",
        },
    ),
    "openai": (
        "openai-preference", {"input": {"messages": ASKED}, "preferred_output": YES, "non_preferred_output": NO},
    ),
    "ranking": ("preference-ranking", {"prompt": "is it far?", "answers": ["not far", "two days"]}),
    "ranking with ranks": (
        "preference-ranking", {"prompt": "is it far?", "completions": ["two days", "not far"], "ranks": [2, 1]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_becomes_the_same_preference(name: str) -> None:
    format_name, value = SHAPES[name]
    assert detect_format([RawRow(1, 1, value)], preferences=True) == format_name
    preference = parse_preference(value, format_name)
    assert preference == WANTED
    assert preference.pairs == ((0, 1),)
    written = preference_to_json(preference)
    assert parse_preference(written, "preference") == WANTED


def test_a_ranking_of_several_gives_every_pair_that_was_told_apart() -> None:
    value = {"prompt": "who?", "answers": ["b", "a", "c", "d"], "ranks": [2, 1, 2, 3]}
    preference = parse_preference(value, "preference-ranking")
    assert [answer.content for answer in preference.answers] == ["a", "b", "c", "d"]
    assert preference.pairs == ((0, 1), (0, 2), (0, 3), (1, 3), (2, 3)), "b and c tie"
    pair = parse_preference({"prompt": "who?", "answers": ["b", "a"]}, "preference-ranking")
    assert parse_preference(preference_to_json(pair, as_ranking=True), "preference-ranking") == pair
    assert parse_preference(preference_to_json(preference), "preference-ranking") == preference


def test_a_judged_answer_reads_back() -> None:
    value = {"prompt": "who?", "completion": "she", "label": False}
    assert detect_format([RawRow(1, 1, value)], preferences=True) == "preference-label"
    preference = parse_preference(value, "preference-label")
    assert (preference.liked, preference.answer, preference.pairs) == (False, "she", ())
    assert parse_preference(preference_to_json(preference), "preference-label") == preference


@pytest.mark.parametrize(
    ("label", "liked"),
    [(1, True), (0, False), ("True", True), ("false", False), ("0", False), ("1.0", True), ("0.0", False)],
)
def test_a_judgement_as_tables_have_it(label: object, liked: bool) -> None:
    value = {"prompt": "who?", "completion": "she", "label": label}
    assert detect_format([RawRow(1, 1, value)], preferences=True) == "preference-label"
    assert parse_preference(value, "preference-label").liked is liked


def test_a_label_of_a_class_is_no_judgement() -> None:
    value = {"prompt": "who?", "completion": "she", "label": 3}
    assert detect_format([RawRow(1, 1, value)], preferences=True) == "prompt-completion"


@pytest.mark.parametrize(("margin", "read"), [("0.5", 0.5), (" 2 ", 2.0), ("1e1", 10.0), ("", 0.0), (None, 0.0)])
def test_a_margin_as_tables_have_it(margin: object, read: float) -> None:
    value = {"prompt": "a", "chosen": "b", "rejected": "c", "margin": margin}
    assert parse_preference(value, "preference").margin == read


def test_ranks_as_text() -> None:
    value = {"prompt": "a", "answers": ["b", "c", "d"], "ranks": ["2", "1.5", 1]}
    assert parse_preference(value, "preference-ranking").ranks == (1, 1.5, 2.0)


def test_a_table_with_margins_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,chosen,rejected,margin\n" + "".join(f"p{n},yes,no,0.{n}\n" for n in range(5)))
    loaded = load_examples(str(path), preferences=True)
    assert [one.margin for one in loaded.examples if isinstance(one, Preference)] == [0, 0.1, 0.2, 0.3, 0.4]


def test_speaking_twice_in_a_row_is_one_turn() -> None:
    text = "\n\nHuman: a\n\nHuman: b\n\nAssistant: {}"
    preference = parse_preference({"chosen": text.format("c"), "rejected": text.format("d")}, "preference")
    assert preference.prompt == (Message("user", "a\n\nb"),)


@pytest.mark.parametrize(
    ("value", "format_name", "code"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "preference", "equal_sides"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "preference", "empty_assistant"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, "preference", "empty_prompt"),
        ({"prompt": "a", "chosen": "b", "rejected": 3}, "preference", "bad_content"),
        ({"chosen": [*ASKED, *YES], "rejected": NO}, "preference", "prompts_differ"),
        ({"chosen": "b", "rejected": "c"}, "preference", "no_prompt"),
        ({"prompt": "other", "chosen": [*ASKED, *YES], "rejected": [*ASKED, *NO]}, "preference", "prompts_differ"),
        ({"prompt": "a", "chosen": ASKED, "rejected": NO}, "preference", "no_assistant"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}, "preference", "bad_ranks"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "-1"}, "preference", "bad_ranks"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "nan"}, "preference", "bad_ranks"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "1_0"}, "preference", "bad_ranks"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "9e999"}, "preference", "bad_ranks"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 10**400}, "preference", "bad_ranks"),
        ({"prompt": "a", "completion": "b", "label": "maybe"}, "preference-label", "bad_ranks"),
        ({"prompt": "a", "completion": "b"}, "preference-label", "unknown_keys"),
        ({"prompt": "a", "answers": ["b", "c"], "ranks": ["1", "first"]}, "preference-ranking", "bad_ranks"),
        ({"prompt": "a", "answers": ["b", "c"], "ranks": [1]}, "preference-ranking", "bad_ranks"),
        ({"prompt": "a", "answers": ["b", "c"], "ranks": [1, True]}, "preference-ranking", "bad_ranks"),
        ({"prompt": "a", "answers": ["b", "c"], "ranks": [1, 1]}, "preference-ranking", "equal_sides"),
        ({"prompt": "a", "answers": ["b"]}, "preference-ranking", "bad_ranks"),
    ],
)
def test_what_compares_nothing_is_refused(value: dict[str, Any], format_name: str, code: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_preference(value, format_name)
    assert caught.value.code == code


def _file(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_loader_and_the_audit_agree_on_every_row(tmp_path: Path) -> None:
    good = [{"prompt": f"what of {n}?", "chosen": f"it is {n}", "rejected": "no"} for n in range(12)]
    bad = [{"prompt": "a", "chosen": "b", "rejected": "b"}, {"prompt": "a", "chosen": "", "rejected": "b"}]
    source = _file(tmp_path / "rows.jsonl", [*good, *bad])
    loaded = load_examples(source, preferences=True)
    report = audit_source(source)
    assert (loaded.ledger.kept, loaded.ledger.dropped) == (report.kept, report.dropped) == (12, 2)
    assert loaded.are_preferences
    assert loaded.ledger.summary()["codes"] == {"equal_sides": 1, "empty_assistant": 1}
    assert [example.line for example in loaded.examples] == list(range(1, 13))
    with pytest.raises(DataError, match="its rows are preferences"):
        load_examples(source)


def test_votes_that_contradict_each_other_and_a_leaning_to_length_are_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"what of {n}?", "chosen": f"it is {n}, and more", "rejected": "no"} for n in range(20)]
    rows.append({"prompt": "what of 3?", "chosen": "no", "rejected": "it is 3, and more"})
    report = audit_source(_file(tmp_path / "rows.jsonl", rows))
    assert report.totals["conflicting_votes"] == 1
    assert [fault.line for fault in report.faults if fault.code == "conflicting_votes"] == [21]
    (leaning,) = [fault for fault in report.faults if fault.code == "length_bias"]
    assert "longer answer is preferred in 95% of 21 pairs" in leaning.message
    assert report.coverage is not None
    assert report.coverage["preferences"]["pairs"] == 21
    assert report.coverage["preferences"]["longer_preferred"] == pytest.approx(20 / 21, abs=1e-4)
    assert "conflicting_answers" not in report.totals, "several answers to a prompt are no conflict by themselves"


def test_every_row_that_contradicts_another_is_listed_and_none_contradicts_itself(tmp_path: Path) -> None:
    pairs = [("yes", "no"), ("no", "yes"), ("yes", "no"), ("no", "yes"), ("maybe", "Maybe ")]
    rows = [{"prompt": "is it?", "chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    ranking = [{"prompt": "is it?", "answers": [*pair, "?"]} for pair in (("yes", "no"), ("no", "yes"))]
    report = audit_source(_file(tmp_path / "rows.jsonl", rows), allow_few_rows=True)
    found = [(fault.code, fault.line, fault.severity) for fault in report.faults
             if fault.code in ("conflicting_votes", "near_equal_sides")]  # fmt: skip
    assert found == [
        *[("conflicting_votes", line, "warning") for line in (2, 3, 4)],
        ("near_equal_sides", 5, "warning"),
    ]
    assert report.totals["conflicting_votes"] == 3
    assert report.kept == 5
    report = audit_source(_file(tmp_path / "ranked.jsonl", [ranking[0], ranking[1]]), allow_few_rows=True)
    assert report.totals["conflicting_votes"] == 1, "a row, however many of its pairs"


def _labelled(labels: list[object]) -> list[dict[str, Any]]:
    return [{"prompt": f"what of {n}?", "completion": f"it is {n}", "label": label} for n, label in enumerate(labels)]


@pytest.mark.parametrize("odd", ["maybe", None, "", 2, -1, [1]])
def test_an_odd_label_among_judgements_is_a_fault_of_its_row(tmp_path: Path, odd: object) -> None:
    source = _file(tmp_path / "rows.jsonl", _labelled([odd, *[True, False, 1, 0] * 5]))
    loaded, report = load_examples(source, preferences=True), audit_source(source)
    assert (loaded.format, report.format) == ("preference-label", "preference-label")
    assert not report.refused
    assert (report.kept, report.dropped, report.unread_keys) == (20, 1, ())
    assert (loaded.ledger.kept, loaded.ledger.dropped, loaded.unused_keys) == (20, 1, ())
    [fault] = [fault for fault in report.faults if fault.code == "bad_ranks"]
    assert fault.line == 1
    assert f"label is {odd!r}" in fault.message or (odd in (None, "") and "label is empty" in fault.message)
    assert loaded.ledger.summary()["codes"] == {"bad_ranks": 1}
    fixed = repair_file(source, tmp_path / "fixed.jsonl", report)
    assert (fixed.written, fixed.quarantined) == (20, 1)


def test_labels_that_nobody_gave_are_faults_of_their_rows_however_many(tmp_path: Path) -> None:
    report = audit_source(_file(tmp_path / "rows.jsonl", _labelled([True, False, None, None, None] * 4)))
    assert (report.format, report.kept, report.dropped) == ("preference-label", 8, 12)


@pytest.mark.parametrize(
    "labels",
    [
        ["good", "bad"], ["Yes", "no"], ["thumbs_up", "Thumbs down"], ["👍", "👎"], ["positive", "NEGATIVE", None],
        [True, False, "maybe"], [1, -1], [5, 1], [0, 1, 2],
    ],
)  # fmt: skip
def test_labels_that_may_judge_but_do_not_say_how_are_refused(tmp_path: Path, labels: list[object]) -> None:
    source = _file(tmp_path / "rows.jsonl", _labelled(labels * 6))
    for preferences in (True, False):
        with pytest.raises(RefusedSource) as caught:
            load_examples(source, preferences=preferences)
        assert caught.value.code == "unclear_labels"
        assert "write true" in (caught.value.remedy or "")
        assert "--map prompt=prompt,completion=completion" in (caught.value.remedy or "")
    report = audit_source(source)
    assert report.refused
    assert report.totals["unclear_labels"] == 1
    mapping = {"prompt": "prompt", "completion": "completion"}
    assert load_examples(source, mapping=mapping).format == audit_source(source, mapping=mapping).format == "mapped"


def test_answers_that_are_graded_may_have_any_label(tmp_path: Path) -> None:
    source = _file(tmp_path / "rows.jsonl", _labelled(["good", "bad"] * 6))
    assert load_examples(source, tasks=True).format == audit_source(source, tasks=True).format == "prompt-completion"


@pytest.mark.parametrize("labels", [["sport", "politics"], ["good"], ["positive", "negative", "neutral"], [2, 3],
                                    [None], ["no", "bad"]])  # fmt: skip
def test_labels_of_classes_are_left_unread(tmp_path: Path, labels: list[object]) -> None:
    source = _file(tmp_path / "rows.jsonl", _labelled(labels * 12))
    loaded, report = load_examples(source, preferences=True), audit_source(source)
    assert loaded.format == report.format == "prompt-completion"
    assert loaded.unused_keys == report.unread_keys == ("label",)
    assert not report.refused


def test_no_leaning_is_told_where_there_is_none(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"what of {n}?", "chosen": "yes" * (1 + n % 2), "rejected": "no" * (2 - n % 2)} for n in range(40)
    ]
    assert "length_bias" not in audit_source(_file(tmp_path / "rows.jsonl", rows)).totals


@pytest.mark.parametrize(("labels", "told"), [([True], "all 12 answers are liked"), ([False], "are not liked"),
                                              ([True, False], None)])  # fmt: skip
def test_labels_of_one_kind_alone_are_told(tmp_path: Path, labels: list[bool], told: str | None) -> None:
    rows = [
        {"prompt": f"what of {n}?", "completion": f"it is {n}", "label": labels[n % len(labels)]} for n in range(12)
    ]
    found = [one.message for one in audit_source(_file(tmp_path / "rows.jsonl", rows)).faults
             if one.code == "one_sided_labels"]  # fmt: skip
    assert len(found) == (told is not None)
    assert told is None or told in found[0]
