"""Reinforcement learning: GRPO, RLOO and PPO as methods of the one loop (``sft.py``).

The model answers the prompts of each step, the answers are graded, and the step makes the better ones likelier
(``rollouts.py``). The reference is the base: the same model with its adapter switched off. On-policy, with one
optimizer step over each step's answers, the log-probabilities of the policy that wrote them are those of the training
pass itself; with more they are computed once, before the first.

Shape legend: S tokens of all answers of a batch, B answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from hone.config.schema import TrainConfig
from hone.data.render import Renderer
from hone.data.rollouts import RolloutBatch, RolloutGroup, pack_rollouts
from hone.engine.events import Event, Recorder
from hone.engine.step import Objective
from hone.errors import DataError
from hone.model.forward import Forward, packed_logprobs
from hone.model.load import LoadedModel
from hone.model.value_head import make_value_head, values_pass
from hone.objective.policy import (
    Normalisation,
    Ratios,
    ValueEstimates,
    estimated_divergences,
    gae,
    group_advantages,
    grpo_loss,
    leave_one_out_advantages,
    ppo_loss,
    rloo_loss,
    token_rewards,
    value_loss,
    whitened,
)
from hone.planning.choose import Choice
from hone.planning.rollouts import POLICY_EPOCHS, choose_rollout_tokens
from hone.proof.invariant import Invariant
from hone.recipe.method import Method, is_policy_method, say_choice
from hone.recipe.rewards import Reward, open_reward
from hone.recipe.rollouts import Actor, AskedPrompt, Rollouts
from hone.recipe.rows import PreparedRows
from hone.types import Example, JsonDict, MethodName, Task, TokenSequence

__all__ = ["PolicyOptions", "asked_prompts", "policy_method", "resolve_policy_options", "sequences_to_compute"]

# The papers' own: Shao et al. 2024, section 4.2; Ahmadian et al. 2024 and TRL; Ouyang et al. 2022, appendix C.
_KL_WEIGHTS: Mapping[str, float] = {"grpo": 0.04, "rloo": 0.05, "ppo": 0.02}
_GROUP_SIZE = 8
_VALUE_WEIGHT = 0.1
_CHECKED_PROMPTS, _CHECKED_TOKENS = 4, 16
# Sums in another order; in 16 bits the fast path rounds otherwise than the base's plain layers.
_FLOAT32_GAP, _ROUNDED_GAP = 1e-4, 0.05


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """The numbers of a method, resolved.

    Args:
        method: which.
        group_size: answers to a prompt.
        policy_epochs: optimizer steps over the same answers.
        kl_weight: of the divergence from the base, in the loss (grpo) or the reward (rloo, ppo).
        clip_range: how far from 1 the ratio still counts.
        loss_normalisation: of grpo, what the loss is divided by.
        scale_advantages: of grpo, whether advantages are divided by the group's deviation.
        rollout_tokens: the longest answer.
    """

    method: MethodName
    group_size: int
    policy_epochs: int
    kl_weight: float
    clip_range: float
    loss_normalisation: Normalisation
    scale_advantages: bool
    rollout_tokens: int

    @property
    def by_token(self) -> bool:
        """Whether the loss is divided by tokens, and not by answers."""
        return self.method == "ppo" or (self.method == "grpo" and self.loss_normalisation == "dapo")

    @property
    def reads_ahead(self) -> bool:
        """Whether log-probabilities of the policy that wrote the answers are computed before the first step."""
        return self.method == "ppo" or self.policy_epochs > 1


def resolve_policy_options(config: TrainConfig, method: MethodName, answers: Sequence[TokenSequence]) -> PolicyOptions:
    """What the user left open, from the method's paper and the data.

    Args:
        config: the options.
        method: grpo, rloo or ppo.
        answers: rendered rows with their reference answers; empty where rows have none.
    """
    limit, _ = choose_rollout_tokens([one.num_supervised for one in answers])
    return PolicyOptions(
        method=method,
        group_size=config.group_size or _GROUP_SIZE,
        policy_epochs=config.policy_epochs or POLICY_EPOCHS[method],
        kl_weight=_KL_WEIGHTS[method] if config.kl_weight is None else config.kl_weight,
        clip_range=config.clip_range,
        loss_normalisation=config.loss_normalisation or "grpo",
        scale_advantages=config.scale_advantages,
        rollout_tokens=config.rollout_tokens or limit,
    )


def sequences_to_compute(config: TrainConfig, rows: PreparedRows) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """What a step computes for each row to train on and to validate with; of reinforcement learning a whole group.

    Args:
        config: the options.
        rows: as prepared.
    """
    if not is_policy_method(config.method) or config.method is None:
        return rows.computed(rows.train), rows.computed(rows.validation)
    options = resolve_policy_options(config, config.method, rows.answered(rows.train))
    tokens = options.group_size * options.rollout_tokens
    found = []
    for sequence in rows.rendered(rows.train):
        prompt = sequence.ids[: sequence.supervised.index(True)]
        ids, flags = (*prompt, *prompt[-1:] * tokens), (False,) * len(prompt) + (True,) * tokens
        found.append(TokenSequence(ids, flags, sequence.row))
    return found, []


def policy_method(
    config: TrainConfig,
    method: MethodName,
    base: LoadedModel,
    rows: PreparedRows,
    *,
    renderer: Renderer,
    forward: Forward,
    max_tokens: int,
    home: Path,
    recorder: Recorder,
) -> Method:
    """The method on these rows, with its own invariant measured.

    Args:
        config: the options.
        method: grpo, rloo or ppo.
        base: with a fresh adapter, inside the block of ``forward``.
        rows: as prepared; their examples are tasks.
        renderer: of the rows.
        forward: the path that training takes.
        max_tokens: tokens computed at once.
        home: hone's home folder.
        recorder: receives events.

    Raises:
        DataError: no prompt leaves room for an answer.
        ConfigError: a reward cannot be used.
    """

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    assert config.reward is not None, "checked with the options"
    reward = open_reward(config.reward, home=home, note=note)
    watch = None
    if config.watch_reward:
        watch = open_reward(config.watch_reward, home=home, option="--watch-reward", note=note)
    options = resolve_policy_options(config, method, rows.answered(rows.train))
    _say_choices(options, config, rows, recorder)
    prompts = asked_prompts(rows, rows.train, limit=base.context_length - options.rollout_tokens)
    for one in filter(None, (reward, watch)):
        one.check([prompt.task.item for prompt in prompts])
    # decoding takes the attention that the model was loaded with, and not that of packed batches
    own = None if forward is not packed_logprobs else "sdpa" if base.model._supports_sdpa else "eager"
    actor = Actor(base, renderer.stop_ids, options.rollout_tokens, own, forward, max_tokens)
    head = make_value_head(base.model) if method == "ppo" else None
    passes = forward if head is None else values_pass(forward, head)
    rollouts = Rollouts(
        actor, reward, watch, options.group_size, options.policy_epochs, config.seed,
        lambda groups: _finished(groups, options, actor, passes), recorder,
    )  # fmt: skip
    collate = partial(pack_rollouts, by_token=options.by_token)
    facts = {"policy": asdict(options), "reward": reward.describe(), **_described(watch)}
    return Method(
        prompts, [], collate, passes, _objective(options, rollouts), proof=(_begins_at_base(actor, prompts, config),),
        facts=facts, around=rollouts, parameters=_named(head),
    )  # fmt: skip


def _described(watch: Reward | None) -> JsonDict:
    return {} if watch is None else {"watch_reward": watch.describe()}


def _say_choices(options: PolicyOptions, config: TrainConfig, rows: PreparedRows, recorder: Recorder) -> None:
    """The method's own numbers, each with its reason, as those of every run."""
    tokens = choose_rollout_tokens([one.num_supervised for one in rows.answered(rows.train)])[1]
    reasons = {
        "group_size": "answers to a prompt, held against each other",
        "rollout_tokens": tokens,
        "policy_epochs": "optimizer steps over the same answers",
        "kl_weight": f"of the divergence from the base, as {options.method} has it",
    }
    for name, reason in reasons.items():
        value = getattr(options, name)
        say_choice(recorder, Choice(name, value, reason if getattr(config, name) is None else "as given"))


