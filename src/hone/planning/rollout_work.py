"""What steps that write their own answers have to compute, from the prompts and from how long answers are.

How long answers are nobody knows before: a plan takes lengths that it has seen, spread over the answers of a step, or
the longest that is allowed; a finished run is counted with the lengths that it wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from hone.data.answers import whole_batches
from hone.data.pack import pack, plan_steps
from hone.data.rollouts import RolloutGroup
from hone.planning.decoding import Decoding, decoding_bytes, decoding_of
from hone.planning.shape import ModelShape
from hone.planning.workload import Load, RolloutWork, Workload, load_of
from hone.types import TokenSequence

__all__ = ["Answered", "RolloutRules", "plan_rollouts", "rollout_workload"]

_MOST_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class RolloutRules:
    """How a method writes and trains.

    Args:
        group_size: answers to a prompt.
        longest: tokens of an answer, at most.
        steps_each: optimizer steps over the same answers.
        base_passes: forward passes alone over the answers under the base.
        policy_passes: forward passes alone over the answers under what is trained.
        keeps_best: whether one answer of a group is trained on, and not all.
        micro_batch_tokens: tokens computed at once.
        block_queries: see :func:`hone.planning.workload.load_of`.
    """

    group_size: int
    longest: int
    steps_each: int
    base_passes: int
    policy_passes: int
    keeps_best: bool
    micro_batch_tokens: int
    block_queries: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt and its answers.

    Args:
        prompt: token ids.
        lengths: tokens of each answer, with the one that ended it; at least 1.
        trained: of those that are trained on.
    """

    prompt: tuple[int, ...]
    lengths: tuple[int, ...]
    trained: tuple[int, ...]

    def sequences(self) -> tuple[TokenSequence, ...]:
        """Prompt and answer of each that is trained on, in tokens that no two answers share."""
        return tuple(
            TokenSequence(
                (*self.prompt, *[-1 - number] * length), (False,) * len(self.prompt) + (True,) * length, row=0
            )
            for number, length in enumerate(self.trained)
        )


def plan_rollouts(
    prompts: Sequence[tuple[int, ...]],
    lengths: Sequence[int],
    rules: RolloutRules,
    *,
    shape: ModelShape,
    bytes_per_value: int,
    batch_size: int,
    epochs: int,
    max_steps: int | None,
    seed: int,
) -> Workload:
    """Plan a run as the loop will do it; of a long one a sample of its rounds stands for all.

    Args:
        prompts: token ids of every row that is answered.
        lengths: of answers that are like those to come, in any number.
        rules: of the method.
        shape: of the base.
        bytes_per_value: of the dtype of compute.
        batch_size: prompts of a step.
        epochs: passes over the prompts.
        max_steps: bound on the optimizer steps; None for none.
        seed: of the order.
    """
    each = rules.steps_each
    steps = -(-len(prompts) // batch_size) * epochs * each
    steps = steps if max_steps is None else min(steps, max_steps)
    order = list(islice(plan_steps(len(prompts), batch_size=batch_size, epochs=epochs, seed=seed), -(-steps // each)))
    sampled = order[:: max(1, len(order) // _MOST_ROUNDS)]
    ordered = sorted(lengths)
    rounds = [_spread([prompts[index] for index in indices], ordered, rules) for _, _, indices in sampled]
    # the last round of a pass may have fewer prompts
    factor = sum(len(indices) for _, _, indices in order) / sum(map(len, rounds))
    found = rollout_workload(
        rounds, rules, shape=shape, bytes_per_value=bytes_per_value, rows=len(prompts), steps=steps, factor=factor
    )
    # the longest prompts may stand in a round that was not planned
    by_length = sorted(prompts, key=len, reverse=True)
    [alone] = _loads(_spread(by_length[:1], ordered[-1:], rules), rules)
    largest = max(found.largest, alone, key=lambda one: (one.computed, one.pairs))
    asked = [prompt for prompt in by_length[:batch_size] for _ in range(rules.group_size)]
    most = decoding_bytes(shape, asked, longest=rules.longest, bytes_per_value=bytes_per_value)
    assert found.rollouts is not None, "made above"
    return replace(found, largest=largest, rollouts=replace(found.rollouts, decoding_bytes=most))


def _spread(prompts: Sequence[tuple[int, ...]], ordered: Sequence[int], rules: RolloutRules) -> list[Answered]:
    """Lengths evenly taken from ``ordered``, the k-th to the k-th prompt in turn, so that groups are alike."""
    count = len(prompts) * rules.group_size
    taken = [ordered[(2 * place + 1) * len(ordered) // (2 * count)] for place in range(count)]
    found = []
    for number, prompt in enumerate(prompts):
        lengths = tuple(taken[number :: len(prompts)])
        # the best answer may be any of them
        middle = lengths[len(lengths) // 2 : len(lengths) // 2 + 1]
        found.append(Answered(prompt, lengths, middle if rules.keeps_best else lengths))
    return found


def rollout_workload(
    rounds: Sequence[Sequence[Answered]],
    rules: RolloutRules,
    *,
    shape: ModelShape,
    bytes_per_value: int,
    rows: int,
    steps: int,
    factor: float = 1.0,
) -> Workload:
    """The work of a run that has these rounds of answers.

    Args:
        rounds: each the prompts of some steps with their answers.
        rules: of the method.
        shape: of the base.
        bytes_per_value: of the dtype of compute.
        rows: prompts of all.
        steps: optimizer steps of the run.
        factor: how many times as much the run writes as ``rounds``, which stand for all.
    """
    all_rounds = -(-steps // rules.steps_each)
    computed, trained, largest, decoding, memory = Load(), Load(), Load(), Decoding(), 0
    answers = tokens = 0
    for number, answered in enumerate(rounds):
        # the last round may be trained on in fewer steps than the others
        left = steps - number * rules.steps_each
        taken = min(rules.steps_each, left) if len(rounds) == all_rounds else steps / all_rounds
        asked = [one.prompt for one in answered for _ in one.lengths]
        lengths = [length for one in answered for length in one.lengths]
        answers, tokens = answers + len(lengths), tokens + sum(lengths)
        decoding += decoding_of(asked, lengths, longest=rules.longest)
        needed = decoding_bytes(shape, asked, longest=rules.longest, bytes_per_value=bytes_per_value)
        memory = max(memory, needed)
        for load in _loads(answered, rules):
            computed += load
            trained += load.times(taken)
            largest = max(largest, load, key=lambda one: (one.computed, one.pairs))
    return Workload(
        rows=rows,
        steps=steps,
        training=trained.times(factor),
        validation=Load(),
        largest=largest,
        sampled_steps=len(rounds),
        rollouts=RolloutWork(
            answers=answers * factor,
            tokens=tokens * factor,
            decoding=decoding.times(factor),
            base=computed.times(factor * rules.base_passes),
            policy=computed.times(factor * rules.policy_passes),
            decoding_bytes=memory,
        ),
    )


def _loads(answered: Sequence[Answered], rules: RolloutRules) -> list[Load]:
    groups = [RolloutGroup(one.sequences(), tuple(range(len(one.trained)))) for one in answered if one.trained]
    batches = whole_batches(groups, max_tokens=rules.micro_batch_tokens)
    return [
        load_of(pack([one for group in batch for one in group.sequences]), block_queries=rules.block_queries)
        for batch in batches
    ]
