"""The numbers of a run, chosen from the model and the data, each with its reason.

A value that the user gave is never changed. Defaults were compared on validation rows split from training data (see
docs/defaults.md), never on held-out rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hone.planning.memory import activation_bytes, layers_to_recompute
from hone.planning.rollouts import PROMPTS_A_STEP, ROLLOUT_STEPS

__all__ = [
    "AS_BEGUN",
    "METHOD_REASONS",
    "PREFERENCE_RATE_FACTOR",
    "TOLERATED_LOSS_RISE",
    "Choice",
    "Facts",
    "Given",
    "MethodRules",
    "TrainingChoices",
    "choose_held_out_rows",
    "choose_replay_rows",
    "choose_training",
    "choose_validation_rows",
    "default_learning_rate",
]

# Measured on SmolLM2-135M; larger models take smaller steps, about with the fourth root of their size
# (Hu et al. 2021 and Biderman et al. 2024, arXiv:2405.09673, use 1e-4 to 5e-4 for 7B models).
_REFERENCE_PARAMETERS = 135e6
_REFERENCE_LEARNING_RATE = 1e-3
_LOWEST_LEARNING_RATE = 1e-4
_FREE_TEXT_RATE_FACTOR = 0.5
_MEMORY_SHARE_FOR_ACTIVATIONS = 0.4
_LARGEST_SHARE_FOR_ACTIVATIONS = 0.8  # of one row, which cannot be divided; beyond it layers are recomputed
# Beside the beginning that all rows share. On a CPU 2,048 were no faster; a card may want more, which was not measured.
_HOST_TOKENS, _CARD_TOKENS = 1024, 2048
_ASSUMED_BYTES = 4 * 2**30
# Optimizer steps under which a small data set is passed over more often, and the passes beyond which it is memorised.
_WANTED_STEPS = 48
_EPOCHS = (3, 6)
# Answers go on improving for a while after the loss of the reference answers has begun to rise: measured on validation
# rows (docs/defaults.md), as Ouyang et al. 2022 (arXiv:2203.02155, appendix C) found with raters.
TOLERATED_LOSS_RISE = 0.2
"""Share of the lowest validation loss by which a later pass may be above it and still be the one that is kept."""

AS_BEGUN = "as the run was begun with (config.yaml)"
"""The reason of every number of a run that is resumed."""

# Measured on the gain and the forgetting of four tasks (docs/retention.md); hone brings so many general prompts.
_REPLAYED_SHARE = 0.15
_MOST_REPLAYED = 64

PREFERENCE_RATE_FACTOR = 0.2
"""Learning rate of the preference methods over that of supervised fine-tuning."""

# Why each method, with its source; LoRA is what hone takes unless told otherwise.
METHOD_REASONS: Mapping[str, str] = {
    "lora": "LoRA on all linear layers learns small data sets as well as full fine-tuning does (Schulman et al. 2025, "
    "LoRA without regret), forgets less (Biderman et al. 2024, arXiv:2405.09673), takes two thirds of the operations, "
    "and can be switched off",
    "rslora": "asked for: LoRA whose scale holds at high ranks (Kalajdzievski 2023, arXiv:2312.03732)",
    "dora": "asked for: LoRA of direction and length (Liu et al. 2024, arXiv:2402.09353)",
    "pissa": "asked for: LoRA from the principal part of the weights (Meng et al. 2024, arXiv:2404.02948)",
    "full": "asked for: every weight is trained; worth it for much data or knowledge that an adapter cannot hold "
    "(Biderman et al. 2024, arXiv:2405.09673)",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One number and why it was chosen.

    Args:
        name: the option's name.
        value: what the run uses.
        reason: one clause for the user.
    """

    name: str
    value: float | int | None
    reason: str

    def to_json(self) -> dict[str, float | int | str | None]:
        """All fields."""
        return {"name": self.name, "value": self.value, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the numbers of a run follow from.

    Args:
        num_parameters: of the base.
        num_layers: its decoder layers.
        width: of its hidden states.
        context_length: tokens that it was trained to see.
        row_lengths: tokens of each row to train on or to validate with; at least one.
        available_bytes: memory free for activations on the device; None where the system does not tell.
        bytes_per_value: of the dtype of compute (2 or 4).
        has_validation: whether rows were set aside to choose the best epoch.
        free_text: whether the answers are free text, and no labels, JSON, code or a few words.
        shared_tokens: tokens that all rows begin with; they are computed once for all rows of a micro-batch.
        on_card: whether a graphics card trains.
        longest_beside: tokens of the longest row outside of the domain that is trained on beside them; 0 for none.
    """

    num_parameters: int
    num_layers: int
    width: int
    context_length: int
    row_lengths: Sequence[int]
    available_bytes: int | None
    bytes_per_value: int
    has_validation: bool = True
    free_text: bool = False
    shared_tokens: int = 0
    on_card: bool = False
    longest_beside: int = 0

    @property
    def free_bytes(self) -> int:
        """Memory for activations; a guess where the system does not tell."""
        return _ASSUMED_BYTES if self.available_bytes is None else self.available_bytes


@dataclass(frozen=True, slots=True)
class Given:
    """The user's own numbers; None where he left one open. The names are those of :class:`TrainingChoices`.

    Args:
        rank: see there.
        alpha: see there.
        learning_rate: see there.
        epochs: see there.
        batch_size: see there.
        max_length: see there.
        warmup_share: see there.
        micro_batch_tokens: see there.
        recompute_layers: see there.
        max_steps: see there.
        reason: what is said of them.
    """

    rank: int | None = None
    alpha: float | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    max_length: int | None = None
    warmup_share: float | None = None
    micro_batch_tokens: int | None = None
    recompute_layers: int | None = None
    max_steps: int | None = None
    reason: str = "as given"


@dataclass(frozen=True, slots=True)
class MethodRules:
    """Rules of what is trained.

    Args:
        has_rank: whether it has a rank and alpha.
        alpha_of_rank: its rule for alpha; twice the rank where None.
        alpha_reason: that rule in words.
        rate_factor: its learning rate over LoRA's.
        steps_each: of reinforcement learning, optimizer steps over the answers of one step; None for other methods.
    """

    has_rank: bool = True
    alpha_of_rank: Callable[[int], float] | None = None
    alpha_reason: str = "twice the rank"
    rate_factor: float = 1.0
    steps_each: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingChoices:
    """The resolved numbers of a training run, and the reason for each.

    Args:
        rank: R of the adapter; None where it has none.
        alpha: scaling numerator; alpha / R multiplies the update.
        learning_rate: peak of the schedule.
        epochs: passes over the rows, at most: validation may stop earlier.
        batch_size: rows per optimizer step.
        max_length: tokens of a row, at most.
        warmup_share: share of the steps in which the learning rate rises.
        micro_batch_tokens: real tokens of one forward and backward pass.
        recompute_layers: decoder layers whose activations are computed again in the backward pass.
        max_steps: upper bound on optimizer steps; None for none.
        choices: every number with its reason, in the order to print.
    """

    rank: int | None
    alpha: float | None
    learning_rate: float
    epochs: int
    batch_size: int
    max_length: int
    warmup_share: float
    micro_batch_tokens: int
    recompute_layers: int
    choices: tuple[Choice, ...]
    max_steps: int | None = None


def choose_held_out_rows(num_rows: int) -> Choice:
    """How many rows to set aside for the comparison: a fifth, between 8 and 200, never more than a third.

    Intervals shrink with the square root of the held-out rows; a training row is worth most where there are few.
    """
    value = max(1, min(200, max(8, round(num_rows * 0.2)), num_rows // 3))
    return Choice("held_out", value, f"a fifth of {_counted(num_rows)}, at most 200")


def choose_validation_rows(num_rows: int) -> Choice:
    """How many training rows to set aside for choosing the best checkpoint; 0 where training would starve."""
    if num_rows < 20:
        return Choice("validation", 0, f"{_counted(num_rows)}: too few to spare any")
    value = max(4, min(100, round(num_rows * 0.1)))
    return Choice("validation", value, f"a tenth of {num_rows} rows, at most 100, to choose the epoch")


def choose_replay_rows(num_train: int) -> Choice:
    """How many rows outside of the domain to train on beside it, so that general ability is kept."""
    value = min(_MOST_REPLAYED, math.ceil(num_train * _REPLAYED_SHARE))
    reason = f"to keep general ability: {_REPLAYED_SHARE:.0%} of {_counted(num_train)}, at most {_MOST_REPLAYED}"
    return Choice("general_rows", value, reason)


def choose_training(facts: Facts, given: Given, method: MethodRules) -> TrainingChoices:
    """Choose what the user left open.

    Args:
        facts: of the base, the rows and the machine.
        given: the user's own numbers, which are never changed.
        method: rules of what is trained.

    Returns:
        All numbers resolved, each with its reason.
    """
    made: dict[str, Choice] = {}

    def settle(name: str, value: float, reason: str) -> float:
        own = getattr(given, name)
        made[name] = Choice(name, value if own is None else own, reason if own is None else given.reason)
        return value if own is None else float(own)

    rows = len(facts.row_lengths)
    if method.has_rank:
        rank = int(settle("rank", 16, "enough for one task; more ranks gain little at this number of rows"))
        settle("alpha", method.alpha_of_rank(rank) if method.alpha_of_rank else 2 * rank, method.alpha_reason)
    rate = default_learning_rate(facts.num_parameters, free_text=facts.free_text)
    halved = ", half of what exact answers get: these are free text" if facts.free_text else ""
    reason = f"for {facts.num_parameters / 1e6:.0f}M parameters{halved}"
    settle("learning_rate", float(f"{rate * method.rate_factor:.1e}"), reason)
    if method.steps_each is None:
        batch_size = int(settle("batch_size", _batch_size(rows), f"for {_counted(rows)}"))
        settle("epochs", *_epochs(rows, batch_size, facts.has_validation))
    else:
        batch_size = int(settle("batch_size", min(rows, PROMPTS_A_STEP), "prompts of a step, each answered often"))
        epochs = max(1, math.ceil(ROLLOUT_STEPS * batch_size / rows))
        settle("epochs", epochs, f"{ROLLOUT_STEPS} steps of {batch_size} prompts, for {_counted(rows)}")
        if given.epochs is None or given.max_steps is not None:
            reason = "steps of rollouts take long; give more where the reward still rises"
            settle("max_steps", ROLLOUT_STEPS * method.steps_each, reason)
    longest = max(facts.row_lengths)
    reason = f"the model's context; the longest row has {longest}"
    longest = min(longest, int(settle("max_length", facts.context_length, reason)))
    settle("warmup_share", 0.1, "AdamW's second moments settle first")
    tokens = int(settle("micro_batch_tokens", *_micro_batch_tokens(facts, max(longest, facts.longest_beside))))
    settle("recompute_layers", *_recompute_layers(facts, tokens))
    value = {name: choice.value for name, choice in made.items()}
    return TrainingChoices(
        rank=_whole(value.get("rank", given.rank)),
        alpha=value.get("alpha", given.alpha),
        learning_rate=float(value["learning_rate"] or 0.0),
        epochs=int(value["epochs"] or 0),
        batch_size=batch_size,
        max_length=int(value["max_length"] or 0),
        warmup_share=float(value["warmup_share"] or 0.0),
        micro_batch_tokens=tokens,
        recompute_layers=int(value["recompute_layers"] or 0),
        choices=tuple(made.values()),
        max_steps=_whole(value.get("max_steps", given.max_steps)),
    )


def default_learning_rate(num_parameters: int, *, free_text: bool = False) -> float:
    """The peak learning rate of LoRA where the user gives none.

    Args:
        num_parameters: of the base.
        free_text: whether the answers are free text; exact ones (labels, JSON) gain from twice that rate
            (docs/defaults.md).
    """
    rate = _REFERENCE_LEARNING_RATE * (_REFERENCE_PARAMETERS / num_parameters) ** 0.25
    wanted = min(_REFERENCE_LEARNING_RATE, rate) * (_FREE_TEXT_RATE_FACTOR if free_text else 1.0)
    return float(f"{max(_LOWEST_LEARNING_RATE, wanted):.1e}")


def _batch_size(rows: int) -> int:
    # Small data sets need steps more than they need smooth gradients; large ones can afford both.
    if rows < 16:
        return 2
    return 4 if rows < 64 else 8 if rows < 2000 else 16


def _epochs(rows: int, batch_size: int, has_validation: bool) -> tuple[int, str]:
    low, high = _EPOCHS
    epochs = min(high, max(low, math.ceil(_WANTED_STEPS * batch_size / rows)))
    if rows > 5000:
        epochs = 2 if rows <= 20000 else 1
    kept = "the last is kept: no validation rows"
    if has_validation:
        kept = f"the last within {TOLERATED_LOSS_RISE:.0%} of the lowest validation loss is kept"
    return epochs, f"for {_counted(rows)}; {kept}"


def _micro_batch_tokens(facts: Facts, longest: int) -> tuple[int, str]:
    one = activation_bytes(1, num_layers=facts.num_layers, width=facts.width, bytes_per_value=facts.bytes_per_value)
    affordable = facts.free_bytes * _MEMORY_SHARE_FOR_ACTIVATIONS / one
    wanted = facts.shared_tokens + (_CARD_TOKENS if facts.on_card else _HOST_TOKENS)
    if longest >= min(wanted, affordable):
        return longest, "the longest row"
    if affordable < wanted:
        return int(affordable), "what fits in memory"
    return wanted, f"with the {facts.shared_tokens} that all rows share" if facts.shared_tokens else "more is no faster"


def _recompute_layers(facts: Facts, tokens: int) -> tuple[int, str]:
    least = layers_to_recompute(
        tokens, num_layers=facts.num_layers, width=facts.width, bytes_per_value=facts.bytes_per_value,
        free_bytes=int(facts.free_bytes * _LARGEST_SHARE_FOR_ACTIVATIONS),
    )  # fmt: skip
    return least, f"of {facts.num_layers}, so that {tokens} tokens fit in memory" if least else "all fits in memory"


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _counted(rows: int) -> str:
    return f"{rows} row{'' if rows == 1 else 's'}"
