"""The report of a run, three times the same: ``evaluation.json`` for programs, ``report.md``, ``report.html``.

``evaluation.json`` holds the ``evaluation`` object of the run's result, with its ``verdict`` inside,
and its ``retention`` where that was measured.

The page is one self-contained file: no script, no font, no image and no address to fetch; the browser is told to
refuse any. All text that came from the user's data or from a model is escaped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from hone.evaluation.charts import Interval, curve_chart, interval_chart
from hone.evaluation.digits import digits_of
from hone.evaluation.printable import printable
from hone.evaluation.report_beside import fit_context, slices_context
from hone.evaluation.report_retention import retention_context
from hone.evaluation.report_seeds import seeds_context
from hone.files import write_atomically
from hone.types import JsonDict

__all__ = ["write_report"]

ARM_TITLES = {
    "base": "Base",
    "prompted": "Base, instructed",
    "few_shot": "Base, few-shot",
    "retrieval": "Base, retrieval",
    "tuned": "Tuned",
    "tuned_retrieval": "Tuned, retrieval",
}
DECISION_TITLES = {
    "ship": ("✓", "Ship", "good"),
    "do_not_ship": ("✕", "Do not ship", "bad"),
    "not_enough_evidence": ("?", "Not enough evidence", "open"),
    "prompting_is_enough": ("=", "Prompting is enough", "open"),
    "retrieval_is_enough": ("=", "Retrieval is enough", "open"),
    "ship_with_retrieval": ("✓", "Ship, with retrieval", "good"),
}
LONGEST_TEXT = 1200
_BYTE_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
MOST_DROPPED_ROWS = 100
MOST_LISTED = 12


def write_report(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write ``evaluation.json``, ``report.md`` and ``report.html`` into a run's folder.

    Args:
        folder: the run's folder; made where it is missing.
        result: the object that ``hone run --json`` prints. Only ``evaluation`` is needed; what is absent is left out
            of the report. Beyond the documented keys these are shown where they are given: ``answers`` (all rows,
            ``Evaluation.answers``), ``notes`` (sentences), ``curves`` {``training``, ``validation``: [[step, loss]]},
            ``dropped_rows`` [{``row``, ``line``, ``code``, ``reason``}], ``settings`` {name: value}, ``repeat``
            (a command line), ``created`` (a time). Items of ``proof`` are those of ``proof.json``: {``number``,
            ``name``, ``holds``, ``measured``, ``bound``, ``checked``, ``remedy``}.

    Returns:
        The path of ``report.html``.

    Raises:
        StorageError: a file cannot be written.
    """
    stored = {**result["evaluation"], "verdict": result.get("verdict")}
    if result.get("retention") is not None:
        stored["retention"] = result["retention"]
    document = json.dumps(stored, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    environment = _environment()
    context = _context(result)
    page = environment.get_template("report.html.jinja").render(context)
    text = environment.get_template("report.md.jinja").render(context)
    # A lone half of a surrogate pair cannot be encoded; as a backslash escape it stays legal JSON.
    write_atomically(folder / "evaluation.json", document.encode("utf-8", "backslashreplace"))
    write_atomically(folder / "report.md", text.encode("utf-8", "backslashreplace"))
    path = folder / "report.html"
    write_atomically(path, page.encode("utf-8", "backslashreplace"))
    return path


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hone.evaluation", package_path="."),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.jinja",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown=_shown, clean=printable, cut=_cut, is_cut=_is_cut)
    environment.filters.update(cell=_markdown_cell, fence=_markdown_fence)
    return environment