def _named(head: nn.Linear | None) -> dict[str, nn.Parameter]:
    return {} if head is None else {f"value.{name}": parameter for name, parameter in head.named_parameters()}


def asked_prompts(rows: PreparedRows, examples: Sequence[Example], *, limit: int) -> list[AskedPrompt]:
    """The prompts of ``examples`` that have at most ``limit`` tokens; a DataError where none has."""
    found = []
    for example in examples:
        assert isinstance(example, Task), "rows are read as tasks"
        sequence = rows.sequences[example.row][-1]
        ids = sequence.ids[: sequence.supervised.index(True)]
        if len(ids) <= limit:
            found.append(AskedPrompt(example, ids))
    if not found:
        raise DataError(
            f"no prompt leaves room for an answer within the model's context: {limit} tokens at most",
            where=str(rows.manifest["source"]["name"]),
            remedy="shorten the prompts, give a smaller --rollout-tokens, or use a model with a longer context",
        )
    return found


def _finished(groups: list[RolloutGroup], options: PolicyOptions, actor: Actor, passes: Forward) -> list[RolloutGroup]:
    """The groups with all that the objective needs and the training pass does not give."""
    if options.method == "grpo":
        groups = [
            replace(one, advantages=tuple(_advantages(one, scaled=options.scale_advantages).tolist())) for one in groups
        ]
    if not options.reads_ahead:
        return groups
    found = actor.figures(groups, passes)
    groups = [replace(one, old=figures[0]) for one, figures in zip(groups, found, strict=True)]
    if options.method != "ppo":
        return groups
    groups = [replace(one, values=figures[1]) for one, figures in zip(groups, found, strict=True)]
    return _with_token_advantages(groups, options)


def _advantages(group: RolloutGroup, *, scaled: bool) -> Tensor:
    rewards_B = torch.tensor(group.rewards)
    return group_advantages(rewards_B, torch.zeros(len(rewards_B), dtype=torch.long), scaled=scaled)


