"""What rankings say, as lines: who wins blind, how strong each is, whether raters agree, whether length decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hone.cli.output import harmless
from hone.cli.tables import text_table

if TYPE_CHECKING:  # importing the evaluation imports scipy, which `hone --help` does not need
    from hone.evaluation.rankings import Figure, HeadToHeadVotes, RankingReport

__all__ = ["report_lines"]


def report_lines(version: str, report: RankingReport) -> list[str]:
    """The report for people.

    Args:
        version: whose answers are in question.
        report: what the votes say.
    """
    if not report.votes:
        return ["No votes yet."]
    raters = ", ".join(f"{harmless(name)} {count}" for name, count in report.raters.items())
    lines = [f"{report.votes} votes on {report.prompts} prompts by {raters}", ""]
    if report.against:
        rows = [["BLIND COMPARISON", "WON", "LOST", "TIED", "SAME TEXT", "SHARE WON", "95% INTERVAL", "P"]]
        rows += [_comparison(one) for one in report.against]
        lines += [harmless(line) for line in text_table(rows, right=(1, 2, 3, 4, 5, 7))]
        lines += ["", *(_sentence(one) for one in report.against), ""]
        rows = [["STRENGTH (BRADLEY-TERRY)", "LOG-ODDS", "95% INTERVAL", "COMPARISONS"]]
        rows += [
            [name, _number(one.value, "+.2f"), _interval(one, "+.2f"), str(one.count)]
            for name, one in report.strengths.items()
        ]
        lines += [*(harmless(line) for line in text_table(rows, right=(1, 3))), ""]
    rows = [["AGREEMENT AND LENGTH", "VALUE", "95% INTERVAL", "PAIRS"]]
    for name, one, form in (
        ("Krippendorff's alpha, nominal", report.alpha_nominal, ".2f"),
        ("Krippendorff's alpha, ordinal", report.alpha_ordinal, ".2f"),
        ("Cohen's kappa", report.kappa, ".2f"),
        ("longer answer preferred, %", report.longer, ".1f"),
    ):
        if one is not None:
            rows.append([name, _number(one.value, form), _interval(one, form), str(one.count)])
    return lines + text_table(rows, right=(1, 3))


def _comparison(one: HeadToHeadVotes) -> list[str]:
    p_value = "-" if one.p_value is None else "< 0.001" if one.p_value < 0.001 else f"{one.p_value:.3f}"
    counts = [str(one.wins), str(one.losses), str(one.ties), str(one.same)]
    share = _number(one.share.value, ".1f")
    name = f"{one.contender} against {one.against}"
    return [name, *counts, share if share == "-" else f"{share}%", _interval(one.share, ".1f"), p_value]


def _sentence(one: HeadToHeadVotes) -> str:
    if one.share.value is None:
        text = f"{one.contender} and {one.against} were not compared."
    elif one.winner is None:
        text = f"Between {one.contender} and {one.against} nothing is decided: the interval contains 50, or p >= 0.05."
    else:
        text = f"{one.winner} wins blind."
    return harmless(text)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _interval(figure: Figure, form: str) -> str:
    if figure.interval is None:
        return "-"
    return f"{figure.interval[0]:{form}} to {figure.interval[1]:{form}}"
