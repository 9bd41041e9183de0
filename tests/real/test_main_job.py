"""The main job on the embedded base and the bundled example: ``hone run``, twelve steps, and what is left of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hone.data.loader import load_examples
from hone.model.lora import adapter_disabled
from hone.model.low_rank import LowRankAdaptation
from hone.model.merge import merge_and_save
from hone.recipe.inference import Answerer, load_answerer
from hone.types import JsonDict, Message, TokenSequence
from tests.tiny import row_logits

pytestmark = [pytest.mark.real, pytest.mark.slow]

NAME = "main-job"
CAPITAL = "What is the capital of France?"


@dataclass(frozen=True)
class Job:
    """The finished job: where it ran and what it printed."""

    home: Path
    data: Path
    result: JsonDict
    noise: str

    @property
    def folder(self) -> Path:
        return Path(self.result["run_dir"])


@pytest.fixture(scope="module")
def job(embedded_base: str, real_home: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    rows = (repository / "examples" / "support" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    data = tmp_path_factory.mktemp("main-job") / "rows.jsonl"
    data.write_text("\n".join(rows) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "hone", "run", str(data), "--model", embedded_base, "--name", NAME, "--json"]
    command += ["--max-steps", "12", "--held-out", "6", "--max-new-tokens", "24", "--probes", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert ended.returncode in (0, 3), ended.stderr
    return Job(real_home, data, json.loads(ended.stdout), ended.stderr)


def tuned(job: Job, dtype: str = "float32") -> Answerer:
    return load_answerer(NAME, home=job.home, device="cpu", dtype=dtype, note=lambda text: None)


@pytest.fixture(scope="module")
def answerer(job: Job) -> Answerer:
    """The version as a user loads it, in float32; tests leave it as it is."""
    return tuned(job)


@pytest.fixture(scope="module")
def sequences(job: Job, answerer: Answerer) -> dict[str, list[TokenSequence]]:
    """Rows of the job by the part they were put in, rendered."""
    manifest = json.loads((job.folder / "manifest.json").read_text(encoding="utf-8"))
    by_row = {example.row: example for example in load_examples(str(job.data)).examples}
    return {
        part: [s for one in manifest[part] for s in answerer.renderer.render(by_row[one["row"]]).sequences]
        for part in ("train", "validation", "held_out")
    }


def supervised_logprobs(model: PreTrainedModel, sequence: TokenSequence) -> Tensor:
    """Log-probabilities of one row's supervised tokens, from a plain forward pass of that row alone."""
    logprobs = torch.log_softmax(row_logits(model, sequence.ids).float(), dim=-1)
    places = [at for at in range(1, len(sequence.ids)) if sequence.supervised[at]]
    return torch.stack([logprobs[at - 1, sequence.ids[at]] for at in places])


def mean_loss(model: PreTrainedModel, rows: list[TokenSequence]) -> float:
    return -float(torch.cat([supervised_logprobs(model, row) for row in rows]).mean())


def in_peft(answerer: Answerer, job: Job, dtype: torch.dtype) -> PreTrainedModel:
    base = AutoModelForCausalLM.from_pretrained(answerer.base.folder, dtype=dtype)
    model: PreTrainedModel = PeftModel.from_pretrained(base, job.folder / "adapter").eval()
    return model


def test_the_job_ends_with_a_version_and_its_rows_add_up(job: Job) -> None:
    assert job.result["version"].startswith(f"{NAME}@")
    data = job.result["data"]
    assert (data["rows"], data["kept"], data["held_out"]) == (40, 40, 6)
    assert data["train"] + data["validation"] == 34
    assert job.result["training"]["steps"] == 12
    assert job.result["base"]["parameters"] == 134_515_008
    assert "training" in job.noise


def test_the_validation_loss_falls(job: Job, answerer: Answerer, sequences: dict[str, list[TokenSequence]]) -> None:
    """Measured here row by row, before (the adapter off) and after; and what the run says of it is true."""
    model = answerer.base.model
    with adapter_disabled(model):
        before = mean_loss(model, sequences["validation"])
    after = mean_loss(model, sequences["validation"])
    assert before - after > 0.3
    assert job.result["training"]["validation_loss"] == pytest.approx(after, abs=0.03), (
        "bfloat16 where it trained in it"
    )


def test_the_proof_holds(job: Job) -> None:
    proof = {one["number"]: one for one in job.result["proof"]}
    assert sorted(proof) == list(range(1, 13))
    # answers are cut after 24 tokens here, so few end by themselves
    assert [number for number, one in proof.items() if not one["holds"]] in ([], [12])


def test_held_out_answers_are_likelier_than_before(job: Job) -> None:
    arms = job.result["evaluation"]["arms"]
    assert arms["tuned"]["metrics"]["bits_per_byte"] < arms["base"]["metrics"]["bits_per_byte"] - 0.05


def test_peft_loads_the_adapter_and_gives_the_same(
    job: Job, answerer: Answerer, sequences: dict[str, list[TokenSequence]]
) -> None:
    row = min(sequences["held_out"], key=lambda one: len(one.ids))
    ours = supervised_logprobs(answerer.base.model, row)
    theirs = supervised_logprobs(in_peft(answerer, job, torch.float32), row)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    with adapter_disabled(answerer.base.model):
        assert (supervised_logprobs(answerer.base.model, row) - ours).abs().max() > 0.1, "it is no base that agrees"


def test_in_bfloat16_peft_agrees_but_for_rounding(
    job: Job, answerer: Answerer, sequences: dict[str, list[TokenSequence]]
) -> None:
    row = min(sequences["held_out"], key=lambda one: len(one.ids))
    exact = supervised_logprobs(answerer.base.model, row)
    ours = supervised_logprobs(tuned(job, "bfloat16").base.model, row)
    theirs = supervised_logprobs(in_peft(answerer, job, torch.bfloat16), row)
    # how far rounding carries depends on the processor, and on the weights that were trained there: 0.05 was seen
    assert (ours - theirs).abs().mean() < 0.1
    assert (ours - exact).abs().mean() < 1.5 * (theirs - exact).abs().mean() + 0.01, "no farther off than PEFT's own"


def test_the_merged_folder_loads_in_plain_transformers_and_agrees(
    job: Job, answerer: Answerer, sequences: dict[str, list[TokenSequence]], tmp_path: Path
) -> None:
    row = min(sequences["held_out"], key=lambda one: len(one.ids))
    expected = supervised_logprobs(answerer.base.model, row)
    mine = tuned(job)
    merge_and_save(LowRankAdaptation(mine.base.model, title="LoRA"), mine.base.tokenizer, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    torch.testing.assert_close(supervised_logprobs(plain, row), expected, atol=1e-3, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    asked = [{"role": "user", "content": CAPITAL}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert tuple(ids) == answerer.prompt([Message("user", CAPITAL)])


def test_the_base_still_knows_the_capital_of_france(answerer: Answerer) -> None:
    """With the adapter off, the answer is the one that the base gave before anything was trained."""
    ids = torch.tensor([answerer.prompt([Message("user", CAPITAL)])])
    with adapter_disabled(answerer.base.model), torch.no_grad():
        written = answerer.base.model.generate(input_ids=ids, max_new_tokens=20, do_sample=False)
    assert answerer.text(written[0, ids.shape[1] :].tolist()) == "The capital of France is Paris."
