"""The report says what the result says, escapes what it did not write, and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hone.errors import StorageError
from hone.evaluation import ArmResult, decide, detect_shape, evaluate_arms
from hone.evaluation.report import write_report
from hone.evaluation.slices import Slice

NASTY = "<script>alert('x')</script> & <img src=x onerror=y> \x00\u202e ``` | **bold** ]]>"


def result(slices: Sequence[Slice] = (), **changes: Any) -> dict[str, Any]:
    """An invented run: 24 rows, whose first prompt, reference and answers try to be markup."""
    references = [f"The parcel number {n} leaves on day {n % 7}; thank you for your patience." for n in range(24)]
    prompts = [f"Where is parcel {n}?" for n in range(24)]
    tuned = [reference if n % 3 else reference[:30] for n, reference in enumerate(references)]
    base = [f"I am not sure what you mean by {n}." for n in range(24)]
    prompts[0] = references[0] = tuned[0] = base[1] = NASTY
    base[0] = ""
    arms = [
        ArmResult("base", base, [True] * 24, [12] * 24, 3.25, [90.0 + n for n in range(24)], [60] * 24),
        ArmResult("tuned", tuned, [True] * 23 + [False], [20] * 24, 4.5, [20.0 + n for n in range(24)], [60] * 24),
    ]
    evaluation = evaluate_arms(detect_shape(references), references, prompts, arms, slices=slices)
    invented: dict[str, Any] = {
        "schema": 1,
        "version": "support@1",
        "run_dir": "runs/1",
        "created": "2025-11-22 10:00 UTC",
        "base": {"name": "smollm2-135m-instruct", "hash": "abc"},
        "data": {"rows": 120, "kept": 117, "cut": 2, "dropped": 1, "held_out": 24, "source": "rows.jsonl"},
        "dropped_rows": [{"row": 7, "line": 8, "code": "empty", "reason": f"the answer is empty {NASTY}"}],
        "training": {"method": "sft", "tokens": 23456, "seconds": 61.5, "peak_memory_bytes": 1843211008, "loss": None},
        "evaluation": evaluation.to_json(),
        "answers": evaluation.answers,
        "verdict": decide(evaluation).to_json(),
        "proof": [
            {"number": 1, "name": "rows have supervised tokens", "holds": True, "measured": 117.0, "bound": "all 117"},
            {
                "number": 3,
                "name": f"documents do not read each other {NASTY}",
                "holds": False,
                "measured": 0.25,
                "bound": "at most 1e-05",
                "checked": "8 of 120 rows",
                "remedy": "report this",
            },
        ],
        "curves": {"training": [[1, 3.0], [2, 2.0], [3, float("nan")], [4, 1.5]], "validation": [[2, 2.2], [4, 1.8]]},
        "generation": {"max_new_tokens": 96, "temperature": 0.0},
        "settings": {"rank": 16, "learning_rate": 5e-4, "modules": ["q_proj", "v_proj"]},
        "notes": ["bf16 is slow here, so float32 was used."],
        "repeat": "hone run rows.jsonl --seed 0",
    }
    return {**invented, **changes}


class Page(HTMLParser):
    """Collects tags, attributes and visible text; complains about tags that do not nest."""

    EMPTY = frozenset({"meta", "line", "circle", "polyline", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        opened = self.open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path, **changes: Any) -> Page:
    return Page(write_report(folder, result(**changes)).read_text(encoding="utf-8"))


def test_the_page_nests_and_shows_the_figures(tmp_path: Path) -> None:
    given = result()
    page = page_of(tmp_path)
    assert page.open == []
    arms = given["evaluation"]["arms"]
    for shown in (
        given["verdict"]["reason"],
        f"{arms['base']['score']:.1f}",
        f"{arms['tuned']['score']:.1f}",
        "support@1",
        "hone run rows.jsonl --seed 0",
        "retention",
        "23\u202f456",
        "1.84 GB",
        "not measured",
        "cut off at the token limit",
    ):
        assert shown in page.text, shown


def test_the_report_shows_what_answers_owe_to_their_own_questions(tmp_path: Path) -> None:
    given = result()
    page = page_of(tmp_path, **given)
    fit = given["evaluation"]["fit"]
    for name in ("base", "tuned"):
        own, others = fit["arms"][name]["own"], fit["arms"][name]["others"]
        for shown in (f"{own:.1f}", f"{others:.1f}", f"{own - others:+.1f}"):
            assert shown in page.text, (name, shown)
    assert f"{fit['against_base']['tuned']['difference']:+.1f}" in page.text
    assert f"The references themselves are {fit['of_references']:.1f} apart" in page.text
    assert "own reference" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_report_shows_parts_of_the_rows(tmp_path: Path) -> None:
    parts = [Slice("first half", tuple(range(12))), Slice("by answer", tuple(range(12, 24)), decides=False)]
    given = result(slices=parts)
    page = page_of(tmp_path, **given)
    for one in given["evaluation"]["slices"]:
        for shown in (
            one["name"],
            f"{one['scores']['tuned']:.1f}",
            f"{one['against_base']['tuned']['difference']:+.1f}",
        ):
            assert shown in page.text, shown
    assert "better, for information" in page.text
    assert "| first half | 12 |" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_text_of_users_and_models_is_escaped(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "link"}
    assert "<script>alert('x')</script> & <img src=x onerror=y>" in page.text
    assert "\x00" not in page.text
    assert "\u202e" not in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_page_asks_no_network(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    targets = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert targets
    assert all(str(target).startswith("#") for target in targets)
    policies = [attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    raw = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "@import" not in raw
    assert "url(" not in raw


def test_links_inside_the_page_lead_somewhere(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    places = {attributes.get("id") for _, attributes in page.tags}
    assert {a["href"] for tag, a in page.tags if tag == "a"} <= {f"#{place}" for place in places}


def test_rows_can_be_chosen_by_what_changed(tmp_path: Path) -> None:
    given = result()
    page = Page(write_report(tmp_path, given).read_text(encoding="utf-8"))
    changes = [one["scores"]["tuned"] - one["scores"]["base"] for one in given["answers"]]
    counts = {"better": sum(c > 0 for c in changes), "worse": sum(c < 0 for c in changes), "same": changes.count(0)}
    assert counts["better"] > 1
    classes = [attributes.get("class") or "" for tag, attributes in page.tags if tag == "article"]
    for word, count in counts.items():
        assert sum(word in name.split() for name in classes) == count
        assert f"{word} ({count})" in page.text
    chosen = [attributes for tag, attributes in page.tags if tag == "input"]
    assert [one["id"] for one in chosen] == ["rows-all", "rows-better", "rows-worse", "rows-same"]
    assert ["checked" in one for one in chosen] == [True, False, False, False]
    assert {a["for"] for tag, a in page.tags if tag == "label"} == {one["id"] for one in chosen}


def test_lists_of_objects_are_read_as_words(tmp_path: Path) -> None:
    given = result()
    tried = [{"examples": 1, "bits_per_byte": 0.75}, {"examples": 3, "bits_per_byte": 0.5}]
    given["evaluation"]["arms"]["base"]["how"] = {"tried": tried, "left_out": []}
    text = Page(write_report(tmp_path, given).read_text(encoding="utf-8")).text
    assert "examples 1, bits per byte 0.75; examples 3, bits per byte 0.5" in text
    assert "{'" not in text


def test_charts_can_be_heard(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert [chart["class"] for chart in charts] == ["chart-wide", "chart-narrow"] * 4
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)


def test_evaluation_json_is_the_same_object(tmp_path: Path) -> None:
    given = result()
    write_report(tmp_path, given)

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    read = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert read == given["evaluation"] | {"verdict": given["verdict"]}


def test_markdown_cannot_be_broken_by_an_answer(tmp_path: Path) -> None:
    write_report(tmp_path, result())
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    inside, outside = None, []
    for line in text.splitlines():
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if inside is None and len(ticks) >= 3:
            inside = ticks
        elif inside is not None:
            inside = None if line == inside else inside
        else:
            outside.append(line)
    assert inside is None
    assert not any("<script>" in line for line in outside)
    tables = [line for line in outside if line.startswith("|")]
    assert len(tables) > 8
    headers = [line.count("|") - line.count("\\|") for line in tables]
    assert all(count >= 4 for count in headers)
    assert any("the tuned model is better: chrF" in line for line in outside)


def test_a_failed_invariant_says_what_to_do(tmp_path: Path) -> None:
    text = page_of(tmp_path).text
    assert "does not hold" in text
    assert "What to do: report this" in text
    assert "on 8 of 120 rows" in text


def test_only_the_evaluation_is_needed(tmp_path: Path) -> None:
    path = write_report(tmp_path, {"evaluation": result()["evaluation"]})
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert "unregistered run" in page.text
    assert "Proof" not in page.text


def test_a_single_arm_on_a_single_row_is_reported_without_an_interval(tmp_path: Path) -> None:
    arm = ArmResult("base", ["yes"], [True], [1])
    evaluation = evaluate_arms(detect_shape(["no"]), ["no"], ["?"], [arm])
    path = write_report(tmp_path, {"evaluation": evaluation.to_json(), "verdict": decide(evaluation).to_json()})
    page = Page(path.read_text(encoding="utf-8"))
    assert "not measured" in page.text
    assert "nan" not in page.text.lower().split()


def test_half_a_surrogate_pair_does_not_stop_the_report(tmp_path: Path) -> None:
    arm = ArmResult("base", ["good \ud83d"], [True], [1])
    evaluation = evaluate_arms(detect_shape(["good"]), ["good"], ["\udc00?"], [arm])
    path = write_report(tmp_path, {"evaluation": evaluation.to_json()})
    assert "good \ufffd" in path.read_text(encoding="utf-8")
    read = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert read["examples"]["best"][0]["answers"]["base"] == "good \ud83d"


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        write_report(tmp_path / "file" / "run", result())


def test_the_verdict_itself_says_what_it_leaves_open(tmp_path: Path) -> None:
    """Whoever reads the box alone must not take "Ship" for more than was measured."""
    page = write_report(tmp_path, result()).read_text(encoding="utf-8")
    box = Page(page[page.index('<section class="verdict') : page.index('<section id="comparison">')])
    assert "Not measured: retention" in box.text
    assert "faithfulness" in box.text
    assert "Not measured: retention" in (tmp_path / "report.md").read_text(encoding="utf-8").split("## Comparison")[0]


def test_a_long_answer_can_be_read_whole(tmp_path: Path) -> None:
    given = result()
    long = "word " * 400 + "<b>the end</b>"
    given["answers"] = [{**row, "answers": {**row["answers"], "tuned": long}} for row in given["answers"]]
    page = Page(write_report(tmp_path, given).read_text(encoding="utf-8"))
    assert page.open == []
    assert page.text.count(long) == page.text.count("Show all") >= 24
    assert "Show all" not in page_of(tmp_path).text
