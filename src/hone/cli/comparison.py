"""The comparison for people: the arms, their differences, one best and one worst row, the proof, the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from hone.cli.output import LABEL_COLUMNS, labelled, paragraph
from hone.cli.tables import figure, signed, text_table

__all__ = ["comparison_lines", "example_lines", "held_out", "proof_lines", "verdict_lines"]

_ARM_TITLES = {"few_shot": "few-shot", "tuned_retrieval": "tuned+retrieval"}
_DECISIONS = {
    "ship": ("Ship.", "bold green"),
    "do_not_ship": ("Do not ship.", "bold red"),
    "not_enough_evidence": ("Not enough evidence.", "bold yellow"),
    "prompting_is_enough": ("Prompting is enough.", "bold yellow"),
    "retrieval_is_enough": ("Retrieval is enough.", "bold yellow"),
    "ship_with_retrieval": ("Ship, with retrieval.", "bold green"),
}
_LINES_OF_A_TEXT = 3

_Json = Mapping[str, Any]


def held_out(evaluation: _Json) -> str:
    """What was judged on, counted; an evaluation of an older hone has rows alone."""
    rows, unit = evaluation["rows"], evaluation.get("unit", "row")
    return f"{rows} held-out {unit}{'' if rows == 1 else 's'}"


def comparison_lines(evaluation: _Json, *, columns: int) -> Iterator[str | Text]:
    """The arms in figures, then who differs from whom and how surely.

    Args:
        evaluation: the ``evaluation`` object of a result.
        columns: of a line; arms that do not fit beside each other stand in a second table.
    """
    metrics: _Json = evaluation["metrics"]
    deciding = metrics[evaluation["metric"]]
    direction = "higher" if deciding["higher_is_better"] else "lower"
    yield Text(
        f"Comparison on {held_out(evaluation)}; {deciding['title']} decides, {direction} is better", style="bold"
    )
    yield ""
    names = list(evaluation["arms"])
    lines = _arms_table(evaluation, names)
    while names:
        count = len(names)
        while count > 1 and max(map(len, lines)) > columns:
            count -= 1
            lines = _arms_table(evaluation, names[:count])
        yield from lines
        names = names[count:]
        lines = _arms_table(evaluation, names) if names else []
    yield from _how_lines(evaluation, columns)
    if evaluation["differences"]:
        yield ""
        yield from _differences_table(evaluation, evaluation["differences"][0])
    others = [one for one in evaluation["differences"][1:] if str(one["arm"]).startswith("tuned")]
    if others:
        yield ""
        yield from _other_differences_table(evaluation, others)
    if "preferences" in evaluation:
        yield ""
        yield from _slices_table(evaluation)


def _slices_table(evaluation: _Json) -> list[str]:
    """Preference accuracy where answers are of like length, and where they are not."""
    slices, name = evaluation["preferences"]["slices"], evaluation["metric"]
    arms = list(evaluation["arms"])
    rows = [["By length", "pairs", *(part for arm in arms for part in (_arm_title(arm), "95% interval"))]]
    for title, one in slices.items():
        if one["pairs"]:
            found = [one["arms"][arm] for arm in arms]
            cells = [part for arm in found for part in (figure(arm["score"], name), _interval(arm["interval"], name))]
            rows.append([title.replace("_", " "), str(one["pairs"]), *cells])
    return text_table(rows, indent=2) if len(rows) > 1 else []


def _arms_table(evaluation: _Json, names: Sequence[str]) -> list[str]:
    arms = [evaluation["arms"][name] for name in names]
    rows = [["", *(_arm_title(name) for name in names)]]
    for name, metric in evaluation["metrics"].items():
        rows.append([_metric_title(metric), *(figure(arm["metrics"][name], name) for arm in arms)])
        if name == evaluation["metric"]:
            confidence = evaluation["method"]["confidence"]
            rows.append([f"  {confidence:.0%} interval", *(_interval(arm["interval"], name) for arm in arms)])
    rows.append(["Ended by itself", *(f"{arm['stop_share']:.0%}" for arm in arms)])
    if any(arm.get("prompt_tokens") is not None for arm in arms):
        rows.append(["Tokens read + written", *map(_tokens, arms)])
    if evaluation.get("grounding"):
        measured = [evaluation["grounding"]["arms"].get(name, {}) for name in names]
        rows.append(["Facts of the documents right", *(_share(one.get("facts")) for one in measured)])
        rows.append(["Words that passages support", *(_share(one.get("supported")) for one in measured)])
    return text_table(rows, indent=2)


def _tokens(arm: _Json) -> str:
    """Tokens of one answer, on average."""
    costs = arm.get("per_1000_answers") or {}
    counts = [costs.get(name) for name in ("prompt_tokens", "tokens")]
    return " + ".join("?" if count is None else f"{count / 1000:.0f}" for count in counts)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.0%}"


def _differences_table(evaluation: _Json, first: _Json) -> list[str]:
    """One pair of arms, one line a metric; the deciding one first."""
    pair = (first["arm"], first["against"])
    both = (*evaluation["differences"], *evaluation["other_differences"])
    rows = [
        [evaluation["metrics"][one["metric"]]["title"], *_difference_cells(evaluation, one)]
        for one in both
        if (one["arm"], one["against"]) == pair
    ]
    title = f"{_arm_title(pair[0])} - {_arm_title(pair[1])}"
    heading = [title, "difference", f"{evaluation['method']['confidence']:.0%} interval", "p", ""]
    return text_table([heading, *rows], indent=2)


def _other_differences_table(evaluation: _Json, differences: Sequence[_Json]) -> list[str]:
    """The other pairs under the deciding metric, one line a pair; p is corrected for all of them."""
    rows = [
        [f"{_arm_title(one['arm'])} - {_arm_title(one['against'])}", *_difference_cells(evaluation, one)]
        for one in differences
    ]
    title = evaluation["metrics"][evaluation["metric"]]["title"]
    return text_table(
        [[title, "difference", f"{evaluation['method']['confidence']:.0%} interval", "p", ""], *rows], indent=2
    )


def _difference_cells(evaluation: _Json, one: _Json) -> list[str]:
    metric = evaluation["metrics"][one["metric"]]
    better = (one["difference"] > 0) == metric["higher_is_better"]
    finding = ("better" if better else "worse") if one["different"] else "undecided"
    corrected = one.get("p_adjusted")
    return [
        signed(one["difference"], metric["name"]),
        _interval(one["interval"], metric["name"], with_sign=True),
        _p(one["p_value"] if corrected is None else corrected),
        finding,
    ]


def _how_lines(evaluation: _Json, columns: int) -> Iterator[str | Text]:
    """What the arms were made of that the user did not see: the instruction, the number of examples, the search."""
    how = {name: arm["how"] for name, arm in evaluation["arms"].items() if arm.get("how")}
    said = []
    if "prompted" in how:
        origin = "made from the training rows" if how["prompted"]["derived"] else "as given"
        said.append(("prompted", f"instruction {origin}: {how['prompted']['instruction']}"))
    if "few_shot" in how:
        said.append(("few_shot", f"{how['few_shot']['examples']} training rows that are like the question"))
    if "retrieval" in how:
        one = how["retrieval"]
        said.append(("retrieval", f"{one['passages']} of {one['indexed_passages']} passages, by {one['search']}"))
    if said:
        yield ""
    for name, text in said:
        yield paragraph(text, columns=columns, first=f"  {_arm_title(name):<9} ", most_lines=_LINES_OF_A_TEXT)


def example_lines(evaluation: _Json, *, columns: int) -> Iterator[str | Text]:
    """The row on which the tuned model gained most, and the one on which it lost most; each text cut to a few lines."""
    metric = evaluation["metrics"][evaluation["metric"]]
    for part in ("best", "worst"):
        if not evaluation["examples"][part]:
            continue
        row = evaluation["examples"][part][0]
        yield ""
        yield Text(_example_title(row, metric, part, evaluation["differences"]), style="bold")
        texts = {"prompt": row["prompt"], "expected": row["reference"]}
        texts |= {_arm_title(arm): answer for arm, answer in row["answers"].items()}
        for label, text in texts.items():
            shown = text if text.strip() else "(nothing)"
            yield paragraph(shown, columns=columns, first=f"  {label:<9} ", most_lines=_LINES_OF_A_TEXT)


def _example_title(row: _Json, metric: _Json, part: str, differences: Sequence[_Json]) -> str:
    difference = row["difference"]
    if difference is None or not differences:
        return f"{part.capitalize()} row: {row['row']}"
    gained = difference if metric["higher_is_better"] else -difference
    word = "No change" if gained == 0 else "Gain" if gained > 0 else "Loss"
    if part == "best":
        word = "Largest gain" if gained > 0 else word
    else:
        word = "Largest loss" if gained < 0 else "Least gain" if gained > 0 else word
    scores = row["scores"]
    base, tuned = (figure(scores[differences[0][side]], metric["name"]) for side in ("against", "arm"))
    return f"{word}: held-out row {row['row']}, {metric['title']} {base} -> {tuned}"


def proof_lines(proof: Sequence[_Json], *, columns: int) -> Iterator[str | Text]:
    """How many invariants hold, and each that does not, with its figure, its bound and what to do."""
    failed = [one for one in proof if not one["holds"]]
    held = len(proof) - len(failed)
    yield labelled("Proof", f"{held} of {len(proof)} invariants hold on this model and data", columns=columns)
    for one in failed:
        figures = f"measured {one['measured']:g}, bound {one['bound']} ({one['checked']})"
        found = f" Found: {one['found']}." if one.get("found") else ""
        text = f"Does not hold: {one['number']}. {one['name']}: {figures}.{found} What to do: {one['remedy']}"
        yield labelled("", text, columns=columns, hang=2)


def verdict_lines(verdict: _Json, *, columns: int, reasons: str) -> Iterator[str | Text]:
    """The decision with its reason, what to beware of, and what nobody measured.

    Args:
        verdict: the ``verdict`` object of a result.
        columns: of a line.
        reasons: where it is written why something was not measured.
    """
    title, style = _DECISIONS.get(verdict["decision"], (f"{verdict['decision']}.", "bold"))
    line = labelled("Verdict", f"{title} {verdict['reason']}", columns=columns)
    line.stylize(style, LABEL_COLUMNS, LABEL_COLUMNS + len(title))
    yield line
    for warning in verdict["warnings"]:
        yield labelled("", f"Beware: {warning}", columns=columns, hang=2)
    names = [_arm_title(str(one["what"])).replace("_", " ") for one in verdict["not_measured"]]
    if names:
        yield labelled("", f"Not measured: {', '.join(names)} (reasons in {reasons}).", columns=columns, hang=2)


def _arm_title(arm: str) -> str:
    return _ARM_TITLES.get(arm, arm)


def _metric_title(metric: _Json) -> str:
    return str(metric["title"]) + ("" if metric["higher_is_better"] else " (lower is better)")


def _interval(pair: Sequence[float] | None, metric: str, *, with_sign: bool = False) -> str:
    if pair is None:
        return "none"
    low, high = ((signed(one, metric) if with_sign else figure(one, metric)) for one in pair)
    return f"{low} to {high}"


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
