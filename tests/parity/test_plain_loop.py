"""hone's loop against a plain loop of transformers and PEFT: the same losses, gradient norms and weights."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hone.engine.events import Event
from hone.engine.loop import LoopSettings, train
from hone.model.attention import packed_attention_enabled
from hone.model.forward import Forward, packed_logprobs, padded_logprobs
from hone.model.lora import adapted_layers, adapter_parameters, attach_adapter
from hone.objective.supervised import supervised_loss
from tests.parity.stepping import padded
from tests.tiny import row_logits, tiny_model, token_rows

RANK, ALPHA, SEED = 4, 8.0, 3
PEAK, WARMUP_SHARE, WEIGHT_DECAY, BOUND = 1e-3, 0.4, 0.05, 0.5
BATCH, EPOCHS, STEPS = 4, 2, 5
ROWS = token_rows([31, 9, 22, 40, 14, 27, 18, 35, 12, 1, 25], seed=7)


class _Steps(list[Event]):
    """A recorder of step events."""

    def record(self, event: Event) -> None:
        if event.kind == "step":
            self.append(event)


def _peft_like(model: PreTrainedModel, family: str) -> PeftModel:
    """PEFT on a fresh base, starting from hone's A and B."""
    base = tiny_model(family)
    conv = any(isinstance(module, Conv1D) for module in base.modules())
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=conv
    )
    theirs = get_peft_model(base, config).eval()
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, layer in adapted_layers(model):
            parameters[f"base_model.model.{name}.lora_A.default.weight"].copy_(layer.lora_A)
            parameters[f"base_model.model.{name}.lora_B.default.weight"].copy_(layer.lora_B)
    return theirs


def _plain_loop(theirs: PeftModel) -> list[tuple[float, float, float]]:
    """(loss, gradient norm, learning rate) of each step, by transformers' own loss and torch's own schedule."""
    trainable = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=PEAK, weight_decay=WEIGHT_DECAY)
    warmup = 2  # 0.4 of 5 steps

    def share(done: int) -> float:
        return (done + 1) / warmup if done < warmup else (STEPS - done) / (STEPS - warmup)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    figures: list[tuple[float, float, float]] = []
    for epoch in range(EPOCHS):
        order = list(range(len(ROWS)))
        random.Random(f"hone-order-{SEED}-{epoch}").shuffle(order)
        for start in range(0, len(ROWS), BATCH):
            if len(figures) == STEPS:
                return figures
            batch = padded([ROWS[index] for index in order[start : start + BATCH]])
            supervised = int((batch["labels"][:, 1:] != -100).sum())
            optimizer.zero_grad()
            loss = theirs(**batch, num_items_in_batch=supervised, use_cache=False).loss
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(trainable, BOUND)
            figures.append((loss.item(), norm.item(), schedule.get_last_lr()[0]))
            optimizer.step()
            schedule.step()
    return figures


@pytest.mark.parametrize(
    ("family", "forward"),
    [("llama", packed_logprobs), ("gemma3", packed_logprobs), ("gpt2", packed_logprobs), ("llama", padded_logprobs)],
    ids=["llama", "gemma3", "gpt2", "llama-reference-path"],
)
def test_five_steps_equal_the_plain_loop(tmp_path: Path, family: str, forward: Forward) -> None:
    model = tiny_model(family)
    attach_adapter(model, rank=RANK, alpha=ALPHA, seed=SEED)
    start = {name: tensor.detach().clone() for name, tensor in adapter_parameters(model).items()}
    theirs = _peft_like(model, family)
    settings = LoopSettings(
        batch_size=BATCH,
        epochs=EPOCHS,
        max_steps=STEPS,
        learning_rate=PEAK,
        warmup_share=WARMUP_SHARE,
        weight_decay=WEIGHT_DECAY,
        max_gradient_norm=BOUND,
        micro_batch_tokens=50,  # every step is accumulated, the plain loop's are not
        seed=SEED,
        evaluate_every_steps=100,
        patience=None,
        save_every_steps=None,
        keep_checkpoints=1,
    )
    steps = _Steps()

    def run() -> None:
        train(
            model, ROWS, parameters=adapter_parameters(model), forward=forward, objective=supervised_loss,
            settings=settings, evaluate=None, recorder=steps, checkpoints=tmp_path,
        )  # fmt: skip

    if forward is packed_logprobs:
        with packed_attention_enabled(model):
            run()
    else:
        run()
    figures = _plain_loop(theirs)

    assert [event.data["loss"] for event in steps] == pytest.approx([loss for loss, _, _ in figures], abs=1e-5)
    assert [event.data["gradient_norm"] for event in steps] == pytest.approx([norm for _, norm, _ in figures], rel=1e-4)
    assert [event.data["learning_rate"] for event in steps] == pytest.approx([rate for _, _, rate in figures])
    assert max(norm for _, norm, _ in figures) > BOUND, "clipping must have its part"
    parameters = dict(theirs.named_parameters())
    for name, tensor in adapter_parameters(model).items():
        layer, _, half = name.rpartition(".")
        reference = parameters[f"base_model.model.{layer}.{half}.default.weight"]
        assert (tensor - start[name]).abs().max() > 1e-3, f"{name} was trained"
        torch.testing.assert_close(tensor, reference, atol=1e-5, rtol=0, msg=lambda text, n=name: f"{n}: {text}")
    ids = list(range(5, 30))
    torch.testing.assert_close(row_logits(model, ids), row_logits(theirs, ids), atol=1e-4, rtol=1e-4)
