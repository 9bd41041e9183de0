"""Methods that train on the model's own answers, as methods of the one loop (``sft.py``).

The model answers the prompts of each step (``rollouts.py``). With GRPO, RLOO and PPO the answers are graded, and the
step makes the better ones likelier; with RAFT it is fine-tuned on the best of each prompt; with distillation it becomes
like a teacher at every token that it wrote. The reference is the base: the same model with its adapter switched off.
On-policy, with one optimizer step over each step's answers, the log-probabilities of the policy that wrote them are
those of the training pass itself; with more they are computed once, before the first (``policy_objective.py``).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from hone.config.schema import TrainConfig
from hone.data.render import Renderer
from hone.data.rollouts import RolloutGroup, pack_rollouts
from hone.engine.events import Event, Recorder
from hone.errors import DataError
from hone.model.distillation import divergence_pass
from hone.model.forward import Forward, packed_logprobs
from hone.model.load import LoadedModel
from hone.model.value_head import make_value_head, values_pass
from hone.objective.policy import estimated_divergences
from hone.planning.choose import Choice
from hone.planning.rollouts import choose_rollout_tokens
from hone.proof.invariant import Invariant
from hone.recipe.method import Method, say_choice
from hone.recipe.policy_objective import Teacher, finished, policy_objective
from hone.recipe.policy_options import PolicyOptions, resolve_policy_options
from hone.recipe.rewards import Reward, open_reward
from hone.recipe.rollouts import Actor, AskedPrompt, Rollouts
from hone.recipe.rows import PreparedRows
from hone.recipe.teacher import LocalTeacher, TeacherLikeness, open_teacher
from hone.types import Example, JsonDict, MethodName, Task

__all__ = ["asked_prompts", "policy_method"]

_CHECKED_PROMPTS, _CHECKED_TOKENS = 4, 16
# Sums in another order; in 16 bits the fast path rounds otherwise than the base's plain layers.
_FLOAT32_GAP, _ROUNDED_GAP = 1e-4, 0.05
_FLOAT32_RATIO, _ROUNDED_RATIO = 1e-3, 0.1


@dataclass(frozen=True, slots=True)
class _Judges:
    """Who says what answers are worth.

    Args:
        reward: what is trained on; None where a teacher says what is better.
        watch: a second reward that nothing is trained on.
        teacher: of distillation.
        held_out: what grades held-out rows.
    """

    reward: Reward | None
    watch: Reward | None
    teacher: Teacher | None
    held_out: Reward

    def facts(self) -> JsonDict:
        """For the result and for whoever evaluates the version."""
        watch = {} if self.watch is None else {"watch_reward": self.watch.describe()}
        teacher = {} if self.teacher is None else {"teacher": self.teacher.name}
        return {"reward": self.held_out.describe(), **watch, **teacher}


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
        method: one that trains on the model's own answers.
        base: with a fresh adapter, inside the block of ``forward``.
        rows: as prepared; their examples are tasks.
        renderer: of the rows.
        forward: the path that training takes.
        max_tokens: tokens computed at once.
        home: hone's home folder.
        recorder: receives events.

    Raises:
        DataError: no prompt leaves room for an answer.
        ConfigError: a reward or the teacher cannot be used.
    """
    options = resolve_policy_options(config, method, rows.answered(rows.train))
    judges = _open_judges(config, options, base, home=home, recorder=recorder)
    _say_choices(options, config, rows, recorder)
    prompts = asked_prompts(rows, rows.train, limit=base.context_length - options.rollout_tokens)
    if left_out := len(rows.train) - len(prompts):
        text = (
            f"{left_out} of {len(rows.train)} prompts are left out: behind them {options.rollout_tokens} tokens of an "
            f"answer have no room in the {base.context_length} that {base.name} can see"
        )
        recorder.record(Event("note", {"text": text}))
    for one in filter(None, (judges.reward, judges.watch)):
        one.check([prompt.task for prompt in prompts] + [row for row in rows.held_out if isinstance(row, Task)])
    # decoding takes the attention that the model was loaded with, and not that of packed batches
    own = None if forward is not packed_logprobs else "sdpa" if base.model._supports_sdpa else "eager"
    actor = Actor(base, renderer.stop_ids, options.rollout_tokens, own, forward, max_tokens)
    head = make_value_head(base.model) if method == "ppo" else None
    local = judges.teacher.answerer.base.model if isinstance(judges.teacher, LocalTeacher) else None
    passes = forward if head is None else values_pass(forward, head)
    passes = passes if local is None else divergence_pass(forward, local)
    rollouts = Rollouts(
        actor, judges.reward, judges.watch, options.group_size, options.policy_epochs, config.seed,
        lambda groups: finished(groups, options, actor, passes, judges.teacher), recorder,
    )  # fmt: skip
    collate = partial(pack_rollouts, by_token=options.by_token)
    return Method(
        prompts, [], collate, passes, policy_objective(options, rollouts, by_divergence=local is not None),
        proof=_begins_at_base(actor, prompts, config), facts={"policy": asdict(options), **judges.facts()},
        around=rollouts, parameters=_named(head),
    )  # fmt: skip


