"""benchmarks/gpu.py: its whole way on a processor with tiny models; what it needs and refuses. Nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu
from side_by_side import card
from side_by_side.roofline import flops_per_token
from tests.house.source_tree import REPOSITORY

# What a plain CUDA image need not hold: every dependency of hone but torch, transformers, what those bring, and peft.
ABSENT = (
    "bitsandbytes", "datasets", "gguf", "hypothesis", "pyarrow", "pydantic", "pytest", "rich", "rouge_score",
    "sacrebleu", "scipy", "sqlalchemy", "trl", "typer",
)  # fmt: skip


def _here(work: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A child's work in this process."""
    task, result = folder / "task.json", folder / "result.json"
    task.write_text(json.dumps({**work, "result": str(result)}), encoding="utf-8")
    gpu.work(task)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def _command(monkeypatch: pytest.MonkeyPatch, folder: Path, *further: str) -> int:
    arguments = ["gpu.py", "--device", "cpu", "--tiny", "--rounds", "1", "--json", str(folder / "gpu.json"), *further]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    return int(ended.value.code or 0)


def test_the_whole_way_and_on_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(gpu, "child", _here)
    page = tmp_path / "page.md"
    page.write_text("# Before\n", encoding="utf-8")
    assert _command(monkeypatch, tmp_path, "--page", str(page)) == 0
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert all(one["passed"] for one in results["gate"]["checks"]), results["gate"]["checks"]
    kernels = {one["attention"]: one["kernel"] for one in results["gate"]["checks"] if one["family"] == "llama"}
    assert kernels == {"groups": "matrix products", "varlen": "matrix products (there is no kernel for cpu)"}
    assert set(results["runs"]) == {f"{part}/{system}/0" for part in ("8b", "1b") for system in gpu.SYSTEMS}
    for part in ("8b", "1b"):
        ours, theirs = (results["runs"][f"{part}/{system}/0"] for system in ("hone", "plain/sdpa"))
        assert gpu.same_training(ours, theirs) == ""
        assert len(ours["losses"]) == len(theirs["losses"]) == 3
        assert ours["facts"] == theirs["facts"]
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Before\n")
    assert text.count("| 8b | hone | ") == text.count("| 1b | plain/sdpa | ") == 1
    assert "not counted" not in text

    monkeypatch.setattr(gpu, "child", lambda work, folder: pytest.fail("it is done already"))
    assert _command(monkeypatch, tmp_path, "--page", str(page)) == 0
    assert page.read_text(encoding="utf-8") == text, "written in the same place"


def test_it_imports_nothing_that_a_plain_image_lacks() -> None:
    program = f"""
import sys
sys.path[:0] = ["benchmarks", "src"]
sys.modules.update(dict.fromkeys({ABSENT!r}))
import gpu
from side_by_side import card, roofline
assert "hone.model.load" not in sys.modules and "hone.config" not in sys.modules
print(len(card.SHAPES))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "3", done.stderr


def test_what_does_not_fit_is_tried_leaner_and_that_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, int]] = []

    def child(work: dict[str, Any], folder: Path) -> dict[str, Any]:
        if work["kind"] == "gate":
            return {"checks": [_check("groups"), _check("varlen", passed=False)], **GATE}
        tried.append((work["system"], work["settings"]["recompute_layers"]))
        if work["system"] == gpu.PEER or work["settings"]["recompute_layers"] < 1:
            return {"out_of_memory": "CUDA out of memory"}
        return RUN

    monkeypatch.setattr(gpu, "child", child)
    assert _command(monkeypatch, tmp_path, "--parts", "8b") == 0
    # two layers: none, one, both; what failed the parity is not timed
    assert tried == [("hone", 0), ("hone", 1), ("plain/sdpa", 0), ("plain/sdpa", 2)]
    monkeypatch.setattr(gpu, "child", child)
    tried.clear()
    assert _command(monkeypatch, tmp_path, "--parts", "8b", "--rounds", "2") == 0
    assert tried == [("hone", 1)], "the leanest of the other did not fit either"


def test_without_time_it_says_so_and_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "child", lambda work, folder: pytest.fail("no time is left"))
    assert _command(monkeypatch, tmp_path, "--seconds", "-1") == 1
    assert not (tmp_path / "gpu.json").exists()


def _check(way: str, *, passed: bool = True) -> dict[str, Any]:
    return {"family": "llama", "rows": "ragged", "dtype": "float32", "attention": way, "kernel": "x", "cosine": 1.0,
            "loss_off": 0.0, "passed": passed}  # fmt: skip


GATE = {"card": "NVIDIA H100 80GB HBM3", "peak_flops": 1e12, "gemm_flops": 5e11, "memory_bytes": 80 << 30,
        "versions": {"torch": "2.11.0"}}  # fmt: skip
FACTS = {"attention_width": 64, "layers": 2, "matmul_parameters": 1000, "head_parameters": 100,
         "adapter_parameters": 10, "supervised_share": 1.0, "mean_context": 4.0}  # fmt: skip
RUN = {"tokens_per_second": 1e6, "losses": [2.0, 1.0], "sketch": [1.0, 2.0], "peak_bytes": 1 << 30, "facts": FACTS,
       "flags": {"recompute_layers": 1}}  # fmt: skip


def _results(**changed: Any) -> dict[str, Any]:
    runs = {"8b/hone/0": RUN, "8b/hone/1": RUN, "8b/plain/sdpa/0": {**RUN, "tokens_per_second": 5e5}}
    gate = {**GATE, "checks": [_check("groups"), _check("varlen", passed=False)]}
    return {"gate": gate, "runs": {**runs, **changed}, "settings": {}}


def test_the_table_counts_what_is_needed_and_not_what_is_padded() -> None:
    text = gpu.page(_results())
    needed = 1e6 * flops_per_token(FACTS, FACTS)
    assert f"| 8b | hone | 1,000,000 (1,000,000-1,000,000) | 2.00x (2.00-2.00) | {needed / 1e12:.0%} | " in text
    assert f"| {needed / 5e11:.0%} | 1.0 GiB | 1 | 2 |" in text
    assert "`varlen` (x): 0 of 1 checks hold" in text


def test_a_run_that_computes_something_else_has_no_speed() -> None:
    other = {**RUN, "losses": [2.0, 1.02]}
    assert gpu.same_training(RUN, other).startswith("losses 1.96% apart")
    assert gpu.same_training(RUN, {**RUN, "sketch": [1.0, 1.0]}).endswith("gradient norms 50.00%")
    text = gpu.page(_results(**{"8b/plain/sdpa/0": other}))
    assert "| 8b | hone | not counted: losses 1.96% apart" in text


@pytest.mark.parametrize(
    ("card_name", "flops"), [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA L40S", 362e12)]
)
def test_the_peak_is_that_of_the_card(card_name: str, flops: float) -> None:
    assert next(peak for part, peak in gpu.PEAKS.items() if part in card_name) == flops


def test_rows_are_alike_in_every_process() -> None:
    load = gpu.loads(tiny=False)["1b"]
    assert load.rows(3) == card.Load(**vars(load)).rows(3) != load.rows(4)
    lengths = [len(row.ids) for row in load.rows(0)]
    assert (min(lengths) >= 60, max(lengths) <= 300, len(lengths)) == (True, True, 64)
    supervised = sum(row.num_supervised for row in load.rows(0)) / sum(lengths)
    assert supervised == pytest.approx(0.5, abs=0.01)
    assert {len(row.ids) for row in gpu.loads(tiny=False)["8b"].rows(0)} == {4096}
