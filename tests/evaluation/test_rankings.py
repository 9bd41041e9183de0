"""Agreement, strengths, wins and length, each held against a published example, hand algebra, or a fit by scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize

from hone.evaluation.agreement import kappa_aggregate, krippendorff_alpha, rater_table
from hone.evaluation.bradley_terry import bradley_terry
from hone.evaluation.rankings import RankedAnswer, RankedPrompt, report_rankings

# Krippendorff 2011, section E: four observers, twelve units, five values, some missing
RELIABILITY = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def units_of(lines: tuple[str, ...]) -> list[list[int]]:
    return [
        [int(one) - 1 for one in unit if one != "."] for unit in zip(*(line.split() for line in lines), strict=True)
    ]


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_of_the_published_example(level: str, published: float) -> None:
    found = krippendorff_alpha(units_of(RELIABILITY), categories=5, level=level)  # type: ignore[arg-type]
    assert found == pytest.approx(published, abs=5e-4)


def test_alpha_by_hand() -> None:
    """Two raters, (0,0) (0,1) (1,1): o_01 = 1, n_0 = n_1 = 3, so alpha = 1 - 5 * (1 + 1) / (9 + 9) = 4/9."""
    assert krippendorff_alpha([[0, 0], [0, 1], [1, 1]], categories=2, level="nominal") == pytest.approx(4 / 9)
    assert krippendorff_alpha([[0, 0], [0, 0]], categories=2, level="nominal") is None
    assert krippendorff_alpha([[0], [1]], categories=2, level="nominal") is None


def test_alpha_of_pairs_by_hand() -> None:
    """Two raters of two pairs, who agree on the one and not on the other: no better than chance, so alpha is 0.

    Four ratings; which answer of a pair is the first is arbitrary, so two different ratings differ in half of all ways
    to say them. Observed: 1 of 2 pairs. Both ways round, -- ++ -+ +-: o_-+ = o_+- = 2, n_- = n_+ = 4, and of the
    4 * 4 * 2 = 32 unlike pairs of ratings 8 are of a rating with its own mirror image: 1 - (8 - 2) * 4 / (32 - 8) = 0.
    """
    judged = [prompt(1, (1, 2), (1, 2)), prompt(2, (1, 2), (2, 1))]
    report = report_rankings(judged, ["tuned", "base"])
    assert report.alpha_nominal.value == pytest.approx(0.0)
    assert report.alpha_ordinal.value == pytest.approx(0.0)
    opposed = report_rankings([prompt(1, (1, 2), (2, 1))], ["tuned", "base"])
    assert opposed.alpha_nominal.value == pytest.approx(-1.0)


def test_coin_tossers_agree_by_chance_on_average() -> None:
    """All 64 ways in which three raters can toss coins over two pairs."""
    alphas = []
    for tosses in itertools.product([(1, 2), (2, 1)], repeat=6):
        report = report_rankings([prompt(1, *tosses[:3]), prompt(2, *tosses[3:])], ["tuned", "base"])
        alphas.append(report.alpha_nominal.value)
    assert np.mean([one for one in alphas if one is not None]) == pytest.approx(0.0)
    assert None not in alphas


def test_chance_is_krippendorffs_own_over_all_ways_to_say_the_ratings() -> None:
    """With ties: 1 - D_o / D_e, where D_e is the mean of Krippendorff's, each rating said from either end."""
    units = [[0, 0, 1], [2, 0], [1, 1]]
    observed = 1 / 7 * (3 * (2 / 3) + 2 * 1 + 2 * 0)  # each rating counts for the share of its unit that differs
    ratings = [one for unit in units for one in unit]
    by_chance = []
    for ends in itertools.product([False, True], repeat=len(ratings)):
        said = [2 - one if turned else one for one, turned in zip(ratings, ends, strict=True)]
        by_chance.append(np.mean([one != other for one, other in itertools.permutations(said, 2)]))
    judged = [
        RankedPrompt(str(place), (TUNED, BASE), {str(rater): {0: (1, 2), 1: (1, 1), 2: (2, 1)}[one]
                                                 for rater, one in enumerate(unit)})
        for place, unit in enumerate(units)
    ]  # fmt: skip
    found = report_rankings(judged, ["tuned", "base"]).alpha_nominal.value
    assert found == pytest.approx(1 - observed / float(np.mean(by_chance)))


