"""Make what all systems share, once: the base in safetensors, the adapters to start from, the rows.

``python -m side_by_side.prepare REQUEST.json`` in hone's environment. Two adapters are made: ``start``, whose B is
zero, which every timed run begins from; and ``probe``, whose B is not, which the gate's gradients are taken at: with B
zero the gradient of every A is zero too, and agreeing on it says nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hone.model.adapter_files import save_adapter
from hone.model.load import LoadedModel, load_base
from hone.model.lora import adapted_layers, adapter_parameters, attach_adapter, find_linear_layers
from hone.recipe.inference import make_renderer
from side_by_side.workloads import Sizes, make_workloads

RANK, ALPHA, SEED = 16, 32.0, 0
_PROBE_DEVIATION = 0.02


def facts_of(model: PreTrainedModel, names: list[str]) -> dict[str, Any]:
    """What the count of FLOPs needs: see :func:`side_by_side.roofline.flops_per_token`."""
    shape = model.config.get_text_config()
    modules = dict(model.named_modules())
    heads: int = shape.num_attention_heads
    return {
        "matmul_parameters": sum(int(modules[name].weight.numel()) for name in names),
        "head_parameters": int(model.get_output_embeddings().weight.numel()),
        "layers": int(shape.num_hidden_layers),
        "attention_width": heads * int(getattr(shape, "head_dim", None) or shape.hidden_size // heads),
        "width": int(shape.hidden_size),
        "feed_forward_width": int(shape.intermediate_size),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def export(base: LoadedModel, folder: Path, dtype: str) -> dict[str, Any]:
    """Write the base in ``dtype`` and both adapters into ``folder``; give the facts of the model."""
    model = base.model
    model.save_pretrained(folder / "model")
    base.tokenizer.save_pretrained(folder / "model")
    facts = facts_of(model, find_linear_layers(model))
    attach_adapter(model, rank=RANK, alpha=ALPHA, seed=SEED)
    save_adapter(model, folder / "start", base_name="base", notes={})
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for _, layer in adapted_layers(model):
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * _PROBE_DEVIATION)
    save_adapter(model, folder / "probe", base_name="base", notes={})
    facts["adapter_parameters"] = sum(parameter.numel() for parameter in adapter_parameters(model).values())
    return {**facts, "name": base.name if base.source.kind == "embedded" else "a model of the user's", "dtype": dtype}


def main() -> None:
    """Make everything that the request asks for and write ``prepared.json``."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(request["folder"])
    base = load_base(request["model"], home=folder / "home", device="cpu", dtype=request["dtype"])
    dtype = str(base.dtype).removeprefix("torch.")
    renderer = make_renderer(base, (), max_length=None, note=lambda text: None)
    sizes = Sizes.quick() if request["quick"] else Sizes()
    workloads = make_workloads(
        request["workloads"], [Path(source) for source in request["sources"]], Path(request["documents"]),
        renderer, sizes,
    )  # fmt: skip
    facts = export(base, folder, dtype)
    files = {}
    for workload in workloads:
        path = folder / f"{workload.name.replace(' ', '-')}.json"
        workload.write(path)
        files[workload.name] = path.name
    prepared = {"request": request, "model": facts, "dtype": dtype, "workloads": files}
    (folder / "prepared.json").write_text(json.dumps(prepared, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
