"""Who is measured, and with what settings: the one table of systems, and the one table of hone's switches.

Held equal in all of them, whatever their own defaults: base weights, adapter (all linear layers but the head, rank 16,
alpha 32, no dropout, the same numbers), token ids and labels, rows of each optimizer step, loss summed and divided by
the step's supervised tokens, AdamW (0.9, 0.999, 1e-8, no decay), linear schedule without warm-up, clipping, threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class System:
    """A contender in one setting.

    Args:
        driver: module of this package that runs it.
        settings: what the driver is told.
        says: the setting in words, for the page.
        environment: whose Python it runs in: ``own`` is hone's, which has TRL and PEFT as well.
        variables: environment variables of the process.
    """

    driver: str
    settings: dict[str, Any]
    says: str
    environment: str = "own"
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def is_default(self) -> bool:
        """Whether it is a peer as it comes, not as it is best."""
        return bool(self.settings.get("default"))


# One line a switch of hone's engine. ``path``: keyword arguments of ``hone.recipe.inference.training_path``; ``off``: a
# part that ``hone_side.switch_off`` puts off. The ablation measures each beside hone whole.
SWITCHES: dict[str, System] = {
    "packing": System(
        "hone_side", {"path": {"reference": True}}, "padded rows and the model's own layers (the reference path)"
    ),
    "shared-prefixes": System(
        "hone_side", {"path": {}, "off": "shared_prefixes"}, "every row laid down whole, common beginnings too"
    ),
    "fast-layers": System(
        "hone_side", {"path": {}, "off": "fast_layers"}, "adapted layers one by one, the model's own norms"
    ),
    "chunked-head": System("hone_side", {"path": {}, "off": "chunked_head"}, "all logits of the supervised tokens"),
    "products": System(
        "hone_side", {"path": {}, "off": "attention_products"}, "attention by torch's fused kernel in place of products"
    ),
    "kept-memory": System("hone_side", {"path": {}, "off": "kept_memory"}, "the C allocator as it comes"),
}

SYSTEMS: dict[str, System] = {
    "hone": System("hone_side", {"path": {}}, "as `hone train` runs it: no option given"),
    "plain/default": System(
        "plain_side", {"default": True}, "rows as they come, one padded batch a step, SDPA, float32 adapter"
    ),
    "plain/best": System(
        "plain_side",
        {"longest_first": True, "micro_tokens": 1024},
        "rows of a step sorted by length, padded micro-batches of at most 1,024 tokens, SDPA, float32 adapter",
    ),
    "plain/autocast": System(
        "plain_side",
        {"longest_first": True, "micro_tokens": 1024, "autocast": True},
        "the same under bfloat16 autocast, so that the adapter's products are bfloat16 too",
    ),
    "trl/default": System(
        "trl_side",
        {"default": True, "weights": "float32", "arguments": {}},
        "SFTConfig() as it comes: float32 weights, bfloat16 autocast, gradient checkpointing, padded",
    ),
    "trl/best": System(
        "trl_side",
        {
            "longest_first": True,
            "micro_tokens": 1024,
            "arguments": {"bf16": False, "gradient_checkpointing": False},
        },
        "weights in the compute dtype, no autocast, no checkpointing, sorted micro-batches of at most 1,024 tokens",
    ),
    "trl/autocast": System(
        "trl_side",
        {"longest_first": True, "micro_tokens": 1024, "arguments": {"gradient_checkpointing": False}},
        "the same under bfloat16 autocast, so that the adapter's products are bfloat16 too",
    ),
    "trl/padding-free": System(
        "trl_side",
        {"longest_first": True, "arguments": {"bf16": False, "gradient_checkpointing": False, "padding_free": True}},
        "trl/best with padding_free=True: the rows of a step end to end under one block-diagonal mask",
    ),
    "llamafactory/default": System(
        "llamafactory_side",
        {"default": True, "arguments": {}},
        "gradient checkpointing, precision as it chooses, padded",
        "llamafactory",
    ),
    "llamafactory/best": System(
        "llamafactory_side",
        {"longest_first": True, "micro_tokens": 1024, "arguments": {"disable_gradient_checkpointing": True}},
        "disable_gradient_checkpointing, sorted micro-batches of at most 1,024 tokens (it refuses pure_bf16 on a CPU)",
        "llamafactory",
    ),
    "llamafactory/autocast": System(
        "llamafactory_side",
        {
            "longest_first": True,
            "micro_tokens": 1024,
            "arguments": {"disable_gradient_checkpointing": True, "bf16": True},
        },
        "the same with bf16: autocast, so that the adapter's products are bfloat16 too",
        "llamafactory",
    ),
    "soup/default": System(
        "soup_side", {"default": True, "training": {}}, "weights in the dtype of the files, padded", "soup"
    ),
    "soup/best": System(
        "soup_side",
        {"longest_first": True, "micro_tokens": 1024, "training": {"gradient_checkpointing": False}},
        "the same with sorted micro-batches of at most 1,024 tokens, no checkpointing",
        "soup",
    ),
    **{f"hone without {name}": switch for name, switch in SWITCHES.items()},
}


def oracle_in(dtype: str) -> System:
    """The eager oracle: one row at a time, so that nothing is padded or packed. In float32 it judges everybody."""
    settings = {"micro_tokens": 1, "attention": "eager", "dtype": dtype}
    return System("plain_side", settings, f"transformers and PEFT, {dtype}, eager, row by row")
