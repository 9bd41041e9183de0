"""``hone data check`` and ``hone data convert``: what a person reads, what a program reads, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Hone, write_rows

BAD = (
    '{"prompt": "what is it?", "completion": "a lamp"}\n'
    '{"prompt": "write to jane.roe@mail.org", "completion": "done"}\n'
    "{oops}\n"
    '{"prompt": "and this?", "completion": ""}\n'
)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Two usable rows, one of them with an address, and two that are not."""
    path = tmp_path / "bad.jsonl"
    path.write_text(BAD, encoding="utf-8")
    return path


def test_what_a_person_reads(bad: Path, hone: Hone) -> None:
    ended = hone("data", "check", bad, "--allow-few-rows")
    assert ended.code == 2
    text = " ".join(ended.out.split())
    for part in (
        "Error empty_assistant, 1 time",
        "bad.jsonl:4 /completion: completion is empty",
        "bad.jsonl:3: not JSON",
        "personal_data, 1 time",
        "an e-mail address: j***@m***",
        "Rows 4 read: 2 kept, 0 cut, 2 dropped",
        "Verdict usable without 2 of its rows",
    ):
        assert part in text, part
    assert "jane.roe" not in ended.out
    assert "\x1b" not in ended.out


def test_rows_of_one_json_document_are_told_apart(tmp_path: Path, hone: Hone) -> None:
    rows = [{"instruction": "do", "input": str(number % 11), "output": "y"} for number in range(12)]
    path = tmp_path / "array.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert "array.json:1 row 12: the same as row 1" in hone("data", "check", path).out


def test_what_a_program_reads(bad: Path, hone: Hone) -> None:
    ended = hone("data", "check", bad, "--allow-few-rows", "--json")
    assert ended.code == 2
    report = ended.json
    assert [report[name] for name in ("schema", "rows", "kept", "cut", "dropped", "refused")] == [1, 4, 2, 0, 2, False]
    assert report["totals"] == {"empty_assistant": 1, "not_json": 1, "personal_data": 1}
    assert list(report["faults"][0]) == [
        *("code", "severity", "row", "line", "offset", "pointer", "message", "remedy"),
    ]
    places = [(fault["code"], fault["line"], fault["offset"], fault["pointer"]) for fault in report["faults"]]
    lengths = [len(line) + 1 for line in BAD.splitlines()]
    assert places == [
        ("personal_data", 2, lengths[0], "/prompt"),
        ("not_json", 3, sum(lengths[:2]), ""),
        ("empty_assistant", 4, sum(lengths[:3]), "/completion"),
    ]
    assert "jane.roe" not in ended.out


def test_exit_codes(tmp_path: Path, bad: Path, hone: Hone) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 12)
    assert hone("data", "check", rows).code == 0
    with rows.open("a", encoding="utf-8") as stream:
        stream.write('{"prompt": "mail jane@mail.org", "completion": "sent"}\n')
    assert hone("data", "check", rows).code == 0
    assert hone("data", "check", rows, "--strict").code == 2
    few = hone("data", "check", write_rows(tmp_path / "few.jsonl", 9))
    assert few.code == 2
    assert "--allow-few-rows" in few.out
    missing = hone("data", "check", tmp_path / "none.jsonl")
    assert (missing.code, missing.out) == (2, "")
    assert "no such file" in missing.err


def test_rows_of_prompts_alone_are_no_fault(tmp_path: Path, hone: Hone) -> None:
    file = tmp_path / "prompts.jsonl"
    words = ("sun", "moon", "rain", "snow", "wind", "sea", "hill", "lake", "wood", "road", "town", "sand")
    rows = [{"prompt": f"Tell me what the {word} is, in one line."} for word in words]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shown = hone("data", "check", file)
    assert shown.code == 0, shown.err
    assert "prompts only: usable with a --reward or a --teacher" in " ".join(shown.out.split())
    assert "unknown" not in shown.out
    found = hone("data", "check", file, "--json").json
    assert (found["prompts_only"], found["kept"], found["refused"]) == (True, 12, False)
    assert found["coverage"]["answer_characters"] is None
    for option, value in (("--fix", tmp_path / "out.jsonl"), ("--model", "nosuch")):
        refused = hone("data", "check", file, option, value)
        assert refused.code == 2
        assert option in refused.err
    with file.open("a", encoding="utf-8") as more:
        more.write('{"prompt": "Why?", "completion": "Because."}\n')
    assert hone("data", "check", file, "--json").json["prompts_only"] is False


