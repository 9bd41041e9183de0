"""Policy objectives on packed rows against TRL's trainers on the same batch: loss and gradients, in float32.

TRL draws the answers and works out the advantages; hone packs them with their prompts shared, and computes both anew.
The policy that wrote the answers, the one that is trained and the reference are three different random models, so
that no term is zero and some ratios are clipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack
from hone.model.attention import packed_attention_enabled
from hone.model.distillation import divergence_pass
from hone.model.forward import packed_logprobs
from hone.objective.imitation import distillation_loss
from hone.objective.policy import Ratios, group_advantages, grpo_loss, leave_one_out_advantages, rloo_loss
from hone.types import TokenSequence
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

PROMPTS = [{"prompt": "what is in the big old box by the door?"}, {"prompt": "who lit it?"}]
GROUP, BETA, LONGEST = 4, 0.3, 8
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _reward(completions: list[str], **_: Any) -> list[float]:
    return [len(text) % 5 + 0.25 * (text.count("a") % 3) for text in completions]


def _arguments(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True,
        "per_device_train_batch_size": GROUP * len(PROMPTS), "num_generations": GROUP, "gradient_checkpointing": False,
        "max_completion_length": LONGEST, "beta": BETA, "epsilon": 0.2, "temperature": 1.0, "seed": 3,
        "disable_dropout": True, **more,
    }  # fmt: skip


def _models(folder: Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A policy, and a reference that TRL takes for its base: it reads that anew from the config's folder."""
    policy = tiny_model("llama", seed=1)
    policy.config._name_or_path = str(save_tiny(folder / "base", seed=2))
    return policy, tiny_model("llama", seed=2)


def _answered(trainer: Any, policy: PreTrainedModel) -> dict[str, Any]:
    """A batch as TRL makes it; then the policy moves away from who wrote it."""
    trainer.model.train()
    batch = trainer._generate_and_score_completions([*PROMPTS[:1] * GROUP, *PROMPTS[1:] * GROUP])
    moved = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=moved))
    return dict(batch)


def _packed(batch: dict[str, Any]) -> PackedBatch:
    rows = []
    for number in range(len(batch["completion_ids"])):
        sides = [
            (batch[f"{side}_ids"][number], batch[f"{side}_mask"][number].bool()) for side in ("prompt", "completion")
        ]
        prompt, answer = (ids[mask].tolist() for ids, mask in sides)
        rows.append(TokenSequence((*prompt, *answer), (False,) * len(prompt) + (True,) * len(answer), number))
    return pack(rows)