def _open_judges(
    config: TrainConfig, options: PolicyOptions, base: LoadedModel, *, home: Path, recorder: Recorder
) -> _Judges:
    """The rewards and the teacher that the options name; held-out rows of a teacher without a reward are graded by
    how like its own answers they are.
    """

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    opened = partial(open_reward, home=home, device=config.device, dtype=config.dtype, note=note)
    reward = opened(config.reward) if config.reward else None
    watch = opened(config.watch_reward, option="--watch-reward") if config.watch_reward else None
    teacher = None
    if config.teacher:
        recorder.record(Event("stage", {"name": "teacher", "detail": f"loading {config.teacher}"}))
        teacher = open_teacher(config.teacher, base, home=home, note=note)
    held_out = reward
    if held_out is None:
        assert teacher is not None, "checked with the options"
        held_out = TeacherLikeness(
            teacher.reference, options.rollout_tokens, home, note, device=config.device, dtype=config.dtype
        )
    return _Judges(reward, watch, teacher, held_out)


def _say_choices(options: PolicyOptions, config: TrainConfig, rows: PreparedRows, recorder: Recorder) -> None:
    """The method's own numbers, each with its reason, as those of every run."""
    tokens = choose_rollout_tokens([one.num_supervised for one in rows.answered(rows.train)])[1]
    reasons = {
        "group_size": "answers to a prompt",
        "rollout_tokens": tokens,
        "policy_epochs": "optimizer steps over the same answers",
    }
    if options.method not in ("raft", "distill"):
        reasons["kl_weight"] = f"of the divergence from the base, as {options.method} has it"
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


def _begins_at_base(actor: Actor, prompts: Sequence[AskedPrompt], config: TrainConfig) -> tuple[Invariant, Invariant]:
    """Invariant 6 for the method, on answers of its own: KL is 0, and the ratio to what drew them is 1.

    The first holds the training pass against the base; the second against the decoder, which has another attention, a
    cache and padding, and drew each token from probabilities of its own.
    """
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
    gap, apart = 0.0, []
    for group, answer, (logprobs, *_) in zip(groups, answers, policy, strict=True):
        base_S, now_S, drawn_S = (torch.tensor(one) for one in (group.references[0], logprobs[0], answer.logprobs))
        gap = max(gap, float((now_S - base_S).abs().max()), float(estimated_divergences(now_S, base_S).max()))
        apart += (torch.exp(now_S - drawn_S) - 1).abs().tolist()
    is_exact = model.dtype == torch.float32
    bound, ratio_bound = (_FLOAT32_GAP, _FLOAT32_RATIO) if is_exact else (_ROUNDED_GAP, _ROUNDED_RATIO)
    ratio, checked = statistics.fmean(apart), f"{len(asked)} answers of its own"
    return (
        Invariant(
            6, f"before the first step of {config.method} KL is 0 and the reference is the base", gap <= bound, gap,
            f"<= {bound:g}", checked, "report the model: its adapter changes it before it is trained",
        ),
        Invariant(
            6, "answers are trained on under the probabilities that they were drawn from: the ratio is 1",
            ratio <= ratio_bound, ratio, f"mean distance from 1 <= {ratio_bound:g}", checked,
            "report the model: what writes its answers is not what is trained",
        ),
    )  # fmt: skip
