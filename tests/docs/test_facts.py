"""Figures and lists that the pages repeat from the code are those of the code, and links lead somewhere."""

from __future__ import annotations

import re

import pytest

from hone import config, errors
from hone.data.detection import FORMATS
from hone.data.faults import FAULTS
from hone.data.near import NEAR_THRESHOLD
from hone.evaluation.scorers import METRICS, SHAPE_METRICS
from hone.planning.choose import (
    Facts,
    Given,
    MethodRules,
    choose_held_out_rows,
    choose_training,
    choose_validation_rows,
)
from tests.data.chat_tokenizers import trl_templates
from tests.data.test_render_templates import REFUSED
from tests.docs.pages import REPOSITORY, page_names, page_text

LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
# Written by benchmarks/tasks.py, and so not there before it ran.
MADE_LATER = {"docs/results.md"}


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def table_rows(text: str) -> list[list[str]]:
    """The cells of all table rows of a page."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("name", page_names())
def test_links_lead_somewhere(name: str) -> None:
    lost = []
    for link in LINK.finditer(page_text(name)):
        target = (REPOSITORY / name).parent / link["path"] if link["path"] else REPOSITORY / name
        relative = target.resolve().relative_to(REPOSITORY.resolve()).as_posix()
        if not target.exists():
            lost += [link[0]] if relative not in MADE_LATER else []
        elif link["anchor"] and link["anchor"] not in anchors(target.read_text(encoding="utf-8")):
            lost.append(link[0])
    assert lost == []


def test_anchors_are_made_as_on_the_page() -> None:
    assert anchors("# hone evaluate --json\n## What's `it`?") == {"hone-evaluate---json", "whats-it"}


def test_every_ledger_code_stands_with_its_meaning() -> None:
    told = {cells[0]: cells[1:] for cells in table_rows(page_text("docs/data.md")) if len(cells) == 3}
    assert {code: told.get(f"`{code}`") for code in FAULTS} == {
        code: [kind.severity, kind.means] for code, kind in FAULTS.items()
    }


def test_every_format_and_the_threshold_are_told() -> None:
    text = page_text("docs/data.md")
    assert [name for name in FORMATS if f"| `{name}` |" not in text] == []
    assert f"similarity of at least\n  {NEAR_THRESHOLD}" in text


def test_every_metric_is_told_under_its_shapes() -> None:
    rows = table_rows(page_text("docs/evaluate.md"))
    shapes = {cells[0].strip("`"): re.findall(r"`(\w+)`", cells[1]) for cells in rows if len(cells) == 2}
    assert {shape: tuple(shapes[shape]) for shape in SHAPE_METRICS} == dict(SHAPE_METRICS)
    assert [name for name in METRICS if f"`{name}`" not in {cells[0] for cells in rows}] == []


def test_every_default_is_the_fields_own() -> None:
    rows = table_rows(page_text("docs/configuration.md"))
    told = [(re.findall(r"`(\w+)`", cells[0]), cells[1].split(",")[0].strip("`")) for cells in rows if len(cells) == 3]
    wrong = []
    for model in (config.TrainConfig, config.RunConfig, config.EvaluateConfig, config.GenerateConfig):
        for name, field in model.model_fields.items():
            default = "required" if field.is_required() else field.default
            written = str(default).lower() if isinstance(default, bool) else str(default)
            if default is not None and not any(name in names and written == value for names, value in told):
                wrong.append(f"{model.__name__}.{name}: {written}")
    assert wrong == []


def test_the_exit_codes_are_those_of_the_errors() -> None:
    codes = {int(cells[0]) for cells in table_rows(page_text("docs/configuration.md")) if cells[0].isdigit()}
    raised = {getattr(errors, name).exit_code for name in errors.__all__}
    assert codes == raised | {0, 3}


def test_the_defaults_by_number_of_rows_are_those_that_are_chosen() -> None:
    rows = [cells for cells in table_rows(page_text("docs/defaults.md")) if len(cells) == 7 and cells[0].isdigit()]
    assert len(rows) > 5
    for cells in rows:
        used = int(cells[0])
        held_out = int(choose_held_out_rows(used).value or 0)
        validation = int(choose_validation_rows(used - held_out).value or 0)
        train = used - held_out - validation
        facts = Facts(
            num_parameters=135_000_000,
            num_layers=30,
            width=576,
            row_lengths=[100] * (train + validation),
            context_length=8192,
            available_bytes=None,
            bytes_per_value=2,
        )
        chosen = choose_training(facts, Given(), MethodRules())
        steps = -(-train // chosen.batch_size) * chosen.epochs
        expected = [used, held_out, validation, train, chosen.batch_size, chosen.epochs, steps]
        assert cells == [str(figure) for figure in expected], f"docs/defaults.md, the line of {used} rows"


def test_every_refused_template_is_in_the_table() -> None:
    text = page_text("docs/templates.md").split("## Families", 1)[1].split("## What is stored", 1)[0]
    named = {name.removesuffix(" only") for groups in REFUSED.values() for names in groups for name in names}
    assert [name for name in sorted(named) if f"`{name}`" not in text] == []
    assert f"all {len(trl_templates())} chat templates" in text
