"""The weights of a GGUF file as transformers reads them."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from hone.model.quiet import quiet_transformers

__all__ = ["load_gguf_weights"]


def load_gguf_weights(path: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A GGUF's model in float32, and what transformers says about its loading.

    Float32 whatever is stored: transformers would otherwise multiply scales and integers in bfloat16, which rounds
    twice.

    Args:
        path: the file; it has been looked at, so that what is wrong with it is transformers' to say.
    """
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "output_loading_info": True}
    # newer releases would keep the blocks packed where a kernel for them is found
    packed_config = getattr(transformers, "GgufConfig", None)
    if packed_config is not None:
        options["quantization_config"] = packed_config(dequantize=True)
    with quiet_transformers(), redirect_stderr(io.StringIO()):  # a bar that asks nobody
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, trust_remote_code=False, **options
        )
    model: PreTrainedModel = loaded[0]
    return model.eval(), loaded[1]
