"""The comparison as a whole: figures, differences, examples, and what was not measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sacrebleu.metrics.chrf import CHRF

from hone.errors import ConfigError, DataError
from hone.evaluation import ArmResult, TaskShape, evaluate_arms

TEXT = TaskShape("text", (), "for a test")
LABELS = TaskShape("labels", ("ham", "spam"), "for a test")
REFERENCES = [f"The parcel with number {n} will arrive at your door on day {n % 7}." for n in range(30)]
PROMPTS = [f"Where is parcel {n}?" for n in range(30)]


def arm(name: str, predictions: list[str], **changes: Any) -> ArmResult:
    rows = len(predictions)
    given: dict[str, Any] = {"stopped": [True] * rows, "output_tokens": [10] * rows, "seconds": 2.0} | changes
    return ArmResult(name, predictions, **given)  # type: ignore[arg-type]


def two_arms(**changes: Any) -> list[ArmResult]:
    base = [f"I do not know where parcel {n} is." for n in range(30)]
    tuned = [reference[: 40 if n % 4 else 12] for n, reference in enumerate(REFERENCES)]
    return [arm("base", base, **changes), arm("tuned", tuned, **changes)]


def strict(value: Any) -> Any:
    """Through JSON and back; NaN, infinity and numbers of numpy raise."""
    return json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False))


def test_the_json_has_the_documented_shape() -> None:
    found = strict(evaluate_arms(TEXT, REFERENCES, PROMPTS, two_arms()).to_json())
    assert found["metric"] == "chrf"
    assert found["rows"] == 30
    assert found["shape"] == {"kind": "text", "labels": [], "reason": "for a test"}
    assert list(found["arms"]) == ["base", "tuned"]
    for summary in found["arms"].values():
        assert set(summary) >= {"score", "interval", "metrics", "stop_share", "tokens", "seconds"}
        assert summary["interval"][0] <= summary["score"] <= summary["interval"][1]
        assert summary["score"] == summary["metrics"]["chrf"]
        assert summary["tokens"] == 300
    [difference] = found["differences"]
    assert (difference["arm"], difference["against"], difference["metric"]) == ("tuned", "base", "chrf")
    assert difference["wins"] + difference["losses"] + difference["ties"] == 30
    assert difference["interval"][0] <= difference["difference"] <= difference["interval"][1]
    assert {one["metric"] for one in found["other_differences"]} == {"bleu", "rouge_l"}


def test_scores_are_those_of_sacrebleu() -> None:
    arms = two_arms()
    found = evaluate_arms(TEXT, REFERENCES, PROMPTS, arms)
    expected = {one.arm: CHRF().corpus_score(list(one.predictions), [REFERENCES]).score for one in arms}
    assert {name: summary.score for name, summary in found.arms.items()} == pytest.approx(expected)
    compared = found.differences[0].comparison
    assert compared.difference == pytest.approx(expected["tuned"] - expected["base"])


def test_what_nobody_measured_is_null_with_a_reason() -> None:
    arms = two_arms(seconds=None)
    found = strict(evaluate_arms(TEXT, REFERENCES, PROMPTS, arms).to_json())
    assert found["arms"]["base"]["seconds"] is None
    assert found["arms"]["base"]["metrics"]["bits_per_byte"] is None
    assert [item["what"] for item in found["not_measured"]] == ["bits_per_byte of base", "bits_per_byte of tuned"]


def test_bits_per_byte_is_the_quotient_of_sums() -> None:
    sizes = [len(reference.encode()) for reference in REFERENCES]
    arms = [
        arm("base", REFERENCES, bits=[2.0 * size for size in sizes], reference_bytes=sizes),
        arm("tuned", REFERENCES, bits=[1.0 * size + (n % 2) for n, size in enumerate(sizes)], reference_bytes=sizes),
    ]
    found = evaluate_arms(TEXT, REFERENCES, PROMPTS, arms)
    assert found.arms["base"].metrics["bits_per_byte"] == pytest.approx(2.0)
    difference = found.difference("tuned", "base", "bits_per_byte")
    assert difference is not None
    assert difference.comparison.different
    assert difference.comparison.difference == pytest.approx(15 / sum(sizes) - 1)
    assert (difference.comparison.wins, difference.comparison.losses) == (30, 0)
    assert found.not_measured == []
    chosen = evaluate_arms(TEXT, REFERENCES, PROMPTS, arms, metric="bits_per_byte")
    assert chosen.metric.name == "bits_per_byte"
    assert chosen.arms["base"].score == pytest.approx(2.0)
    strict(chosen.to_json())


def test_bits_that_are_not_finite_are_not_measured() -> None:
    bits = [1.0] * 29 + [float("inf")]
    arms = [arm("base", REFERENCES, bits=bits, reference_bytes=[5] * 30)]
    found = strict(evaluate_arms(TEXT, REFERENCES, PROMPTS, arms).to_json())
    assert found["arms"]["base"]["metrics"]["bits_per_byte"] is None
    assert found["not_measured"][0]["reason"] == "the likelihood is not finite on 1 of 30 rows"
    with pytest.raises(ConfigError, match="not finite on 1 of 30 rows"):
        evaluate_arms(TEXT, REFERENCES, PROMPTS, arms, metric="bits_per_byte")


def test_examples_are_the_rows_with_most_to_see() -> None:
    found = evaluate_arms(TEXT, REFERENCES, PROMPTS, two_arms(), row_numbers=range(101, 131))
    best, worst = found.examples["best"], found.examples["worst"]
    gains = {row["row"]: row["scores"]["tuned"] - row["scores"]["base"] for row in found.answers}
    assert [row["row"] for row in best] == sorted(gains, key=lambda row: -gains[row])[:5]
    assert [row["row"] for row in worst] == sorted(gains, key=lambda row: gains[row])[:5]
    first = best[0]
    at = first["row"] - 101
    assert first["prompt"] == PROMPTS[at]
    assert first["reference"] == REFERENCES[at]
    assert first["answers"] == {one.arm: one.predictions[at] for one in two_arms()}
    assert first["difference"] == pytest.approx(gains[first["row"]], abs=1e-5)


def test_best_examples_of_bits_per_byte_are_the_lowest() -> None:
    arms = [
        arm("base", REFERENCES, bits=[50.0] * 30, reference_bytes=[10] * 30),
        arm("tuned", REFERENCES, bits=[float(n) for n in range(30)], reference_bytes=[10] * 30),
    ]
    found = evaluate_arms(TEXT, REFERENCES, PROMPTS, arms, metric="bits_per_byte")
    assert [row["row"] for row in found.examples["best"]] == [1, 2, 3, 4, 5]
    assert [row["row"] for row in found.examples["worst"]] == [30, 29, 28, 27, 26]


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_no_row_is_both_best_and_worst(rows: int) -> None:
    found = evaluate_arms(TEXT, REFERENCES[:rows], PROMPTS[:rows], [arm("base", REFERENCES[:rows])])
    shown = [row["row"] for group in found.examples.values() for row in group]
    assert len(shown) == len(set(shown)) == rows
    assert all(row["difference"] is None for row in found.examples["best"])
    strict(found.to_json())


def test_later_arms_are_compared_with_base_and_with_tuned() -> None:
    arms = [*two_arms(), arm("few_shot", [text[:20] for text in REFERENCES])]
    found = evaluate_arms(TEXT, REFERENCES, PROMPTS, arms)
    assert [(one.arm, one.against) for one in found.differences] == [
        ("tuned", "base"),
        ("tuned", "few_shot"),
        ("few_shot", "base"),
    ]
    assert set(found.answers[0]["scores"]) == {"base", "tuned", "few_shot"}


def test_word_for_word_equal_arms_differ_by_nothing_and_equal_scores_by_little() -> None:
    references = ["ham", "spam"] * 20
    wrong = ["spam", "ham"] * 20
    other = ["I cannot say", "nor can I"] * 20
    same = evaluate_arms(LABELS, references, references, [arm("base", wrong), arm("tuned", wrong)])
    assert same.differences[0].comparison.interval == (0, 0)
    alike = evaluate_arms(LABELS, references, references, [arm("base", wrong), arm("tuned", other)])
    interval = alike.differences[0].comparison.interval
    assert interval is not None
    assert interval[0] < 0 < interval[1]
    assert alike.differences[0].comparison.p_value == 1


def test_rows_of_one_cluster_count_once() -> None:
    arms = two_arms()
    by_row = evaluate_arms(TEXT, REFERENCES, PROMPTS, arms)
    by_cluster = evaluate_arms(TEXT, REFERENCES, PROMPTS, arms, clusters=[n // 10 for n in range(30)])
    assert by_row.method["units"] == 30
    assert (by_cluster.method["units"], by_cluster.method["unit"]) == (3, "distinct prompt")
    assert by_cluster.arms["tuned"].score == by_row.arms["tuned"].score
    # Three clusters can at best give p = 2 / 8: no claim is possible.
    assert by_row.differences[0].comparison.different
    assert not by_cluster.differences[0].comparison.different


def test_the_same_call_gives_the_same_figures() -> None:
    first, again = (evaluate_arms(TEXT, REFERENCES, PROMPTS, two_arms(), seed=3).to_json() for _ in range(2))
    assert first == again


def test_empty_answers_score_nothing_and_break_nothing() -> None:
    for kind in ("labels", "json", "code", "short", "text"):
        shape = TaskShape(kind, (), "for a test")  # type: ignore[arg-type]
        found = evaluate_arms(shape, REFERENCES, PROMPTS, [arm("base", [""] * 30), arm("tuned", [""] * 30)])
        assert found.arms["base"].score == 0
        strict(found.to_json())


def test_no_rows_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no held-out rows"):
        evaluate_arms(TEXT, [], [], [arm("base", [])])


def test_an_unknown_metric_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="blue"):
        evaluate_arms(TEXT, REFERENCES, PROMPTS, two_arms(), metric="blue")
