"""benchmarks/speed.py: the gate refuses what is wrong, the figures are right, the harness runs. No timing is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hone.data.pack import plan_steps
from hone.data.render import Renderer
from side_by_side import gate, page, workloads
from side_by_side.campaign import Outcome
from side_by_side.figures import summarize
from side_by_side.hone_side import sequences_of
from side_by_side.meter import canonical
from side_by_side.roofline import flops_per_token
from side_by_side.spec import IGNORED_LABEL, Workload
from side_by_side.systems import SYSTEMS
from tests.tiny import save_tiny, tiny_tokenizer

MOVED = {"tensors": 2, "trained": 2, "unknown": 0, "moved": 2}
EXAMPLE = Path("examples") / "support"


def _rows(lengths: list[int], *, rows_per_step: int, warmup_steps: int = 1) -> Workload:
    ids = [list(range(3, 3 + length)) for length in lengths]
    labels = [[IGNORED_LABEL] * (len(row) // 2) + row[len(row) // 2 :] for row in ids]
    facts = {"supervised_share": 0.5, "mean_context": 8.0}
    return Workload("W1 x", rows_per_step, ids, labels, warmup_steps, facts)


def _gradients(path: Path, **tensors: np.ndarray) -> Path:
    save_file({name: tensor.astype(np.float32) for name, tensor in tensors.items()}, path)
    return path


def test_the_gate_passes_what_is_equal_and_names_what_is_not(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(4, 8)), draw.normal(size=(8, 4))
    oracle = _gradients(tmp_path / "oracle", a=first, b=second)

    def problems(path: Path, *, losses: list[float] | None = None, moved: dict[str, int] = MOVED) -> list[str]:
        run = {"losses": losses or [2.0, 1.5], "moved": moved}
        verdict = gate.judge(
            {"losses": [3.0]}, [run], {"losses": [3.0]}, [[2.0, 1.5]], dtype="float32", gradients=path,
            oracle_gradients=oracle,
        )  # fmt: skip
        assert verdict.passed is (not verdict.problems)
        return verdict.problems

    assert problems(oracle) == []
    turned = first.copy()
    turned[0] *= -1
    [wrong] = problems(_gradients(tmp_path / "turned", a=turned, b=second))
    assert wrong.startswith("gradient cosine")
    [halved] = problems(_gradients(tmp_path / "halved", a=first / 2, b=second / 2))
    assert halved.startswith("gradient norm off by 50.00%")
    assert any("no counterpart" in one for one in problems(_gradients(tmp_path / "fewer", a=first)))
    assert any("b is zero" in one for one in problems(_gradients(tmp_path / "still", a=first, b=0 * second)))
    assert problems(oracle, losses=[2.0, 1.6]) == ["losses 2.86% outside the oracles', at most 1%"]
    assert problems(oracle, losses=[2.0]) == ["losses inf% outside the oracles', at most 1%"]
    assert problems(oracle, moved={**MOVED, "moved": 1}) == ["1 of 2 adapter tensors moved"]


def test_the_bound_of_bfloat16_is_looser() -> None:
    assert gate.LEAST_COSINE == {"bfloat16": 0.99, "float32": 0.999}


def test_losses_are_held_against_a_band() -> None:
    assert gate.curve_difference([2.0, 1.0, 2.0, 1.0], [[1.0, 2.0, 1.0, 2.0]]) == 0.0, "smoothed over four steps"
    band = [[2.0], [2.2]]  # float32, and the same in a dtype that learns slower
    assert gate.curve_difference([2.1], band) == 0.0
    assert gate.curve_difference([2.42], band) == pytest.approx(0.1)
    assert gate.curve_difference([1.8], band) == pytest.approx(0.1)


def test_flops_by_hand() -> None:
    model = {
        "matmul_parameters": 1000, "head_parameters": 400, "adapter_parameters": 50, "layers": 2, "attention_width": 16
    }  # fmt: skip
    # 4 (1000 + 0.5 * 400) + 6 * 50 + 3.5 * (2 products * 2 FLOPs * 16 wide * 2 layers * 8 tokens seen)
    assert flops_per_token(model, {"supervised_share": 0.5, "mean_context": 8.0}) == 4800 + 300 + 3.5 * 1024


def _outcome(tmp_path: Path) -> Outcome:
    workload = _rows([10, 10, 20, 20, 30, 30], rows_per_step=2)

    def run(seconds: float) -> dict[str, Any]:
        ends = [5.0, 5.0 + seconds, 5.0 + 2 * seconds]
        return {
            "step_ends_seconds": ends, "losses": [3.0, 2.0, 1.0], "peak_rss_bytes": 2**30, "others_share": 0.0,
            "flags": {}, "notes": [], "versions": {"torch": "1"}, "moved": MOVED,
        }  # fmt: skip

    passed = gate.Verdict(True, 0.0, 1.0, 0.0, 0.0, 0.0, "2 of 2", [])
    failed = replace(passed, passed=False, cosine=0.5, problems=["gradient cosine 0.5000, at least 0.99"])
    rates = {"roofline": 1e9, "square": 1e9, "model_shape": 1e8}
    return Outcome(
        workload,
        rooflines=[{"bfloat16": rates, "float32": rates}],
        oracles=[[3.0, 2.0, 1.0]],
        runs={
            "hone": {0: run(0.5), 1: run(1.0), 2: run(1.0)},
            "plain/best": {0: run(2.0), 1: run(3.0), 2: run(5.0)},
            "trl/best": {0: run(0.1)},
        },
        verdicts={"hone": passed, "plain/best": passed, "trl/best": failed},
        absent={"soup/best": "no environment given"},
    )


MODEL = {
    "name": "tiny", "parameters": 2e6, "matmul_parameters": 1000, "head_parameters": 400, "adapter_parameters": 50,
    "layers": 2, "attention_width": 16,
}  # fmt: skip


def test_speeds_are_of_timed_steps_and_ratios_of_pairs(tmp_path: Path) -> None:
    found = summarize(_outcome(tmp_path), MODEL, "float32")
    # 100 tokens in the two timed steps
    assert found["systems"]["hone"]["tokens_per_second"] == {"median": 50, "least": 50, "greatest": 100, "runs": 3}
    assert found["systems"]["plain/best"]["tokens_per_second"]["median"] == pytest.approx(100 / 6)
    assert found["systems"]["plain/best"]["hone_is_times"] == {
        "median": pytest.approx(4), "least": pytest.approx(3), "greatest": pytest.approx(5), "runs": 3
    }  # fmt: skip
    assert found["systems"]["hone"]["supervised_tokens_per_second"]["median"] == 25
    assert found["systems"]["hone"]["share_of_roofline"] == pytest.approx(50 * 8684 / 1e9)
    assert found["headline"]["fastest_peer"] == "plain/best"


def test_a_speed_that_fails_the_gate_is_not_told(tmp_path: Path) -> None:
    found = summarize(_outcome(tmp_path), MODEL, "float32")
    assert "trl/best" not in found["systems"]
    assert found["not_counted"] == {
        "soup/best": "no environment given", "trl/best": "fails the gate: gradient cosine 0.5000, at least 0.99"
    }  # fmt: skip


def test_the_page_keeps_what_others_wrote(tmp_path: Path) -> None:
    machine = {"architecture": "x", "cores": 2, "features": ["avx2"], "memory_bytes": 2**33}
    results = {
        "machine": machine, "model": MODEL, "threads": 2, "dtype": "float32",
        "workloads": {"W1 x": summarize(_outcome(tmp_path), MODEL, "float32")},
    }  # fmt: skip
    results["workloads"]["W1 x"] |= {"command": "python benchmarks/speed.py --workloads W1"}
    results["workloads"]["W1 x"]["facts"] |= {
        "says": "rows", "rows": 6, "shortest": 10, "longest": 30, "mean_length": 20.0
    }  # fmt: skip
    path = tmp_path / "performance.md"
    begin, end = ("<!-- written by benchmarks/speed.py: begin -->", "<!-- written by benchmarks/speed.py: end -->")
    other = begin.replace("speed.py", "speed.py to other.json"), end.replace("speed.py", "speed.py to other.json")
    path.write_text(f"# Mine\n\nbefore\n{begin}\nold\n{end}\n{other[0]}\n{other[1]}\nafter\n", encoding="utf-8")
    page.write_page(path, results, tmp_path / "other.json")
    assert f"{begin}\nold\n{end}" in path.read_text(encoding="utf-8"), "another file's place"
    page.write_page(path, results, tmp_path / "performance.json")
    text = path.read_text(encoding="utf-8")
    assert text.count("$ python benchmarks/speed.py --workloads W1\n") == 2
    assert text.startswith("# Mine\n\nbefore\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| W1 x | **50** | plain/best | 17 | **4.00x (3.00-5.00)** |" in text
    assert "- trl/best: not measured (fails the gate: gradient cosine 0.5000, at least 0.99)" in text
    assert "soup/best: not measured (no environment given)" in text
    path.write_text("# no place\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no place for the figures"):
        page.write_page(path, results)


def test_names_of_adapter_tensors_meet() -> None:
    name = "model.layers.0.self_attn.q_proj.lora_A"
    for given in (f"base_model.model.{name}.default.weight", f"base_model.model.{name}.weight", name):
        assert canonical(given) == name


def test_hone_meets_the_rows_in_the_order_of_the_workload() -> None:
    workload = _rows([5, 6, 7, 8, 9, 10], rows_per_step=2)
    sequences = sequences_of(workload, 3)
    plan = plan_steps(6, batch_size=2, epochs=1, seed=0)
    assert [[len(sequences[index].ids) for index in indices] for _, _, indices in plan] == [[5, 6], [7, 8], [9, 10]]
    assert sum(sequence.num_supervised for sequence in sequences) == sum(workload.supervised(step) for step in range(3))


def test_rows_never_leave_their_step() -> None:
    workload = _rows([5, 9, 7, 8], rows_per_step=2)
    assert workload.in_order(steps=2, longest_first=True) == [1, 0, 3, 2]
    assert workload.in_order(steps=1, longest_first=False) == [0, 1]
    assert [workload.micro_rows(tokens) for tokens in (None, 17, 18, 1)] == [2, 1, 2, 1]


@pytest.fixture
def made(repository: Path) -> dict[str, Workload]:
    tokenizer = tiny_tokenizer()
    renderer = Renderer(tokenizer, max_length=4096)
    folder = repository / EXAMPLE
    sizes = workloads.Sizes.quick()
    wanted = ("W1", "W2", "W3", "W5")
    found = workloads.make_workloads(wanted, [folder / "train.jsonl"], folder / "documents", renderer, sizes)
    return {workload.name: workload for workload in found}


def test_workloads_are_what_they_say(made: dict[str, Workload]) -> None:
    assert list(made) == ["W1 support", "W2", "W3", "W5"]
    for workload in made.values():
        assert workload.steps == 3
        assert all(labels[0] == IGNORED_LABEL for labels in workload.labels)
        pairs = [pair for row in zip(workload.ids, workload.labels, strict=True) for pair in zip(*row, strict=True)]
        assert all(label in (IGNORED_LABEL, token) for token, label in pairs)
        assert all(workload.supervised(step) > 0 for step in range(3))
    assert {len(ids) for ids in made["W2"].ids} == {96}
    first, second = made["W3"].ids[:2]
    half = len(first) // 2
    assert first[:half] == second[:half]
    assert first[half:] != second[half:]
    assert made["W3"].labels[0][:half] == [IGNORED_LABEL] * half
    assert made["W3"].labels[0][half:] == first[half:]
    rows = made["W5"].ids
    assert len({tuple(row[:40]) for row in rows}) == 1
    assert len({tuple(row) for row in rows}) == len(rows)


def test_default_and_best_of_each_peer_are_there() -> None:
    for peer in ("plain", "trl", "llamafactory", "soup"):
        assert SYSTEMS[f"{peer}/default"].is_default
        assert not SYSTEMS[f"{peer}/best"].is_default


@pytest.mark.slow
def test_the_harness_measures_judges_and_goes_on(tmp_path: Path, repository: Path) -> None:
    base = save_tiny(tmp_path / "base", max_position_embeddings=2048)
    work, figures, text = tmp_path / "work", tmp_path / "figures.json", tmp_path / "page.md"
    command = [
        sys.executable, str(repository / "benchmarks" / "speed.py"), "--quick", "--work", str(work),
        "--model", str(base), "--dtype", "float32", "--threads", "1", "--workloads", "W3",
        "--systems", "trl/best", "soup/best", "--json", str(figures), "--page", str(text),
    ]  # fmt: skip
    variables = {**os.environ, "PYTHONPATH": str(repository / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr
    [found] = json.loads(figures.read_text(encoding="utf-8"))["workloads"].values()
    assert sorted(found["systems"]) == ["hone", "trl/best"], done.stderr
    assert found["not_counted"] == {"soup/best": "no environment given"}
    for system in found["systems"].values():
        assert system["gate"]["cosine"] > 0.9999
        assert system["gate"]["moved"] == "28 of 28"  # 2 layers, 7 linear layers each, A and B
        assert system["losses"] == pytest.approx(found["oracle_losses"][0], rel=1e-4)
        assert system["tokens_per_second"]["median"] > 0
        assert system["peak_rss_bytes"]["median"] > 2**26
    assert str(tmp_path) not in text.read_text(encoding="utf-8") + figures.read_text(encoding="utf-8")

    kept = (work / "results.jsonl").read_text(encoding="utf-8").splitlines()
    (work / "results.jsonl").write_text("\n".join([*kept[:-2], kept[-1][:20]]), encoding="utf-8")  # cut short
    again = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("(kept)") == len([line for line in kept if "system" in line]) - 1
    assert again.stderr.count("round 1\n") == 1, "only what was lost is measured anew"
