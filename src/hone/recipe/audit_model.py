"""What a base tells of a file: rows that its template refuses or cuts, answers that do not fit their prompts.

The part of ``hone data check --model`` that loads a model; without that option nothing here is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hone.data.answers import AnswerRenderer
from hone.data.audit.labels import suspect_labels
from hone.data.audit.learned import loss_outliers, mismatched_pairs, other_prompts
from hone.data.audit.report import AuditReport, with_faults
from hone.data.faults import Fault
from hone.data.loader import load_examples
from hone.data.render import Renderer
from hone.data.split import are_labels
from hone.errors import TemplateError
from hone.evaluation.likelihood import answer_bits
from hone.model.load import LoadedModel, load_base
from hone.recipe.inference import make_renderer, training_path
from hone.recipe.rows import RowRenderer, last_user_text
from hone.types import Example, JsonDict, TokenSequence

__all__ = ["MOST_SCORED", "add_model_faults"]

# Rows that are scored: the model reads each of them five times. The first in the order of their content's hashes.
MOST_SCORED = 2000
_OTHER_PROMPTS = 4
_LENGTHS_ONLY = "of preferences the base looks at lengths alone: how likely an answer is does not say if it is better"

_Rendered = list[tuple[Example, tuple[TokenSequence, ...]]]


def add_model_faults(
    report: AuditReport,
    *,
    model: str,
    home: Path,
    mapping: Mapping[str, str] | None = None,
    max_length: int | None = None,
    note: Callable[[str], None] = lambda text: None,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> AuditReport:
    """Look at an audited file with a base.

    Args:
        report: of the file; one that is refused comes back as it is.
        model: the base.
        home: hone's home folder.
        mapping: columns that the user named.
        max_length: longest row in tokens; the base's context unless given.
        note: receives sentences for the user.
        on_done: called with the number of answers scored, and of all.

    Returns:
        The report with the faults ``template``, ``cut_row``, ``mismatched_pair``, ``loss_outlier`` and ``label_error``;
        where answers are compared or judged, with ``template`` alone: rows with an answer that is too long.

    Raises:
        HoneError: the model cannot be used.
    """
    if report.refused:
        return report
    loaded = load_examples(report.source, mapping=mapping, preferences=True)
    examples = [example for example in loaded.examples if example.row not in report.late_drops]
    base = load_base(model, home=home, note=note)
    renderer = make_renderer(base, examples, max_length=max_length, note=note)
    if loaded.are_preferences:
        _, faults, cut = _rendered(examples, AnswerRenderer(renderer))
        report = replace(report, notes=(*report.notes, _LENGTHS_ONLY))
        return with_faults(report, faults, cut_rows=cut, learned={"model": base.name, "scored": 0})
    rendered, faults, cut = _rendered(examples, renderer)
    scored = rendered[:MOST_SCORED]
    learned: JsonDict = {"model": base.name, "scored": len(scored)}
    if len(scored) > 1:
        found, figures = _likelihood_faults(base, renderer, scored, on_done)
        faults += found
        learned |= figures
    faults += _label_faults([example for example, _ in rendered])
    return with_faults(report, faults, cut_rows=cut, learned=learned)


def _rendered(examples: Sequence[Example], renderer: RowRenderer) -> tuple[_Rendered, list[Fault], set[int]]:
    """The rows as tokens, the faults of those that cannot be, and the rows that are cut."""
    usable: _Rendered = []
    faults: list[Fault] = []
    cut: set[int] = set()
    for example in examples:
        try:
            rendered = renderer.render(example)
        except TemplateError as error:
            faults.append(Fault.of("template", error.what, row=example.row, line=example.line))
            continue
        if rendered.cut_tokens:
            cut.add(example.row)
            message = f"{rendered.cut_tokens} tokens are left out"
            faults.append(Fault.of("cut_row", message, row=example.row, line=example.line))
        usable.append((example, rendered.sequences))
    return usable, faults, cut


def _likelihood_faults(
    base: LoadedModel, renderer: Renderer, rows: _Rendered, on_done: Callable[[int, int], None]
) -> tuple[list[Fault], JsonDict]:
    """Mismatched pairs and outliers."""
    examples = [example for example, _ in rows]
    own = [sequences[-1] for _, sequences in rows]
    pairs, swapped = [], []
    for index, others in enumerate(other_prompts(len(rows), _OTHER_PROMPTS)):
        for other in others:
            messages = (*examples[other].messages[:-1], examples[index].messages[-1])
            try:
                sequence = renderer.render(replace(examples[index], messages=messages)).sequences[-1]
            except TemplateError:
                continue  # too long with that prompt; the others tell enough
            pairs.append(index)
            swapped.append(_last_turn(sequence))
    total = len(own) + len(swapped)
    forward, attention = training_path(base.model, reference=False)
    base.model.eval()
    with attention:
        every = [*map(_last_turn, own), *swapped]
        bits = answer_bits(base.model, every, forward=forward, on_done=lambda count: on_done(count, total))
    own_bits, rest = bits[: len(own)], bits[len(own) :]
    others_of: list[list[float]] = [[] for _ in own]
    for index, value in zip(pairs, rest, strict=True):
        others_of[index].append(value)
    compared = [index for index, others in enumerate(others_of) if others]
    faults = []
    # a label fits a third of all prompts by chance: label_error is the measure for those
    labels = are_labels([example.answer.strip() for example in examples])
    pairs_found = mismatched_pairs([own_bits[i] for i in compared], [others_of[i] for i in compared])
    for place, gain in [] if labels else pairs_found:
        example = examples[compared[place]]
        message = f"its prompt makes the answer {gain:.1f} bits likelier than other rows' prompts do"
        faults.append(Fault.of("mismatched_pair", message, row=example.row, line=example.line))
    per_token = [value / max(_last_turn(s).num_supervised, 1) for value, s in zip(own_bits, own, strict=True)]
    for index in loss_outliers(per_token):
        message = (
            f"{per_token[index]:.1f} bits a token, where half the rows have {sorted(per_token)[len(own) // 2]:.1f}"
        )
        faults.append(Fault.of("loss_outlier", message, row=examples[index].row, line=examples[index].line))
    return faults, {"bits_per_token": round(sum(per_token) / len(per_token), 3)}


def _last_turn(sequence: TokenSequence) -> TokenSequence:
    """With the last supervised stretch alone supervised: the answer."""
    marks = list(sequence.supervised)
    end = max(index for index, mark in enumerate(marks) if mark)
    start = end
    while start > 0 and marks[start - 1]:
        start -= 1
    return TokenSequence(sequence.ids, tuple(start <= index <= end for index in range(len(marks))), sequence.row)


def _label_faults(examples: Sequence[Example]) -> list[Fault]:
    answers = [example.answer.strip() for example in examples]
    if not are_labels(answers):
        return []
    faults = []
    for suspect in suspect_labels([last_user_text(example) for example in examples], answers):
        example = examples[suspect.index]
        message = (
            f"{answers[suspect.index]!r} has a probability of {suspect.own_probability:.0%} by the other rows, "
            f"{suspect.other!r} of {suspect.other_probability:.0%}"
        )
        faults.append(Fault.of("label_error", message, row=example.row, line=example.line))
    return faults
