"""``hone rank`` as a person or a pipe uses it: blind, undone, resumed, by two raters, reported, exported, imported."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from hone.cli.rank import parse_ranking
from hone.data.loader import load_examples
from hone.errors import ConfigError
from tests.cli.conftest import FinishedRun, Hone

SHORT = ("--max-new-tokens", "40", "--device", "cpu", "--dtype", "float32")


@pytest.fixture
def voting(finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinishedRun:
    """A copy of the finished run's home, for votes of one test alone."""
    home = Path(shutil.copytree(finished_run.home, tmp_path / "voting", symlinks=True))
    monkeypatch.setenv("HONE_HOME", str(home))
    return FinishedRun(home, finished_run.rows, finished_run.ended)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Four prompts, one a line; one stands twice."""
    path = tmp_path / "prompts.txt"
    path.write_text("what of the lamp?\nwhat of the bell?\nis it far?\nis it far?\nwho?\n", encoding="utf-8")
    return path


def test_a_whole_comparison(voting: FinishedRun, hone: Hone, prompts: Path, tmp_path: Path) -> None:
    command = ("rank", "orders", "--prompts", prompts, "--limit", 5, *SHORT)
    first = hone(*command, "--rater", "anna", stdin=b"1\nnonsense\n2\nu\n1\nq\n")
    assert first.code == 0, first.err
    assert "'nonsense' is neither answer; type 1, 2, t, s, u or q" in first.out
    assert "Taken back." in first.out
    assert "2 of 4 prompts are done. The same command goes on." in first.out
    # nothing on the screen says who wrote an answer, but the last line, which names what the rater asked for
    shown = first.out.rsplit("What the votes say", 1)[0]
    for name in ("orders", "tiny", "base", "tuned", "temperature"):
        assert name not in shown, name

    # the same command goes on, and no model is loaded for it
    rest = hone(*command, "--rater", "anna", "--json", stdin=b"t\ns\n")
    assert rest.code == 0
    assert rest.json["now"] == {"votes": 1, "skipped": 1, "undone": 0}
    assert (rest.json["done"], rest.json["left"], rest.json["prompts"]) == (4, 0, 4)
    assert "loading" not in rest.err
    again = hone(*command, "--rater", "anna")
    assert "All 4 prompts are done." in again.out

    other = hone(*command, "--rater", "bob", "--json", stdin=b"1\n1\n1\n")  # the input ends before the prompts do
    assert (other.json["session"], other.json["left"]) == (rest.json["session"], 1)
    asked = re.compile(r"Prompt\n    (.*)\n")
    one, same = asked.findall(first.out), asked.findall(rest.err)
    assert one[3:] == one[1:3]  # what was taken back came again, and then what had stood there
    assert same[0] == one[-1]  # what was left when she ended came first when she went on

    report = hone("rank", "orders", "--report", "--json")
    assert report.json["raters"] == {"anna": 3, "bob": 3}
    [found] = report.json["against"]
    assert found["contender"] == "orders@1"
    assert found["wins"] + found["losses"] + found["ties"] == 6
    told = hone("rank", "orders", "--report")
    for label in ("BLIND COMPARISON", "STRENGTH", "Krippendorff's alpha, ordinal", "Cohen's kappa", "longer answer"):
        assert label in told.out
    _exchange(hone, tmp_path, rest.json["session"])


def _exchange(hone: Hone, tmp_path: Path, session: str) -> None:
    listed = hone("rankings", "list", "--json").json["sessions"]
    assert [(one["session"], one["votes"]) for one in listed] == [(session, {"anna": 4, "bob": 3})]
    assert session in hone("rankings", "list").out
    items = hone("rankings", "show", "orders", "--json").json["items"]
    assert {one["contender"] for item in items for answer in item["answers"] for one in answer["origins"]} >= {
        "orders@1"
    }
    assert all(vote["voted_at"] and vote["seconds"] is not None for item in items for vote in item["votes"])
    assert "skipped" in hone("rankings", "show", session).out

    rows = tmp_path / "rows.jsonl"
    assert hone("rankings", "export", session, rows, "--each-vote").code == 0
    assert load_examples(str(rows), preferences=True).format == "preference"
    assert "--no-votes says nothing of the format hone" in hone("rankings", "export", session, rows, "--no-votes").err
    for name in ("label-studio", "argilla"):
        file = tmp_path / f"{name}.json"
        assert hone("rankings", "export", session, file, "--format", name, "--each-vote").code == 2
        assert hone("rankings", "export", session, file, "--format", name).code == 0
        assert "orders@1" not in file.read_text(encoding="utf-8")
        back = hone("rankings", "import", file, "--format", name, "--json").json
        assert (back["session"], back["new"], back["votes"], back["differing"]) == (session, False, 0, 0)
    tasks = json.loads((tmp_path / "label-studio.json").read_text(encoding="utf-8"))
    for one in tasks:
        del one["data"]["hone"]
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps(tasks), encoding="utf-8")
    new = hone("rankings", "import", foreign, "--format", "label-studio", "--name", "elsewhere", "--json").json
    assert (new["new"], new["votes"], new["version"]) == (True, 7, "elsewhere")
    twice = hone("rankings", "import", foreign, "--format", "label-studio", "--name", "elsewhere", "--json").json
    assert (twice["new"], twice["votes"], twice["known"]) == (False, 0, 7)
    foreign.write_text(json.dumps([*tasks, tasks[0]]), encoding="utf-8")
    doubled = hone("rankings", "import", foreign, "--format", "label-studio", "--name", "doubled", "--json").json
    assert (doubled["new"], doubled["votes"]) == (True, 7), "a task that stands twice is one"
    assert "give label-studio, argilla" in hone("rankings", "import", foreign).err


def test_a_ranking_of_four(voting: FinishedRun, hone: Hone, prompts: Path) -> None:
    command = ("rank", "orders", "--prompts", prompts, "--n", 4, "--temperatures", "0.8,1.2", "--limit", 2, *SHORT)
    made = hone(*command, "--no-ask", "--json")
    assert made.json["done"] == 0
    ended = hone(*command, "--rater", "anna", stdin=b"2 1\n2 1 3=4\nt\n")
    assert "does not name each answer from 1 to 4 once" in ended.out
    assert "All 2 prompts are done." in ended.out
    items = hone("rankings", "show", made.json["session"], "--json").json["items"]
    assert sorted(vote["ranks"] for item in items for vote in item["votes"]) == [[1, 1, 1, 1], [2, 1, 3, 3]]
    origins = [one for answer in items[0]["answers"] for one in answer["origins"]]
    assert {one["temperature"] for one in origins} >= {0.8, 1.2}


def test_bad_input_is_told(voting: FinishedRun, hone: Hone, prompts: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    cases = [
        (("rank", "nobody"), "nobody"),
        (("rank", "orders", "--n", "3"), "cannot be shared out evenly"),
        (("rank", "orders", "--n", "1"), "must be at least 2"),
        (("rank", "orders", "--against", "orders@1"), "not different"),
        (("rank", "orders", "--rater", "\x07"), "rater"),
        (("rank", "orders", "--prompts", empty), "holds no prompt"),
        (("rank", "orders", "--prompts", tmp_path / "none.txt"), "cannot be read"),
        (("rank", "orders", "--temperatures", "hot"), "temperatures"),
        (("rankings", "show", "rank-none"), "there are no rankings"),
        (("rankings", "import", empty, "--format", "csv"), "there is no format"),
        (("rankings", "import", empty, "--format", "argilla"), "holds no JSON objects"),
    ]
    for command, said in cases:
        ended = hone(*command, *(SHORT if command[0] == "rank" else ()))
        assert ended.code == 2, command
        assert said in ended.err, ended.err
        assert "Traceback" not in ended.err


def test_a_version_without_votes_has_no_report(voting: FinishedRun, hone: Hone, tiny_base: Path) -> None:
    ended = hone("rank", tiny_base, "--report")
    assert ended.code == 2
    assert "nobody has compared answers" in ended.err
    prompts = hone("rank", tiny_base, *SHORT)
    assert "no held-out rows to take prompts from" in prompts.err


@pytest.mark.parametrize(
    ("text", "count", "ranks"),
    [
        ("1", 2, [1, 2]),
        ("2", 2, [2, 1]),
        ("t", 2, [1, 1]),
        ("2 1 3=4", 4, [2, 1, 3, 3]),
        ("2>1>3 = 4", 4, [2, 1, 3, 3]),
        ("3,1,2", 3, [2, 3, 1]),
        ("1=2", 2, [1, 1]),
        ("t", 3, [1, 1, 1]),
    ],
)
def test_what_can_be_typed(text: str, count: int, ranks: list[int]) -> None:
    assert parse_ranking(text, count) == ranks


@pytest.mark.parametrize(
    ("text", "count"), [("", 2), ("3", 2), ("1 1", 2), ("1 2", 3), ("1 2 2", 3), ("0 1 2", 3), ("=", 2)]
)
def test_what_cannot_be_typed(text: str, count: int) -> None:
    with pytest.raises(ConfigError):
        parse_ranking(text, count)