def _context(result: Mapping[str, Any]) -> JsonDict:
    evaluation: Mapping[str, Any] = result["evaluation"]
    metric = evaluation["metrics"][evaluation["metric"]]
    digits = digits_of(metric["name"])
    arms = [_arm_row(name, arm, digits) for name, arm in evaluation["arms"].items()]
    differences = [_difference_row(one, evaluation) for one in evaluation["differences"]]
    curves = result.get("curves") or {}
    verdict = result.get("verdict")
    return {
        "version": result.get("version") or "unregistered run",
        "created": re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*Z$", r"\1 \2 UTC", str(result.get("created") or "")),
        "run_dir": result.get("run_dir"),
        "verdict": verdict,
        "decision": DECISION_TITLES.get(verdict["decision"], ("?", verdict["decision"], "open")) if verdict else None,
        "evaluation": evaluation,
        "metric": metric,
        "arms": arms,
        "differences": differences,
        "other_differences": [_difference_row(one, evaluation) for one in evaluation["other_differences"]],
        "metric_rows": _metric_rows(evaluation),
        "grounding": evaluation.get("grounding"),
        "grounding_rows": _grounding_rows(evaluation),
        "arm_chart": interval_chart([arm["interval_row"] for arm in arms], metric["title"]),
        "difference_chart": _difference_chart(differences, metric["title"]),
        "examples": [
            ("Largest gains", evaluation["examples"]["best"]),
            ("Largest losses, or least gains", evaluation["examples"]["worst"]),
        ],
        "arm_titles": ARM_TITLES,
        "fit": fit_context(evaluation, ARM_TITLES, digits),
        "slices": slices_context(evaluation, digits),
        "seeds": seeds_context(evaluation, digits),
        "retention": retention_context(result.get("retention")),
        "answers": _with_changes(result.get("answers") or [], evaluation, metric),
        "base_line": _base_line(result.get("base") or {}),
        "base": _flat(result.get("base") or {}),
        "data": result.get("data") or {},
        "dropped_rows": list(result.get("dropped_rows") or [])[:MOST_DROPPED_ROWS],
        "training": _flat(result.get("training") or {}),
        "curve_chart": _curves(curves),
        "proof": [_proof_row(item) for item in result.get("proof") or []],
        "settings": _flat(result.get("settings") or {})
        + _flat({key: result[key] for key in ("generation", "code") if result.get(key)}),
        "notes": list(result.get("notes") or []),
        "repeat": result.get("repeat"),
    }


def _with_changes(
    answers: Sequence[JsonDict], evaluation: Mapping[str, Any], metric: Mapping[str, Any]
) -> list[JsonDict]:
    """The rows with ``change``: whether the first difference's arm is better or worse on it, or the same."""
    if not evaluation["differences"]:
        return [{**row, "change": None} for row in answers]
    arm, against = (evaluation["differences"][0][side] for side in ("arm", "against"))
    sign = 1.0 if metric["higher_is_better"] else -1.0
    changes = [sign * (row["scores"][arm] - row["scores"][against]) for row in answers]
    words = ["better" if change > 0 else "worse" if change < 0 else "same" for change in changes]
    return [{**row, "change": word} for row, word in zip(answers, words, strict=True)]


def _base_line(base: Mapping[str, Any]) -> str:
    """What it was tuned from, in a few words."""
    parts = [f"from {base['name']}"] if base.get("name") else []
    parts += [f"{base['parameters'] / 1e6:,.0f}M parameters"] if base.get("parameters") else []
    parts += [f"hash {str(base['hash'])[:12]}"] if base.get("hash") else []
    return ", ".join(parts)


def _arm_row(name: str, arm: Mapping[str, Any], digits: int) -> JsonDict:
    low, high = arm["interval"] or (None, None)
    text = f"{arm['score']:.{digits}f}"
    if low is not None:
        text += f"  [{low:.{digits}f} – {high:.{digits}f}]"
    title = ARM_TITLES.get(name, name)
    style = "tuned" if name.startswith("tuned") else "base"
    return {
        "name": name,
        "title": title,
        "score": f"{arm['score']:.{digits}f}",
        "interval": f"{low:.{digits}f} – {high:.{digits}f}" if low is not None else None,
        "stop_share": f"{arm['stop_share']:.0%}",
        "tokens": arm["tokens"],
        "seconds": arm["seconds"],
        "per_thousand": arm.get("per_1000_answers") or {},
        "how": _flat(arm.get("how") or {}),
        "interval_row": Interval(title, arm["score"], low, high, text, style),
    }


def _difference_row(one: Mapping[str, Any], evaluation: Mapping[str, Any]) -> JsonDict:
    metric = evaluation["metrics"][one["metric"]]
    digits = digits_of(one["metric"])
    low, high = one["interval"] or (None, None)
    better = (one["difference"] > 0) == metric["higher_is_better"]
    finding = ("better" if better else "worse") if one["different"] else "undecided"
    return {
        **one,
        "title": f"{ARM_TITLES.get(one['arm'], one['arm'])} − {ARM_TITLES.get(one['against'], one['against'])}",
        "metric_title": metric["title"],
        "higher_is_better": metric["higher_is_better"],
        "text": f"{one['difference']:+.{digits}f}",
        "interval_text": f"{low:+.{digits}f} to {high:+.{digits}f}" if low is not None else None,
        "p_text": _p_text(one["p_value"] if one.get("p_adjusted") is None else one["p_adjusted"]),
        "finding": finding,
    }


