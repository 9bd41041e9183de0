"""Supervised fine-tuning of a language model with LoRA, in one file: what ``hone train`` does, without hone.

    python examples/sft_loop.py MODEL_FOLDER DATA.jsonl OUT

DATA holds one conversation a line: {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}.
OUT becomes an adapter that PEFT, hone and inference servers load. The file needs torch, transformers and safetensors.

It is written to be read from top to bottom. ``hone`` does the same with packed rows instead of padded ones, checks,
checkpoints, validation and a comparison at the end; tests/parity/test_flat_twin.py holds both to the same losses.

Shape legend: B rows of a step, L length of the longest, V vocabulary, R rank, D_in and D_out widths of a layer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

# --- 1. rows to tokens, and which of them carry loss -----------------------------------------------------------------


def render(tokenizer, messages: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and for each whether it is supervised: the assistant's words and its end of turn.

    The mask comes from rendering prefixes: what the template writes before an assistant's turn is the prompt that
    generation will see; what it adds with the turn is what the model must learn to write. No marker is searched for.
    """
    ids: list[int] = []
    supervised: list[bool] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(messages[:index], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(messages[: index + 1], tokenize=False)
        prompt_ids, whole_ids = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, whole))
        # Templates often write a line break after the token that ends a turn. Generation never gets there.
        ends = [at + 1 for at in range(len(prompt_ids), len(whole_ids)) if whole_ids[at] == tokenizer.eos_token_id]
        if not ends or whole_ids[: len(prompt_ids)] != prompt_ids or whole_ids[: len(ids)] != ids:
            raise SystemExit("this template rewrites earlier turns or ends none; hone can render such, this file not")
        ids = whole_ids[: ends[-1]]
        supervised += [False] * (len(prompt_ids) - len(supervised)) + [True] * (len(ids) - len(prompt_ids))
    return ids, supervised


def padded_batch(rows: list[tuple[list[int], list[bool]]]) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, attention mask, loss mask), each [B, L], padded on the right; causal attention never looks there."""
    longest = max(len(ids) for ids, _ in rows)
    ids_BL = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    attention_BL = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
    loss_BL = torch.tensor([supervised + [False] * (longest - len(supervised)) for _, supervised in rows])
    return ids_BL, attention_BL, loss_BL


# --- 2. LoRA: a small update beside each frozen layer ----------------------------------------------------------------


class Lora(nn.Module):
    """y = W x + (alpha / R) B A x, with W frozen (Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, seed: int) -> None:
        super().__init__()
        self.base, self.scaling = base, alpha / rank
        # A is Kaiming-uniform with a = sqrt(5), as in PEFT, drawn from a generator of the layer's own. B starts at
        # zero, so that training starts from the base model exactly.
        draw_RD = torch.rand(rank, base.in_features, generator=torch.Generator().manual_seed(seed))
        self.lora_A = nn.Parameter((draw_RD * 2 - 1) / math.sqrt(base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., D_in] to [..., D_out]."""
        return self.base(x) + nn.functional.linear(nn.functional.linear(x, self.lora_A), self.lora_B) * self.scaling


def attach_lora(model: nn.Module, rank: int, alpha: float, seed: int) -> dict[str, Lora]:
    """Wrap every linear layer but the output head, which is often tied to the embeddings. Layers by name."""
    model.requires_grad_(False)
    head = model.get_output_embeddings()
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    layers = {}
    for name, base in linear.items():
        # The seed depends on the layer's name and not on how many layers come before it.
        layers[name] = Lora(base, rank, alpha, seed=zlib.crc32(f"{seed}:{name}".encode()))
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layers[name])
    return layers


def save_adapter(layers: dict[str, Lora], out: Path, base_name: str, rank: int, alpha: float) -> None:
    """Write PEFT's format: two files, the tensors under the names that PEFT gives them."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A.detach()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B.detach()
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# --- 3. training -----------------------------------------------------------------------------------------------------


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Up to the peak in a line over the warm-up, then down in a line to just above zero at the last step (from 1)."""
    return peak * step / warmup if step <= warmup else peak * (total - step + 1) / max(1, total - warmup)


def fine_tune(model_folder: str, data: Path, out: Path, options: argparse.Namespace) -> list[float]:
    """Train an adapter and save it; the loss of each step, in nats per supervised token."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model.eval()  # no dropout: a row's loss depends on the row alone
    lines = data.read_text(encoding="utf-8").splitlines()
    rows = [render(tokenizer, json.loads(line)["messages"]) for line in lines if line.strip()]
    layers = attach_lora(model, options.rank, options.alpha, options.seed)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.0, weight_decay=options.weight_decay)
    total = math.ceil(len(rows) / options.batch_size) * options.epochs
    warmup = round(options.warmup_share * total)
    losses: list[float] = []
    for epoch in range(options.epochs):
        # The order is a function of seed and epoch alone, so that an interrupted run can go on where it was.
        order = list(range(len(rows)))
        random.Random(f"hone-order-{options.seed}-{epoch}").shuffle(order)
        for start in range(0, len(rows), options.batch_size):
            step = len(losses) + 1
            batch = [rows[index] for index in order[start : start + options.batch_size]]
            # One division for the whole step. A mean of the rows' means would weigh a short answer's tokens more.
            supervised_tokens = sum(sum(supervised) for _, supervised in batch)
            optimizer.zero_grad()
            loss = 0.0
            for at in range(0, len(batch), options.micro_batch_size):  # as much at a time as fits into memory
                ids_BL, attention_BL, loss_BL = padded_batch(batch[at : at + options.micro_batch_size])
                logits_BLV = model(input_ids=ids_BL, attention_mask=attention_BL, use_cache=False).logits
                # The scores at a token predict the next one: shift by one, and take the supervised tokens alone.
                target_BL = loss_BL[:, 1:]
                part = nn.functional.cross_entropy(
                    logits_BLV[:, :-1][target_BL].float(), ids_BL[:, 1:][target_BL], reduction="sum"
                )
                (part / supervised_tokens).backward()
                loss += part.item() / supervised_tokens
            norm = float(nn.utils.clip_grad_norm_(trainable, options.max_gradient_norm))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise SystemExit(f"step {step} was not taken: its loss is {loss}, its gradient norm {norm}")
            rate = learning_rate(step, total, warmup, options.learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            losses.append(loss)
            print(f"step {step}/{total}  loss {loss:.6f}  gradient norm {norm:.4f}  learning rate {rate:.2e}")
    save_adapter(layers, out, model_folder, options.rank, options.alpha)
    return losses


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Fine-tune a model with LoRA, in one readable file.")
    parser.add_argument("model_folder", help="a model folder or hub id with a chat template")
    parser.add_argument("data", type=Path, help='JSON lines of {"messages": [...]}')
    parser.add_argument("out", type=Path, help="folder for the adapter")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=float, default=32.0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4, help="rows per optimizer step")
    parser.add_argument("--micro-batch-size", type=int, default=2, help="rows per forward and backward pass")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="at the peak")
    parser.add_argument("--warmup-share", type=float, default=0.1, help="share of the steps in which the rate rises")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--max-gradient-norm", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fine_tune(options.model_folder, options.data, options.out, options)


if __name__ == "__main__":
    main()
