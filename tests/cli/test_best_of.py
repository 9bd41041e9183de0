"""``hone generate --best-of``: the answer given is the one that the reward model scores highest, as in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Hone

ON_THE_CPU = ("--device", "cpu", "--dtype", "float32")


def test_the_best_of_four_by_the_score_that_a_file_gets(hone: Hone, tiny_base: Path, tmp_path: Path) -> None:
    rows = tmp_path / "preferences.jsonl"
    pairs = [
        {"prompt": f"what of lamp {one} in town {one * 7 % 12}?", "chosen": "it is lit", "rejected": f"number {one} no"}
        for one in range(12)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    judge = tmp_path / "judge"
    trained = hone("train", rows, "--method", "reward", "--model", tiny_base, "--output", judge, "--max-steps", 3,
                   "--learning-rate", 0.01, *ON_THE_CPU)  # fmt: skip
    assert trained.code == 0, trained.err
    assert f"Next        hone reward score {judge} FILE" in trained.out
    assert "hone chat" not in trained.out

    prompt = "what of the lamp?"
    ended = hone("generate", tiny_base, prompt, "--best-of", 4, "--reward", judge, "--temperature", 1,
                 "--max-new-tokens", 8, "--json", *ON_THE_CPU)  # fmt: skip
    assert ended.code == 0, ended.err
    told = ended.json
    scores = [one["score"] for one in told["candidates"]]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    assert told["answer"] == told["candidates"][0]["text"]

    answers = tmp_path / "answers.jsonl"
    written = [{"prompt": prompt, "completion": one["text"]} for one in told["candidates"]]
    answers.write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
    of_file = hone("reward", "score", judge, answers, "--json", *ON_THE_CPU)
    assert [one["score"] for one in of_file.json["answers"]] == pytest.approx(scores, abs=1e-4)

    no_judge = hone("generate", tiny_base, prompt, "--best-of", 2, "--reward", tiny_base, "--temperature", 1,
                    "--max-new-tokens", 4, *ON_THE_CPU)  # fmt: skip
    assert (no_judge.code, "is no reward model" in no_judge.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--best-of", "4", "--temperature", "1"), "nothing says which answer is best"),
        (("--reward", "judge"), "has no effect with one answer"),
        (("--best-of", "4", "--reward", "judge"), "all answers would be the same"),
        (("--best-of", "0"), "must be at least 1"),
    ],
)
def test_options_that_do_not_go_together(hone: Hone, tiny_base: Path, options: tuple[str, ...], said: str) -> None:
    ended = hone("generate", tiny_base, "who?", *options)
    assert ended.code == 2
    assert said in ended.err