def _p_text(p_value: float | None) -> str | None:
    return None if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _grounding_rows(evaluation: Mapping[str, Any]) -> list[JsonDict]:
    """What each arm owes to the documents, as shares of 100."""
    grounding = evaluation.get("grounding") or {"arms": {}}
    return [
        {
            "title": ARM_TITLES.get(name, name),
            **{key: None if one[key] is None else f"{one[key]:.0%}" for key in ("facts", "supported")},
        }
        for name, one in grounding["arms"].items()
    ]


def _difference_chart(differences: Sequence[Mapping[str, Any]], title: str) -> str | None:
    if not differences:
        return None
    rows = []
    for one in differences:
        low, high = one["interval"] or (None, None)
        text = f"{one['text']}  [{one['interval_text']}]" if one["interval_text"] else one["text"]
        style = {"better": "good", "worse": "bad", "undecided": "open"}[one["finding"]]
        rows.append(Interval(one["title"], one["difference"], low, high, text, style))
    return interval_chart(rows, f"Difference in {title}", zero_line=True)


def _metric_rows(evaluation: Mapping[str, Any]) -> list[JsonDict]:
    rows = []
    for name, metric in evaluation["metrics"].items():
        digits = digits_of(name)
        values = [arm["metrics"][name] for arm in evaluation["arms"].values()]
        rows.append({**metric, "values": [None if value is None else f"{value:.{digits}f}" for value in values]})
    return rows


def _curves(curves: Mapping[str, Sequence[Sequence[float]]]) -> str | None:
    lines = [("Training loss", "base", "training"), ("Validation loss", "tuned", "validation")]
    drawn = [
        (label, style, [(float(step), float(loss)) for step, loss in curves.get(key) or []])
        for label, style, key in lines
    ]
    return curve_chart(drawn, "Loss by step")


def _proof_row(item: Mapping[str, Any]) -> JsonDict:
    mark, word, style = ("✓", "holds", "good") if item["holds"] else ("✕", "does not hold", "bad")
    values = {key: item.get(key) for key in ("number", "name", "measured", "bound", "checked")}
    found = f"{item['found']}: " if item.get("found") else ""
    return {
        **values,
        "remedy": None if item["holds"] or not item.get("remedy") else f"{found}{item['remedy']}",
        "mark": mark,
        "word": word,
        "style": style,
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested figures as (label, value) pairs, in order."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        label = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{label}: ")
        elif key.endswith("_bytes") and isinstance(value, int):
            pairs.append((label.removesuffix(" bytes"), _as_bytes(value)))
        else:
            pairs.append((label, value))
    return pairs


def _as_bytes(count: int) -> str:
    return next((f"{count / size:.3g} {unit}" for size, unit in _BYTE_UNITS if count >= size), f"{count} bytes")


def _shown(value: Any) -> str:
    """A figure as people read it; None is "not measured", never a number."""
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return "not measured"
        large = f"{value:,.1f}".replace(",", "\u202f").removesuffix(".0")
        return large if abs(value) >= 100 else f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        between = "; " if any(isinstance(item, Mapping) for item in value) else ", "
        listed = between.join(_shown(item) for item in value[:MOST_LISTED]) or "none"
        return listed if len(value) <= MOST_LISTED else f"{listed}, … ({len(value)} in all)"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_shown(item)}" for key, item in value.items())
    return printable(value)


def _cut(text: str) -> str:
    """At most LONGEST_TEXT characters; says what it left out."""
    cleaned = printable(text)
    left_out = len(cleaned) - LONGEST_TEXT
    return cleaned if left_out <= 0 else f"{cleaned[:LONGEST_TEXT]} … ({left_out} more characters)"


def _is_cut(text: str) -> bool:
    return len(printable(text)) > LONGEST_TEXT


def _markdown_cell(text: object) -> str:
    """Text inside a table of Markdown: one line, nothing in it is markup."""
    line = " ".join(_shown(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|!~&$])", r"\\\1", line)


def _markdown_fence(text: str) -> str:
    """A code block that the text inside cannot end."""
    shown = _cut(text)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