def test_kappa_by_hand() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: agreed 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa 0.4."""
    pairs = [(0, 0)] * 20 + [(0, 1)] * 5 + [(1, 0)] * 10 + [(1, 1)] * 15
    assert float(kappa_aggregate(2)(rater_table(pairs, 2).sum(axis=0))) == pytest.approx(0.4)


def test_two_contenders_have_the_log_odds() -> None:
    """Of two, the maximum of the likelihood is the share itself: 3 to 1 is ln 3 apart."""
    wins = np.asarray([[0.0, 3.0], [1.0, 0.0]])
    one, other = bradley_terry(wins, prior_wins=0.0)
    assert one - other == pytest.approx(math.log(3))
    corrected = bradley_terry(wins)
    assert corrected[0] - corrected[1] == pytest.approx(math.log(3.5 / 1.5))
    assert np.isfinite(bradley_terry(np.asarray([[0.0, 5.0], [0.0, 0.0]]))).all()


def test_strengths_maximise_the_likelihood() -> None:
    random = np.random.default_rng(3)
    wins = random.integers(0, 9, size=(4, 4)).astype(float)
    np.fill_diagonal(wins, 0.0)
    corrected = np.where((wins + wins.T) > 0, wins + 0.5, 0.0)

    def loss(strengths: np.ndarray) -> float:
        return sum(
            corrected[i, j] * math.log1p(math.exp(strengths[j] - strengths[i]))
            for i, j in itertools.permutations(range(4), 2)
        )

    fitted = optimize.minimize(loss, np.zeros(4), tol=1e-12).x
    assert bradley_terry(wins) == pytest.approx(fitted - fitted.mean(), abs=1e-4)
    assert bradley_terry(np.stack([wins, wins.T]))[1] == pytest.approx(bradley_terry(wins.T))


TUNED, BASE = RankedAnswer(("tuned",), 10), RankedAnswer(("base",), 20)


def prompt(number: int, *ranks: tuple[int, int]) -> RankedPrompt:
    """A prompt with an answer of each, and one rater after the other."""
    return RankedPrompt(str(number), (TUNED, BASE), {f"rater {place}": one for place, one in enumerate(ranks)})


def test_counts_of_a_comparison_by_hand() -> None:
    same = RankedPrompt("same", (RankedAnswer(("tuned", "base"), 5),), {})
    unjudged = prompt(9)
    judged = [prompt(1, (1, 2)), prompt(2, (1, 2)), prompt(3, (2, 1)), prompt(4, (1, 1))]
    report = report_rankings([*judged, same, unjudged], ["tuned", "base"])
    [found] = report.against
    assert (found.wins, found.losses, found.ties, found.same) == (2, 1, 1, 1)
    # 4 votes on 5 prompts that can be voted on: the prompt of one answer weighs 0.8, half of it for either
    assert found.share.value == pytest.approx(100 * (2 + 0.5 + 0.4) / 4.8)
    assert (report.votes, report.prompts, report.raters) == (4, 4, {"rater 0": 4})
    assert found.winner is None
    assert report.longer.value == pytest.approx(100 / 3)  # the base's is longer, and was preferred in 1 of 3
    assert report.longer.count == 3
    assert report.kappa is None
    assert report.alpha_nominal.value is None
    expected = math.log((2.9 + 0.5) / (1.9 + 0.5))
    assert report.strengths["tuned"].value == pytest.approx(expected / 2, abs=1e-6)


def test_the_clear_winner_wins_with_its_interval() -> None:
    report = report_rankings([prompt(number, (1, 2)) for number in range(20)], ["tuned", "base"])
    [found] = report.against
    assert (found.winner, found.share.value) == ("tuned", 100.0)
    assert found.share.interval is not None
    assert 75 < found.share.interval[0] < 100
    mirrored = report_rankings([prompt(number, (2, 1)) for number in range(20)], ["tuned", "base"])
    assert mirrored.against[0].winner == "base"


def test_many_raters_of_few_prompts_are_no_evidence() -> None:
    """40 votes on 3 prompts say little: the prompts are the units."""
    report = report_rankings([prompt(number, *[(1, 2)] * 14) for number in range(3)], ["tuned", "base"])
    assert report.votes == 42
    assert report.against[0].winner is None


def test_agreement_of_two_raters_does_not_depend_on_which_answer_stands_first() -> None:
    """Both always prefer the tuned one: perfect agreement, though only one outcome ever occurs in this order."""
    report = report_rankings([prompt(number, (1, 2), (1, 2)) for number in range(5)], ["tuned", "base"])
    assert (report.alpha_nominal.value, report.alpha_ordinal.value) == (1.0, 1.0)
    assert report.kappa is not None
    assert report.kappa.value == 1.0
    turned = report_rankings([prompt(number, (1, 2), (2, 1)) for number in range(5)], ["tuned", "base"])
    assert turned.kappa is not None
    assert turned.kappa.value == pytest.approx(-1.0)


def test_a_ranking_of_several_counts_as_its_pairs() -> None:
    answers = tuple(RankedAnswer((name,), 1) for name in ("a", "b", "c", "c"))
    ranked = RankedPrompt("p", answers, {"anna": (1, 2, 3, 1)})
    report = report_rankings([ranked], ["a", "b", "c"])
    counts = {(one.contender, one.against): (one.wins, one.losses, one.ties) for one in report.against}
    assert counts == {("a", "b"): (1, 0, 0), ("a", "c"): (1, 0, 1), ("b", "c"): (1, 1, 0)}


def test_nothing_said_is_no_figure() -> None:
    report = report_rankings([prompt(1), RankedPrompt("same", (RankedAnswer(("tuned", "base"), 5),), {})],
                             ["tuned", "base"])  # fmt: skip
    assert report.votes == 0
    assert report.against[0].share.value is None
    assert report.strengths["tuned"].value is None
    assert report.longer.value is None


def test_answers_that_are_alike_weigh_as_many_comparisons_as_rankings_have() -> None:
    """Two answers of each: a ranking compares four times, and so counts a prompt to which all gave one answer."""
    answers = tuple(RankedAnswer((name,), 1) for name in ("tuned", "tuned", "base", "base"))
    same = RankedPrompt("same", (RankedAnswer(("tuned", "base"), 5),), {})
    report = report_rankings([RankedPrompt("p", answers, {"anna": (1, 2, 3, 4)}), same], ["tuned", "base"])
    [found] = report.against
    assert (found.wins, found.losses, found.ties, found.same) == (4, 0, 0, 1)
    assert found.share.value == pytest.approx(100 * (4 + 2) / 8)
