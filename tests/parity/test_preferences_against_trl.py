"""Preference objectives on packed rows against TRL's trainers on the same batch: loss and gradients, in float32.

TRL tokenises, pads and collates; its batch is then taken apart into rows, packed with shared prompts, and computed by
hone. Policy and reference are two different random models, so that no term is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hone.data.pack import pack
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs
from hone.objective.preference import Answers, answer_sums, dpo_loss, ipo_loss, kto_loss, orpo_loss, simpo_loss
from hone.objective.reward import reward_loss
from hone.types import TokenSequence
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

PAIRS = [
    {"prompt": "what is in the big old box by the door?", "chosen": "a lamp, and two bells", "rejected": "nothing"},
    {"prompt": "who lit it?", "chosen": "she", "rejected": "the man from the blue town did, or so they say"},
    {"prompt": "is it far?", "chosen": "not far", "rejected": "two days away"},
]
EVEN = [{"prompt": "", "chosen": "qxzkjw", "rejected": "ijk lmn"}, {"prompt": "", "chosen": "wjkzxq", "rejected": "y"}]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _arguments(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "report_to": "none", "use_cpu": True, "bf16": False, "remove_unused_columns": False,
        "per_device_train_batch_size": 3, "gradient_checkpointing": False, "disable_tqdm": True, **more,
    }  # fmt: skip


def _batch(trainer: Any) -> dict[str, Any]:
    return dict(next(iter(trainer.get_train_dataloader())))


def _gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def _rows(ids: Tensor, mask: Tensor, attention: Tensor) -> list[TokenSequence]:
    """The real tokens of each padded row, with the mask of its answer."""
    rows = []
    for number, (row, flags, real) in enumerate(zip(ids, mask, attention, strict=True)):
        kept = real.bool()
        rows.append(TokenSequence(tuple(row[kept].tolist()), tuple(flags[kept].bool().tolist()), number))
    return rows


def _sums(model: PreTrainedModel, rows: list[TokenSequence]) -> tuple[Tensor, Tensor]:
    """Log-probability and length of each row's answer, on the packed path with shared prefixes."""
    batch = pack(rows)
    with packed_attention_enabled(model):
        logprobs_S = packed_logprobs(model, batch)
    owners_S = torch.tensor(batch.owners_S)
    return answer_sums(logprobs_S, owners_S, len(rows)), answer_sums(torch.ones_like(logprobs_S), owners_S, len(rows))


def _answers(model: PreTrainedModel, rows: list[TokenSequence]) -> Answers:
    (chosen, rejected), (many, few) = (one.chunk(2) for one in _sums(model, rows))
    return Answers(chosen, rejected, many, few)