def test_eval_and_benchmark_files_are_compared(tmp_path: Path, hone: Hone) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 12)
    other = write_rows(tmp_path / "other.jsonl", 2)
    held_out = hone("data", "check", rows, "--eval", other, "--json")
    assert (held_out.code, held_out.json["totals"], held_out.json["dropped"]) == (2, {"held_out_copy": 2}, 2)
    benchmark = hone("data", "check", rows, "--benchmark", other, "--json")
    assert (benchmark.code, benchmark.json["totals"], benchmark.json["dropped"]) == (0, {"probe_copy": 2}, 0)


def test_fix_writes_three_files_and_says_so(bad: Path, hone: Hone) -> None:
    original = bad.read_bytes()
    out = bad.with_name("fixed.jsonl")
    ended = hone("data", "check", bad, "--allow-few-rows", "--fix", out, "--redact")
    assert ended.code == 2
    assert "2 rows, 1 of them written anew" in " ".join(ended.out.split())
    assert [json.loads(line)["prompt"] for line in out.read_text(encoding="utf-8").splitlines()] == [
        "what is it?",
        "write to [EMAIL_1]",
    ]
    assert bad.read_bytes() == original
    assert hone("data", "check", out, "--allow-few-rows", "--strict").code == 0
    assert hone("data", "check", bad, "--redact").code == 2


def test_nothing_heavy_is_loaded_without_a_model(bad: Path) -> None:
    program = (
        "import sys\nfrom hone.cli.app import main\n"
        f"try:\n    main(['data', 'check', {str(bad)!r}, '--allow-few-rows'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_a_model_adds_what_its_template_refuses(tmp_path: Path, tiny_base: Path, hone: Hone) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 12)
    with rows.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"prompt": "so " * 400, "completion": "yes"}) + "\n")
    ended = hone("data", "check", rows, "--model", tiny_base, "--max-length", 200, "--json")
    assert ended.code == 2, ended.err
    assert (ended.json["rows"], ended.json["kept"], ended.json["dropped"]) == (13, 12, 1)
    assert [fault["line"] for fault in ended.json["faults"] if fault["code"] == "template"] == [13]
    assert ended.json["learned"]["scored"] == 12


def test_a_model_tells_what_is_cut(tmp_path: Path, tiny_base: Path, hone: Hone) -> None:
    turns = [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "a lamp"}]
    long = [*turns, {"role": "user", "content": "and now? " * 60}, {"role": "assistant", "content": "still a lamp"}]
    path = tmp_path / "chat.jsonl"
    path.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": f"{n}: what is it?"}, turns[1]]}) + "\n"
            for n in range(11)
        )
        + json.dumps({"messages": long})
        + "\n",
        encoding="utf-8",
    )
    ended = hone("data", "check", path, "--model", tiny_base, "--max-length", 120, "--json")
    assert ended.code == 0, ended.err
    assert [ended.json[name] for name in ("rows", "kept", "cut", "dropped")] == [12, 11, 1, 0]
    [fault] = [fault for fault in ended.json["faults"] if fault["code"] == "cut_row"]
    assert (fault["row"], fault["line"], fault["severity"]) == (12, 12, "warning")
    tokens = int(fault["message"].split()[0])
    assert fault["message"] == f"{tokens} tokens are left out"
    assert tokens > 100  # the second question alone has more
    assert hone("data", "check", path, "--model", tiny_base, "--json").json["totals"].get("cut_row") is None


def test_a_model_tells_preferences_whose_answers_are_too_long(tmp_path: Path, tiny_base: Path, hone: Hone) -> None:
    rows = [{"prompt": f"what is {n}?", "chosen": f"{n} it is", "rejected": "no"} for n in range(12)]
    rows[4]["rejected"] = "so " * 400
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ended = hone("data", "check", path, "--model", tiny_base, "--max-length", 200, "--json")
    assert ended.code == 2, ended.err
    assert (ended.json["format"], ended.json["kept"], ended.json["dropped"]) == ("preference", 11, 1)
    [fault] = [fault for fault in ended.json["faults"] if fault["code"] == "template"]
    assert fault["line"] == 5
    assert "over the maximum of 200" in fault["message"]
    assert ended.json["learned"]["scored"] == 0
    assert any("lengths alone" in text for text in ended.json["notes"])
    ended = hone("data", "check", path, "--model", tiny_base, "--learning-curve")
    assert ended.code == 2
    assert "compare or judge answers (preference)" in ended.err