def _with_token_advantages(groups: Sequence[RolloutGroup], options: PolicyOptions) -> list[RolloutGroup]:
    """GAE over every answer of the step; advantages are whitened together, over all of its tokens."""
    batches = pack_rollouts(groups, max_tokens=sum(len(one.ids) for one in groups))
    (batch,) = batches
    owners_S = torch.tensor(batch.owners_S)
    old_S, references_S, values_S = (torch.tensor(one) for one in (batch.old_S, batch.references_S, batch.values_S))
    rewards_S = token_rewards(torch.tensor(batch.rewards_B), old_S - references_S, owners_S, beta=options.kl_weight)
    advantages_S, returns_S = gae(rewards_S, values_S, owners_S)
    counts = torch.bincount(owners_S, minlength=len(batch.places_B)).tolist()
    parts = [
        {place: tuple(part.tolist()) for place, part in zip(batch.places_B, torch.split(whole, counts), strict=True)}
        for whole in (whitened(advantages_S), returns_S)
    ]
    return [
        replace(
            one,
            token_advantages=tuple(parts[0][place] for place in one.places),
            returns=tuple(parts[1][place] for place in one.places),
        )
        for one in groups
    ]


def _objective(options: PolicyOptions, rollouts: Rollouts) -> Objective:
    """The method's objective as the loop calls it; what it finds of each answer is told to the rollouts."""

    def objective(figures: Tensor, batch: RolloutBatch) -> tuple[Tensor, int, Mapping[str, Tensor]]:
        logprobs_S = figures if figures.dim() == 1 else figures[0]

        def given(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=figures.device)

        owners_S = torch.tensor(batch.owners_S, dtype=torch.long, device=figures.device)
        old_S = given(batch.old_S) if batch.old_S else logprobs_S.detach()
        ratios = Ratios(logprobs_S, old_S, owners_S, len(batch.leaves), options.clip_range)
        reference_S = given(batch.references_S)
        if options.method == "grpo":
            advantages_B = given(batch.advantages_B)
            loss = grpo_loss(
                ratios, advantages_B, reference_S, beta=options.kl_weight, normalisation=options.loss_normalisation,
                max_tokens=options.rollout_tokens,
            )  # fmt: skip
        elif options.method == "rloo":
            groups_B = torch.tensor(batch.groups_B, dtype=torch.long, device=figures.device)
            penalties_B = options.kl_weight * ratios.per_answer(old_S - reference_S)
            advantages_B = leave_one_out_advantages(given(batch.rewards_B) - penalties_B, groups_B)
            loss = rloo_loss(ratios, advantages_B)
        else:
            advantages_S = given(batch.token_advantages_S)
            advantages_B = ratios.per_answer(advantages_S) / ratios.tokens_B
            estimates = ValueEstimates(figures[1], given(batch.values_S), given(batch.returns_S))
            loss_sum, weight, metrics = ppo_loss(ratios, advantages_S)
            value_sum = value_loss(estimates, clip_range=options.clip_range)[0]
            loss = (loss_sum + _VALUE_WEIGHT * value_sum, weight, metrics)
        kl_B = ratios.per_answer(estimated_divergences(logprobs_S.detach(), reference_S)) / ratios.tokens_B
        rollouts.tell(batch, kl_B, advantages_B)
        return loss

    return objective


def _begins_at_base(actor: Actor, prompts: Sequence[AskedPrompt], config: TrainConfig) -> Invariant:
    """Invariant 6 for the method: on answers of its own the policy equals the base, so that KL is 0 and the ratio 1."""
    model = actor.base.model
    model.eval()
    asked = list(prompts[:: max(1, len(prompts) // _CHECKED_PROMPTS)][:_CHECKED_PROMPTS])
    brief = replace(actor, max_new_tokens=min(_CHECKED_TOKENS, actor.max_new_tokens))
    answers = brief.answer([one.ids for one in asked], [config.seed + number for number in range(len(asked))])
    groups = [
        RolloutGroup((actor.sequence(one.ids, answer, one.task.row),), (place,))
        for place, (one, answer) in enumerate(zip(asked, answers, strict=True))
    ]
    groups = brief.references(groups)
    policy = brief.figures(groups, brief.forward)
    again = brief.figures(groups, brief.forward)
    gap = 0.0
    for group, first, second in zip(groups, policy, again, strict=True):
        base_S, now_S, then_S = (torch.tensor(one[0]) for one in (group.references, first[0], second[0]))
        gap = max(gap, float((now_S - base_S).abs().max()), float((torch.exp(now_S - then_S) - 1).abs().max()))
        gap = max(gap, float(estimated_divergences(now_S, base_S).max()))
    bound = _FLOAT32_GAP if model.dtype == torch.float32 else _ROUNDED_GAP
    return Invariant(
        6, f"before the first step of {config.method} KL is 0, the ratio 1, and the reference the base", gap <= bound,
        gap, f"<= {bound:g}", f"{len(asked)} answers of its own",
        "report the model: its adapter changes it before it is trained",
    )  # fmt: skip
