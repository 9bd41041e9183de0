"""``hone plan``: a table for people, an object for programs, and the history of predictions."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Hone


def test_it_shows_every_way_and_what_would_be_chosen(hone: Hone, tiny_base: Path, rows: Path) -> None:
    ended = hone("plan", rows, "--model", tiny_base, "--device", "cpu", "--no-probe", "--rate", "2.5/h")
    assert ended.code == 0
    lines = ended.out.splitlines()
    [heading] = [line for line in lines if line.startswith("way ")]
    assert heading.split() == ["way", "memory", "time", "tokens", "price", "fits", "limited", "by"]
    assert any(line.startswith("LoRA rank 64 ") for line in lines)
    assert "Chosen      LoRA rank 16: LoRA on all linear layers" in ended.out
    assert "batch_size 4: for 16 rows" in ended.out


def test_it_says_the_same_to_programs(hone: Hone, tiny_base: Path, rows: Path) -> None:
    shown = hone("plan", rows, "--model", tiny_base, "--device", "cpu", "--no-probe", "--json").json
    assert shown["schema"] == 1
    assert shown["estimates"][0]["name"] == shown["chosen"]["name"] == "LoRA rank 16"


def test_answers_of_its_own_are_planned_with_two_times(hone: Hone, tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    reward = tmp_path / "rewards.py"
    asked = ("plan", rows, "--model", tiny_base, "--device", "cpu", "--no-probe", "--reward", f"{reward}:one")
    missing = hone(*asked, "--method", "grpo")
    assert missing.code == 2
    assert "no such file" in missing.err
    reward.write_text("def one(prompt, answer, row):\n    return 1.0\n", encoding="utf-8")
    ended = hone(*asked, "--method", "grpo")
    assert ended.code == 0
    assert "Method      grpo: as given" in ended.out
    [answers] = [line for line in ended.out.splitlines() if line.startswith("Answers ")]
    assert "are written, of " in answers
    assert "with the longest ones it takes" in " ".join(ended.out.split())
    [first] = [line for line in ended.out.splitlines() if line.startswith("LoRA rank 16  ")]
    assert " s to " in first
    assert "the reward's own time is not counted" in " ".join(ended.err.split())
    assert hone(*asked, "--method", "grpo", "--json").json["estimates"][0]["rollouts"]["answers"] > 0
    refused = hone(*asked)
    assert refused.code == 2
    assert "say which method learns from rewards" in " ".join(refused.err.split())


def test_the_history_begins_empty_and_takes_no_data(hone: Hone, rows: Path) -> None:
    ended = hone("plan", "--history")
    assert ended.code == 0
    assert "not known yet" in ended.out
    assert hone("plan", "--history", "--json").json["history"] == []
    refused = hone("plan", rows, "--history")
    assert refused.code == 2
    assert "DATA cannot be given together with it" in refused.err


def test_the_history_shows_predicted_and_actual(hone: Hone, tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert hone("train", rows, "--model", tiny_base, "--device", "cpu", "--max-steps", 1, "--output", run).code == 0
    ended = hone("plan", "--history")
    assert "Off by      median over 1 run: time" in ended.out
    [entry] = hone("plan", "--history", "--json").json["history"]
    assert entry["method"] == "lora"
    assert entry["predicted"]["seconds"] > 0


def test_a_missing_rate_or_file_is_bad_input(hone: Hone, tiny_base: Path, rows: Path) -> None:
    ended = hone("plan", rows, "--model", tiny_base, "--rate", "cheap")
    assert ended.code == 2
    assert "give money for an hour" in ended.err
    assert hone("plan", "nowhere.jsonl", "--model", tiny_base).code == 2