def test_a_model_run_tells_labels_that_others_do_not_bear_out(tmp_path: Path, tiny_base: Path, hone: Hone) -> None:
    words = {"money": "refund price invoice", "travel": "flight hotel luggage"}
    rows = [
        {"prompt": f"{words[label]} question {n}", "completion": label}
        for n, label in enumerate(["money", "travel"] * 20)
    ]
    rows[9]["completion"] = "money"
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ended = hone("data", "check", path, "--model", tiny_base, "--json")
    assert ended.code == 0, ended.err
    [fault] = [fault for fault in ended.json["faults"] if fault["code"] == "label_error"]
    assert fault["line"] == 10
    assert "'money'" in fault["message"]
    assert "'travel'" in fault["message"]
    assert "mismatched_pair" not in ended.json["totals"]  # with labels it would say nothing


def test_a_learning_curve(tmp_path: Path, tiny_base: Path, hone: Hone) -> None:
    path = write_rows(tmp_path / "rows.jsonl", 48)
    ended = hone("data", "check", path, "--model", tiny_base, "--learning-curve", "--json")
    assert ended.code == 0, ended.err
    curve = ended.json["learned"]["learning_curve"]
    most = 48 - curve["validation_rows"]
    assert curve["validation_rows"] in range(8, 13)
    assert [point["rows"] for point in curve["measured"]] == [most // 4, most // 2, most]
    assert curve["says"] in ("more", "enough", "unclear")
    # training on such rows makes others like them likelier, and what is predicted lies on the law through the points
    assert all(0 < point["loss"] < curve["base_loss"] for point in curve["measured"])
    first, second = curve["predicted"]
    assert (first["rows"], second["rows"]) == (2 * most, 4 * most)
    assert second["loss"] / first["loss"] == pytest.approx(2 ** -curve["exponent"], rel=2e-3)
    again = hone("data", "check", path, "--model", tiny_base, "--learning-curve", "--json")
    assert again.json["learned"] == ended.json["learned"]


def test_a_learning_curve_needs_a_model_and_rows(tmp_path: Path, tiny_base: Path, hone: Hone) -> None:
    path = write_rows(tmp_path / "rows.jsonl", 24)
    ended = hone("data", "check", path, "--learning-curve")
    assert ended.code == 2
    assert "--model" in ended.err
    ended = hone("data", "check", path, "--learning-curve", "--model", tiny_base)
    assert ended.code == 2
    assert "at least 40" in ended.err


def test_convert_there_and_back(tmp_path: Path, hone: Hone) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 3)
    chat, back = tmp_path / "chat.jsonl", tmp_path / "back.jsonl"
    assert hone("data", "convert", rows, "--out", chat).code == 0
    assert list(json.loads(chat.read_text(encoding="utf-8").splitlines()[0])) == ["messages"]
    assert hone("data", "convert", chat, "--to", "prompt-completion", "--out", back).code == 0
    assert back.read_bytes() == rows.read_bytes()


def test_convert_writes_nothing_where_something_would_be_lost(tmp_path: Path, hone: Hone) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    path, out = tmp_path / "chat.jsonl", tmp_path / "alpaca.jsonl"
    path.write_text(
        json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": turns[:2]}) + "\n", encoding="utf-8"
    )
    ended = hone("data", "convert", path, "--to", "alpaca", "--out", out)
    assert ended.code == 2
    assert "chat.jsonl:1: a conversation of several turns" in ended.err
    assert not out.exists()
    ended = hone("data", "convert", path, "--to", "alpaca", "--out", out, "--allow-loss")
    assert ended.code == 0
    assert json.loads(out.read_text(encoding="utf-8")) == {"instruction": "x", "input": "", "output": "x"}
    assert hone("data", "convert", path, "--to", "yaml", "--out", out).code == 2
