"""The flat twin, ``examples/sft_loop.py``, and the product path: the same losses, the same adapter."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from hone.data.loader import load_examples
from hone.data.render import Renderer
from hone.engine.events import Event
from hone.engine.loop import LoopSettings, train
from hone.model.adapter_files import load_adapter, save_adapter
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs
from hone.model.load import load_base
from hone.model.lora import adapter_parameters, attach_adapter
from hone.objective.supervised import supervised_loss
from hone.types import TokenSequence
from tests.tiny import row_logits, save_tiny, tiny_model

TWIN = Path(__file__).resolve().parents[2] / "examples" / "sft_loop.py"
OPTIONS = {
    "rank": 4,
    "alpha": 8.0,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 5e-3,
    "warmup_share": 0.3,
    "weight_decay": 0.05,
    "max_gradient_norm": 0.7,
    "seed": 11,
}


def _conversations() -> list[list[dict[str, str]]]:
    """Nine rows: single and several turns, with and without a system message, answers of very different lengths."""
    rows = []
    for number in range(9):
        turns = [{"role": "system", "content": "you answer about lamps"}] if number % 3 == 0 else []
        for turn in range(1 + number % 2):
            turns.append({"role": "user", "content": f"is lamp {number} lit, or is order {turn} on the way?"})
            turns.append({"role": "assistant", "content": "the answer is this " * (1 + (number * 5) % 7)})
        rows.append(turns)
    return rows


@dataclass
class _Inputs:
    model: Path
    data: Path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> _Inputs:
    folder = tmp_path_factory.mktemp("twin")
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) for messages in _conversations()]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _Inputs(save_tiny(folder / "model", "llama"), folder / "data.jsonl")


@dataclass
class _Twin:
    losses: list[float]
    adapter: Path
    names: dict[str, object]


@pytest.fixture(scope="module")
def twin(inputs: _Inputs, tmp_path_factory: pytest.TempPathFactory) -> _Twin:
    """The twin, run as a script, and what it printed."""
    out = tmp_path_factory.mktemp("out") / "adapter"
    words = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(TWIN), str(inputs.model), str(inputs.data), str(out), *words])
        patch.setattr("builtins.print", lambda *parts, **_: printed.append(" ".join(map(str, parts))))
        names = runpy.run_path(str(TWIN), run_name="__main__")
    losses = [float(found[1]) for line in printed if (found := re.search(r"loss (\d+\.\d{6})", line))]
    return _Twin(losses, out, names)


@dataclass
class _Product:
    losses: list[float]
    adapter: Path
    sequences: list[TokenSequence]


class _Losses(list[float]):
    def record(self, event: Event) -> None:
        if event.kind == "step":
            self.append(event.data["loss"])


@pytest.fixture(scope="module")
def product(inputs: _Inputs, tmp_path_factory: pytest.TempPathFactory) -> _Product:
    """The same job through hone's own parts, as recipe/sft.py puts them together."""
    folder = tmp_path_factory.mktemp("product")
    base = load_base(str(inputs.model), home=folder, device="cpu", dtype="float32", note=lambda _text: None)
    renderer = Renderer(base.tokenizer)
    examples = load_examples(str(inputs.data)).examples
    sequences = [sequence for example in examples for sequence in renderer.render(example).sequences]
    attach_adapter(base.model, rank=OPTIONS["rank"], alpha=OPTIONS["alpha"], seed=OPTIONS["seed"])
    losses = _Losses()
    named = ("batch_size", "epochs", "learning_rate", "warmup_share", "weight_decay", "max_gradient_norm", "seed")
    settings = LoopSettings(
        **{name: OPTIONS[name] for name in named},
        max_steps=None,
        micro_batch_tokens=120,
        evaluate_every_steps=100,
        patience=None,
        save_every_steps=None,
        keep_checkpoints=1,
    )
    with packed_attention_enabled(base.model):
        train(
            base.model,
            sequences,
            parameters=adapter_parameters(base.model),
            forward=packed_logprobs,
            objective=supervised_loss,
            settings=settings,
            evaluate=None,
            recorder=losses,
            checkpoints=folder / "checkpoints",
        )
    save_adapter(base.model, folder / "adapter", base_name=base.name, notes={})
    return _Product(losses, folder / "adapter", sequences)


def test_both_lose_the_same_in_every_step(twin: _Twin, product: _Product) -> None:
    assert len(twin.losses) == 6
    assert twin.losses == pytest.approx(product.losses, abs=1e-5)
    assert twin.losses[-1] < twin.losses[0] - 0.1


def test_both_render_the_same_rows_with_the_same_masks(twin: _Twin, product: _Product, inputs: _Inputs) -> None:
    tokenizer = twin.names["AutoTokenizer"].from_pretrained(inputs.model)
    rendered = [twin.names["render"](tokenizer, messages) for messages in _conversations()]
    assert [tuple(ids) for ids, _ in rendered] == [sequence.ids for sequence in product.sequences]
    assert [tuple(flags) for _, flags in rendered] == [sequence.supervised for sequence in product.sequences]
    for sequence in product.sequences:
        assert sequence.supervised[-1]
        assert sequence.ids[-1] == tokenizer.eos_token_id


def test_both_save_the_same_adapter(twin: _Twin, product: _Product) -> None:
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (product.adapter, twin.adapter))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-5, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def test_the_twins_adapter_loads_in_peft_and_in_hone(twin: _Twin) -> None:
    ids = list(range(5, 30))
    base = row_logits(tiny_model("llama"), ids)
    in_peft = PeftModel.from_pretrained(tiny_model("llama"), twin.adapter).eval()
    in_hone = tiny_model("llama")
    assert len(load_adapter(in_hone, twin.adapter)) == 14
    assert (row_logits(in_hone, ids) - base).abs().max() > 1e-2
    torch.testing.assert_close(row_logits(in_peft, ids), row_logits(in_hone, ids), atol=1e-5, rtol=1e-5)


def test_the_twin_stands_alone_and_short() -> None:
    text = TWIN.read_text(encoding="utf-8")
    imported = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= set(sys.stdlib_module_names) | {"safetensors", "torch", "transformers"}
    assert len(text.splitlines()) < 200


@pytest.mark.parametrize(
    "template",
    [
        # the first ends no turn, the second rewrites what came before
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "{{ messages | length }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    ],
    ids=["endless", "rewriting"],
)
def test_the_twin_refuses_templates_that_it_would_render_wrongly(twin: _Twin, inputs: _Inputs, template: str) -> None:
    tokenizer = twin.names["AutoTokenizer"].from_pretrained(inputs.model)
    tokenizer.chat_template = template
    with pytest.raises(SystemExit, match="template"):
        twin.names["render"](tokenizer, _conversations()[1])