def _assert_equal(
    model: PreTrainedModel, theirs: tuple[Tensor, dict[str, Tensor]], ours: Callable[[], tuple[Tensor, int, Any]]
) -> None:
    loss_sum, weight, _ = ours()
    loss = loss_sum / weight
    torch.testing.assert_close(loss.detach(), theirs[0].detach(), **CLOSE)
    gradients = _gradients(model, loss)
    assert gradients.keys() == theirs[1].keys()
    assert any(float(one.abs().max()) > 1e-3 for one in gradients.values()), "something is to be learned"
    for name, one in gradients.items():
        torch.testing.assert_close(one, theirs[1][name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["sigmoid", "sigmoid_norm", "ipo"])
def test_with_a_reference(kind: str, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    policy, reference = tiny_model("llama", seed=1), tiny_model("llama", seed=2)
    trainer = DPOTrainer(
        model=policy, ref_model=reference, processing_class=tiny_tokenizer(), train_dataset=Dataset.from_list(PAIRS),
        args=DPOConfig(**_arguments(tmp_path, loss_type=[kind], beta=0.3)),
    )  # fmt: skip
    batch = _batch(trainer)
    loss = trainer.compute_loss(policy, dict(batch))
    theirs = (loss, _gradients(policy, loss))
    rows = _rows(batch["input_ids"], batch["completion_mask"], batch["attention_mask"])
    with torch.no_grad():
        known = _answers(trainer.ref_model, rows)

    def ours() -> tuple[Tensor, int, Any]:
        if kind == "ipo":
            return ipo_loss(_answers(policy, rows), known, beta=0.3)
        return dpo_loss(_answers(policy, rows), known, beta=0.3, length_normalised=kind == "sigmoid_norm")

    _assert_equal(policy, theirs, ours)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["simpo", "sigmoid"])
def test_without_a_reference(kind: str, smoothing: float, tmp_path: Path) -> None:
    """SimPO; and, as DPO of a reference that finds every answer equally likely, CPO's smoothed logistic loss."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    policy = tiny_model("llama", seed=1)
    options = {"loss_type": kind, "beta": 1.5, "simpo_gamma": 0.7, "label_smoothing": smoothing, "cpo_alpha": 0.0}
    trainer = CPOTrainer(
        model=policy, processing_class=tiny_tokenizer(), train_dataset=Dataset.from_list(PAIRS),
        args=CPOConfig(**_arguments(tmp_path, **options)),
    )  # fmt: skip
    batch = _batch(trainer)
    loss = trainer.compute_loss(policy, dict(batch))
    theirs = (loss, _gradients(policy, loss))
    rows = _concatenated(batch)

    def ours() -> tuple[Tensor, int, Any]:
        answers = _answers(policy, rows)
        if kind == "simpo":
            return simpo_loss(answers, beta=1.5, target_margin=0.7, label_smoothing=smoothing)
        even = Answers(torch.zeros(3), torch.zeros(3), answers.chosen_tokens_P, answers.rejected_tokens_P)
        return dpo_loss(answers, even, beta=1.5, label_smoothing=smoothing)

    _assert_equal(policy, theirs, ours)


def _concatenated(batch: dict[str, Any]) -> list[TokenSequence]:
    rows = []
    for side in ("chosen", "rejected"):
        rows += _rows(batch[f"{side}_input_ids"], batch[f"{side}_labels"] != -100, batch[f"{side}_attention_mask"])
    return rows


def test_odds_ratio(tmp_path: Path) -> None:
    """Chosen answers of one length after a prompt of one token: there TRL's mean over all tokens is the paper's."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    policy, tokenizer = tiny_model("llama", seed=1), tiny_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token
    trainer = ORPOTrainer(
        model=policy, processing_class=tokenizer, train_dataset=Dataset.from_list(EVEN),
        args=ORPOConfig(**_arguments(tmp_path, beta=0.4)),
    )  # fmt: skip
    batch = _batch(trainer)
    rows = _concatenated(batch)
    lengths = {(len(row.ids), row.num_supervised) for row in rows[:2]}
    assert len(lengths) == 1, lengths
    assert all(length - supervised == 1 for length, supervised in lengths), lengths
    loss = trainer.compute_loss(policy, dict(batch))
    theirs = (loss, _gradients(policy, loss))
    _assert_equal(policy, theirs, lambda: orpo_loss(_answers(policy, rows), beta=0.4))


def test_single_answers(tmp_path: Path) -> None:
    from trl import KTOConfig, KTOTrainer

    policy, reference = tiny_model("llama", seed=1), tiny_model("llama", seed=2)
    rows = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair, side in zip(PAIRS, ("chosen", "rejected", "chosen"), strict=True)
    ]
    trainer = KTOTrainer(
        model=policy, ref_model=reference, processing_class=tiny_tokenizer(), train_dataset=Dataset.from_list(rows),
        args=KTOConfig(**_arguments(tmp_path, beta=0.3, desirable_weight=1.2, undesirable_weight=0.8)),
    )  # fmt: skip
    batch = _batch(trainer)
    loss = trainer.compute_loss(policy, dict(batch))
    theirs = (loss, _gradients(policy, loss))
    sequences = _rows(batch["input_ids"], batch["completion_mask"], batch["attention_mask"])
    mismatched = _rows(batch["KL_input_ids"], batch["KL_completion_mask"], batch["KL_attention_mask"])
    with torch.no_grad():
        known, _ = _sums(trainer.ref_model, sequences)
        apart = _sums(policy, mismatched)[0] - _sums(trainer.ref_model, mismatched)[0]

    def ours() -> tuple[Tensor, int, Any]:
        liked = torch.as_tensor(batch["label"], dtype=torch.bool)
        return kto_loss(
            _sums(policy, sequences)[0], known, liked, divergence=max(0.0, float(apart.mean())), beta=0.3,
            desirable_weight=1.2, undesirable_weight=0.8,
        )  # fmt: skip

    _assert_equal(policy, theirs, ours)


@pytest.mark.parametrize("margins", [None, [0.5, 0.0, 1.5]])
def test_reward_model(margins: list[float] | None, tmp_path: Path) -> None:
    from trl import RewardConfig, RewardTrainer

    folder = save_tiny(tmp_path / "base")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
    rows = [{**pair, **({} if margins is None else {"margin": margins[index]})} for index, pair in enumerate(PAIRS)]
    trainer = RewardTrainer(
        model=model, processing_class=tiny_tokenizer(), train_dataset=Dataset.from_list(rows),
        args=RewardConfig(**_arguments(tmp_path, center_rewards_coefficient=0.05, disable_dropout=True)),
    )  # fmt: skip
    batch = _batch(trainer)
    loss = trainer.compute_loss(model, dict(batch))
    theirs = (loss, _gradients(model, loss))

    def ours() -> tuple[Tensor, int, Any]:
        chosen, rejected = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].chunk(2)
        return reward_loss(chosen, rejected, batch.get("margin"), centring=0.05)

    _assert_equal(model, theirs, ours)
