"""Labels, exact matches and JSON, each worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hone.evaluation import answer_scores as scores
from hone.evaluation.sums import mean_aggregate

LABELS = ("card_arrival", "change_pin")


@pytest.mark.parametrize(
    ("prediction", "right", "unknown"),
    [
        ("card_arrival", 1, 0),
        ("  Card_Arrival.\n", 1, 0),
        ("card_arrival!!", 1, 0),
        ("change_pin", 0, 0),
        ("The label is card_arrival", 0, 1),
        ("card_arrival, change_pin", 0, 1),
        ("", 0, 1),
        ("...", 0, 1),
    ],
)
def test_a_label_is_matched_strictly(prediction: str, right: int, unknown: int) -> None:
    assert scores.accuracy_statistics([prediction], ["card_arrival"], LABELS).tolist() == [[right, 1]]
    assert scores.unknown_label_statistics([prediction], ["card_arrival"], LABELS).tolist() == [[unknown, 1]]


def test_labels_that_differ_in_punctuation_alone_are_told_apart() -> None:
    read = scores.label_normaliser(["!", "?"])
    assert (read("!"), read("?")) == ("!", "?")
    read = scores.label_normaliser(["Yes", "yes", "No."])
    assert read("YES!") == read("yes")


def test_macro_f1_by_hand() -> None:
    references = ["a", "a", "a", "b", "b", "c"]
    predictions = ["a", "a", "b", "b", "nonsense", "a"]
    rows = scores.macro_f1_statistics(predictions, references, ["a", "b", "c", "never asked for"])
    f1_a = 2 * 2 / (3 + 3)
    f1_b = 2 * 1 / (2 + 2)
    f1_c = 0.0
    assert float(scores.macro_f1_aggregate(rows.sum(axis=0))) == pytest.approx(100 * (f1_a + f1_b + f1_c) / 3)
    assert scores.macro_f1_aggregate(rows).tolist() == [100, 100, 0, 100, 0, 0]


def test_macro_f1_of_resamples_leaves_out_labels_that_were_not_drawn() -> None:
    rows = scores.macro_f1_statistics(["a", "x"], ["a", "b"], [])
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    assert scores.macro_f1_aggregate(weights @ rows).tolist() == [50.0, 100.0, 0.0]


def test_exact_match_evens_out_white_space_only() -> None:
    rows = scores.exact_match_statistics(["ls  -l\n", "LS -l", "ls -l;"], ["ls -l"] * 3)
    assert rows[:, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2]}', {"a": [1, 2]}),
        (" [1] \n", [1]),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('{"a": 1', None),
        ('{"a": NaN}', None),
        ('"text"', None),
        ("5", None),
        ("", None),
        ('Here you are: {"a": 1}', None),
        ('{"a": 1} {"a": 2}', None),
        ("[" * 5000, None),
        ("[" * 400 + "]" * 400, None),
        ("[" * 100_000 + "]" * 100_000, None),
        ("[" + "9" * 5000 + "]", None),
    ],
)
def test_what_parses(text: str, value: object) -> None:
    assert scores.parse_json_answer(text) == value


@pytest.mark.parametrize(
    ("prediction", "reference", "match"),
    [
        ('{"b": 1, "a": {"y": 2, "x": 1}}', '{"a": {"x": 1, "y": 2}, "b": 1}', 1),
        ('{"a": 1.0}', '{"a": 1}', 1),
        ('{"a": true}', '{"a": 1}', 0),
        ('{"a": "1"}', '{"a": 1}', 0),
        ("[1, 2]", "[2, 1]", 0),
        ('{"a": null}', "{}", 0),
        ("not json", "not  json", 1),
        ('"none"', "none", 0),
        ("", "{}", 0),
    ],
)
def test_json_match(prediction: str, reference: str, match: int) -> None:
    assert scores.json_match_statistics([prediction], [reference])[0, 0] == match


@pytest.mark.parametrize(
    ("prediction", "reference", "counts"),
    [
        ('{"intent": "x", "slots": {"a": "1", "b": "2"}}', '{"intent": "x", "slots": {"a": "1"}}', [2, 3, 2]),
        ('{"slots": {"a": "1"}}', '{"a": "1"}', [0, 1, 1]),
        ('{"a.b": 1}', '{"a": {"b": 1}}', [0, 1, 1]),
        ('{"tags": ["y", "x", "x"]}', '{"tags": ["x", "y"]}', [2, 3, 2]),
        ('[{"n": 1}, {"n": 2}]', '[{"n": 2}, {"n": 1}]', [0, 2, 2]),
        ('{"slots": {}}', '{"slots": {}}', [1, 1, 1]),
        ('{"slots": []}', '{"slots": {}}', [0, 1, 1]),
        ("broken", '{"a": 1, "b": 2}', [0, 0, 2]),
        ("same text", "same  text", [1, 1, 1]),
    ],
)
def test_json_leaves(prediction: str, reference: str, counts: list[int]) -> None:
    assert scores.json_f1_statistics([prediction], [reference]).tolist() == [counts]


def test_json_f1_is_micro_averaged() -> None:
    rows = scores.json_f1_statistics(['{"a": 1}', "broken"], ['{"a": 1}', '{"a": 1, "b": 2, "c": 3}'])
    assert float(scores.json_f1_aggregate(rows.sum(axis=0))) == pytest.approx(100 * 2 * 1 / (1 + 4))
    assert scores.json_f1_aggregate(rows).tolist() == [100, 0]


def test_json_valid_share() -> None:
    rows = scores.json_valid_statistics(['{"a": 1}', "no", "[]"], ["{}"] * 3)
    assert float(mean_aggregate(rows.sum(axis=0))) == pytest.approx(200 / 3)