def _logprobs(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    with packed_attention_enabled(model):
        return packed_logprobs(model, batch)


def _real(values: Tensor, batch: dict[str, Any]) -> Tensor:
    return values[batch["completion_mask"].bool()]


def _gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def _assert_equal(model: PreTrainedModel, theirs: Tensor, ours: Tensor) -> None:
    torch.testing.assert_close(ours.detach(), theirs.detach(), **CLOSE)
    expected, found = _gradients(model, theirs), _gradients(model, ours)
    assert found.keys() == expected.keys()
    assert any(float(one.abs().max()) > 1e-3 for one in found.values()), "something is to be learned"
    for name, one in found.items():
        torch.testing.assert_close(one, expected[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def _rewards(trainer: Any, batch: dict[str, Any]) -> Tensor:
    texts = trainer.processing_class.batch_decode(
        [ids[mask.bool()] for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)],
        skip_special_tokens=True,
    )
    return torch.tensor(_reward(texts))


GROUPS = torch.arange(len(PROMPTS)).repeat_interleave(GROUP)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("normalisation", ["grpo", "dr_grpo", "dapo"])
def test_grpo(normalisation: Any, corrected: bool, tmp_path: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    policy, reference = _models(tmp_path)
    scaled = normalisation != "dr_grpo"
    options = {"loss_type": normalisation, "use_bias_correction_kl": corrected, "num_iterations": 2,
               "scale_rewards": "group" if scaled else "none"}  # fmt: skip
    trainer = GRPOTrainer(
        model=policy, reward_funcs=_reward, args=GRPOConfig(**_arguments(tmp_path, **options)),
        train_dataset=Dataset.from_list(PROMPTS), processing_class=tiny_tokenizer(),
    )  # fmt: skip
    batch = _answered(trainer, policy)
    trainer.current_gradient_accumulation_steps = 1
    trainer.args.steps_per_generation = 1
    theirs = trainer._compute_loss(policy, batch)
    packed = _packed(batch)
    advantages_B = group_advantages(_rewards(trainer, batch), GROUPS, scaled=scaled)
    torch.testing.assert_close(advantages_B, batch["advantages"], **CLOSE)
    ratios = Ratios(_logprobs(policy, packed), _real(batch["old_per_token_logps"], batch),
                    torch.tensor(packed.owners_S), len(GROUPS), 0.2)  # fmt: skip
    known_S = _logprobs(reference, packed).detach()
    torch.testing.assert_close(known_S, _real(batch["ref_per_token_logps"], batch), **CLOSE)
    loss_sum, weight, metrics = grpo_loss(
        ratios, advantages_B, known_S, beta=BETA, normalisation=normalisation, max_tokens=LONGEST, corrected=corrected
    )
    assert metrics["clipped"] > 0, "some ratios are out of range"
    _assert_equal(policy, theirs, loss_sum / weight)


def test_rloo(tmp_path: Path) -> None:
    from trl import RLOOConfig, RLOOTrainer

    policy, reference = _models(tmp_path)
    trainer = RLOOTrainer(
        model=policy, reward_funcs=_reward, args=RLOOConfig(**_arguments(tmp_path)),
        train_dataset=Dataset.from_list(PROMPTS), processing_class=tiny_tokenizer(),
    )  # fmt: skip
    wrote = tiny_model("llama", seed=1)
    batch = _answered(trainer, policy)
    theirs = trainer._compute_loss(policy, batch)
    packed = _packed(batch)
    owners_S = torch.tensor(packed.owners_S)
    with torch.no_grad():
        old_S, known_S = _logprobs(wrote, packed), _logprobs(reference, packed)
    ratios = Ratios(_logprobs(policy, packed), old_S, owners_S, len(GROUPS), 0.2)
    rewards_B = _rewards(trainer, batch) - BETA * ratios.per_answer(old_S - known_S)
    advantages_B = leave_one_out_advantages(rewards_B, GROUPS)
    torch.testing.assert_close(advantages_B, batch["advantages"], rtol=1e-5, atol=1e-4)
    loss_sum, weight, _ = rloo_loss(ratios, batch["advantages"])
    _assert_equal(policy, theirs, loss_sum / weight)


def test_distillation_is_gkd_with_the_reverse_divergence() -> None:
    from trl.experimental.gkd import GKDTrainer

    student, teacher = tiny_model("llama", seed=1), tiny_model("llama", seed=2)
    rows = [TokenSequence((3, 4, 5, 6, 7), (False, False, True, True, True), 0),
            TokenSequence((3, 4, 9, 8), (False, False, True, True), 1)]  # fmt: skip
    batch = pack(rows)
    theirs = torch.zeros(())
    for sequence in rows:
        ids, labels = torch.tensor([sequence.ids]), torch.tensor([sequence.ids])
        labels[0, ~torch.tensor(sequence.supervised)] = -100
        logits = [model(ids).logits[:, :-1] for model in (student, teacher)]
        logits[1] = logits[1].detach()
        theirs = theirs + GKDTrainer.generalized_jsd_loss(*logits, labels=labels[:, 1:], beta=1.0, reduction="sum")
    student.lm_head.requires_grad_(True)
    with packed_attention_enabled(student):
        loss_sum, weight, _ = distillation_loss(divergence_pass(packed_logprobs, teacher)(student, batch))
    _assert_equal(student, theirs / weight, loss_sum / weight)
