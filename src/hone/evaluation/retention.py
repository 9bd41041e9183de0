"""What is left of the base's general ability, in figures with intervals; and whether too much of it was lost.

Pure arithmetic over what was measured. Base and tuned answered the same questions, so every difference is paired.

    probes        share of small questions answered rightly. A question that the base gets wrong cannot be lost, and a
                  skill in which the base is not better than guessing is at its floor: it is shown, and not counted.
    own answers   KL from the base, in nats a token, where the base answers general prompts; and the bits per byte
                  that the tuned model needs for these answers.
    general text  bits per byte of ordinary prose.
    brittleness   answers to general prompts that turned into answers of the domain.

The measure of loss counts what was lost minus what was gained: any change to a model moves some answers near the
border, in both directions. To count the lost ones alone would call every change a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scipy import stats  # type: ignore[import-untyped]

from hone.evaluation.brittleness import Brittleness
from hone.evaluation.keep import KEEP_BOUNDS, Keep, KeepBounds
from hone.evaluation.probes.item import Question
from hone.evaluation.scorers import METRICS, likelihood_statistics
from hone.evaluation.statistics import Comparison, PairedBootstrap
from hone.evaluation.sums import FloatArray, mean_aggregate, mean_statistics, ratio
from hone.types import JsonDict

__all__ = ["Likelihoods", "QuestionResult", "Retention", "SkillResult", "judge_questions", "judge_retention"]

_FLOOR_CHANCE = 0.05
_DECIMALS = 6
_MOST_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Bits that base and tuned need for the same texts.

    Args:
        base_bits: of each text.
        tuned_bits: of each text.
        num_bytes: UTF-8 bytes of each text.
        kl_nats: sum of the KL from the base over the tokens of each text; empty where it was not measured.
        num_tokens: tokens of each text that the sum runs over; empty where it was not measured.
    """

    base_bits: Sequence[float]
    tuned_bits: Sequence[float]
    num_bytes: Sequence[int]
    kl_nats: Sequence[float] = ()
    num_tokens: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class SkillResult:
    """One skill in counts.

    Args:
        skill: its name.
        questions: how many were asked.
        chance: share that is right by guessing.
        base, tuned: how many each answered rightly.
        lost: right before, wrong now.
        gained: wrong before, right now.
        at_floor: whether the base is not better than guessing (one-sided binomial test at 5%), so that there is
            nothing to lose.
    """

    skill: str
    questions: int
    chance: float
    base: int
    tuned: int
    lost: int
    gained: int
    at_floor: bool

    def to_json(self) -> JsonDict:
        """All fields."""
        return {
            "skill": self.skill,
            "questions": self.questions,
            "chance": round(self.chance, _DECIMALS),
            "base": self.base,
            "tuned": self.tuned,
            "lost": self.lost,
            "gained": self.gained,
            "at_floor": self.at_floor,
        }


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """One set of questions: hone's own suite, a file of the user's, or a task of lm-evaluation-harness.

    Args:
        name: ``probes``, the file's name, or the task's.
        skills: each skill in counts.
        base, tuned: share of right answers, 0 to 100, over the skills that are not at their floor.
        comparison: tuned minus base on these; None where every skill is at its floor.
        examples: a few lost questions.
        lm_eval: how lm-evaluation-harness asked; None for questions that it did not ask.
    """

    name: str
    skills: tuple[SkillResult, ...]
    base: float | None
    tuned: float | None
    comparison: Comparison | None
    examples: tuple[JsonDict, ...]
    lm_eval: JsonDict | None = None

    def to_json(self) -> JsonDict:
        """The object of the result."""
        counted = [one for one in self.skills if not one.at_floor]
        return {
            "name": self.name,
            "questions": sum(one.questions for one in self.skills),
            "counted": sum(one.questions for one in counted),
            "could_be_lost": sum(one.base for one in counted),
            "lost": sum(one.lost for one in counted),
            "gained": sum(one.gained for one in counted),
            "base": _rounded(self.base),
            "tuned": _rounded(self.tuned),
            **_comparison_json(self.comparison),
            "skills": [one.to_json() for one in self.skills],
            "examples": list(self.examples),
            **({} if self.lm_eval is None else {"lm_eval": self.lm_eval}),
        }


@dataclass(frozen=True, slots=True)
class Retention:
    """What was measured, and what it comes to.

    Args:
        keep: how much loss is acceptable.
        questions: the suite, then files of the user's and tasks of lm-evaluation-harness.
        measures: ``own_answers`` and ``general_text`` as JSON objects.
        brittleness: answers that turned; None where it was not measured.
        turned: the prompts and answers of some of them.
        losses: one sentence for each bound that was passed.
        not_measured: {"what", "reason"}.
    """

    keep: Keep
    questions: tuple[QuestionResult, ...]
    measures: JsonDict
    brittleness: Brittleness | None
    turned: tuple[JsonDict, ...]
    losses: tuple[str, ...]
    not_measured: tuple[JsonDict, ...] = field(default=())

    @property
    def forgot(self) -> bool:
        """Whether general ability was lost beyond the bounds."""
        return bool(self.losses)

    @property
    def nothing_to_lose(self) -> bool:
        """Whether questions were asked, and the base is not better than guessing in any skill of theirs."""
        return bool(self.questions) and all(one.base is None for one in self.questions)

    @property
    def borderline(self) -> bool:
        """Whether a bound on likelihoods lies inside an interval, so that more texts could change the finding."""
        bounds = KEEP_BOUNDS[self.keep]
        if bounds is None:
            return False
        own, text = self.measures["own_answers"], self.measures["general_text"]
        held = [] if own is None else [(own["kl_nats_interval"], bounds.kl_nats)]
        held += [] if text is None else [(text["interval"], bounds.text_rise * text["base"])]
        return any(interval is not None and interval[0] <= bound < interval[1] for interval, bound in held)

    def to_json(self) -> JsonDict:
        """The ``retention`` object of a result."""
        bounds = KEEP_BOUNDS[self.keep]
        brittle = self.brittleness
        return {
            "keep": self.keep,
            "bounds": None if bounds is None else bounds.to_json(),
            "kept": None if bounds is None else not self.forgot,
            "nothing_to_lose": self.nothing_to_lose,
            "losses": list(self.losses),
            "probes": self.questions[0].to_json() if self.questions else None,
            "files": [one.to_json() for one in self.questions[1:] if one.lm_eval is None],
            "tasks": [one.to_json() for one in self.questions[1:] if one.lm_eval is not None],
            **self.measures,
            "brittleness": None if brittle is None else {
                "prompts": brittle.prompts,
                "turned": len(brittle.turned),
                "base_like_domain": brittle.base_like_domain,
                "examples": list(self.turned),
            },
            "not_measured": list(self.not_measured),
        }  # fmt: skip


def judge_questions(
    name: str, items: Sequence[Question], base: Sequence[bool], tuned: Sequence[bool], *, seed: int = 0,
    lm_eval: JsonDict | None = None,
) -> QuestionResult:  # fmt: skip
    """Compare the answers to one set of questions.

    Args:
        name: of the set.
        items: the questions.
        base: whether the base answered each rightly.
        tuned: the same of the tuned model.
        seed: of the resamples.
        lm_eval: how lm-evaluation-harness asked; None where it did not.
    """
    skills = tuple(_skill(skill, items, base, tuned) for skill in dict.fromkeys(item.skill for item in items))
    floors = {one.skill for one in skills if one.at_floor}
    counted = [place for place, item in enumerate(items) if item.skill not in floors]
    lost = [place for place in counted if base[place] and not tuned[place]]
    examples = tuple(
        {"skill": items[place].skill, "question": items[place].question, "right": items[place].right_answer}
        for place in lost[:_MOST_EXAMPLES]
    )
    if not counted:
        return QuestionResult(name, skills, None, None, None, examples, lm_eval)
    before, after = (mean_statistics([float(one[place]) for place in counted]) for one in (base, tuned))
    alike = all(base[place] == tuned[place] for place in counted)
    compared = PairedBootstrap(len(counted), seed=seed).compare(
        after, before, mean_aggregate, bounds=None if alike else (0.0, 100.0)
    )
    base_score, tuned_score = (float(mean_aggregate(one.sum(axis=0))) for one in (before, after))
    return QuestionResult(name, skills, base_score, tuned_score, compared, examples, lm_eval)


def _skill(skill: str, items: Sequence[Question], base: Sequence[bool], tuned: Sequence[bool]) -> SkillResult:
    mine = [place for place, item in enumerate(items) if item.skill == skill]
    before = sum(bool(base[place]) for place in mine)
    chance = sum(items[place].chance for place in mine) / len(mine)
    above = before > 0 and stats.binomtest(before, len(mine), chance, alternative="greater").pvalue < _FLOOR_CHANCE
    return SkillResult(
        skill,
        len(mine),
        chance,
        before,
        sum(bool(tuned[place]) for place in mine),
        lost=sum(base[place] and not tuned[place] for place in mine),
        gained=sum(tuned[place] and not base[place] for place in mine),
        at_floor=not above,
    )


def judge_retention(
    keep: Keep,
    *,
    questions: Sequence[QuestionResult],
    own_answers: Likelihoods | None,
    general_text: Likelihoods | None,
    brittleness: Brittleness | None,
    turned: Sequence[JsonDict] = (),
    not_measured: Sequence[JsonDict] = (),
    seed: int = 0,
) -> Retention:
    """Hold what was measured against the bounds.

    A bound counts as passed where the whole 95% interval of the loss is beyond it: a loss that chance may have made as
    large as it looks counts for nothing.

    Args:
        keep: how much loss is acceptable; ``off`` judges nothing.
        questions: the suite first, then files and tasks.
        own_answers: of the base's answers to general prompts, with the KL; None where there is none.
        general_text: of ordinary prose; None where no passage fits into the context.
        brittleness: None where it was not measured.
        turned: prompts and answers of some that turned.
        not_measured: what could not be measured, with its reason.
        seed: of the resamples.
    """
    own = None if own_answers is None else _likelihood_json(own_answers, seed) | _kl_json(own_answers, seed)
    text = None if general_text is None else _likelihood_json(general_text, seed)
    bounds = KEEP_BOUNDS[keep]
    losses: list[str] = []
    if bounds is not None:
        losses += [sentence for one in questions if (sentence := _question_loss(one, bounds))]
        losses += _likelihood_losses(own, text, bounds)
    measures = {"own_answers": own, "general_text": text}
    return Retention(keep, tuple(questions), measures, brittleness, tuple(turned), tuple(losses), tuple(not_measured))


def _question_loss(result: QuestionResult, bounds: KeepBounds) -> str | None:
    compared = result.comparison
    if compared is None or compared.interval is None or compared.interval[1] >= -bounds.question_points:
        return None
    low, high = compared.interval
    what = "general questions" if result.name == "probes" else f"the questions of {result.name}"
    return (
        f"{compared.difference:+.1f} points on {what}, from {result.base:.1f} to {result.tuned:.1f} "
        f"(interval {low:+.1f} to {high:+.1f}; at most {bounds.question_points:g} may be lost)"
    )


def _likelihood_losses(own: JsonDict | None, text: JsonDict | None, bounds: KeepBounds) -> list[str]:
    losses = []
    if own is not None and own["kl_nats_interval"] is not None and own["kl_nats_interval"][0] > bounds.kl_nats:
        low, high = own["kl_nats_interval"]
        losses.append(
            f"{own['kl_nats']:.2f} nats a token away from the base on general prompts (interval {low:.2f} to "
            f"{high:.2f}; at most {bounds.kl_nats:g})"
        )
    if text is not None and text["interval"] is not None and text["interval"][0] > bounds.text_rise * text["base"]:
        rise = text["difference"] / text["base"]
        losses.append(
            f"{rise:+.1%} bits per byte on general text, from {text['base']:.3f} to {text['tuned']:.3f} "
            f"(at most {bounds.text_rise:+.0%})"
        )
    return losses


def _likelihood_json(found: Likelihoods, seed: int) -> JsonDict:
    metric = METRICS["bits_per_byte"]
    before, after = (likelihood_statistics(bits, found.num_bytes) for bits in (found.base_bits, found.tuned_bits))
    compared = PairedBootstrap(len(before), seed=seed).compare(after, before, metric.aggregate, higher_is_better=False)
    base, tuned = (float(metric.aggregate(one.sum(axis=0))) for one in (before, after))
    return {"texts": len(before), "base": _rounded(base), "tuned": _rounded(tuned), **_comparison_json(compared)}


def _kl_json(found: Likelihoods, seed: int) -> JsonDict:
    sums = likelihood_statistics(found.kl_nats, found.num_tokens)

    def aggregate(totals: FloatArray) -> FloatArray:
        return ratio(totals[..., 0], totals[..., 1])

    interval = PairedBootstrap(len(sums), seed=seed).interval(sums, aggregate)
    return {
        "kl_nats": _rounded(float(aggregate(sums.sum(axis=0)))),
        "kl_nats_interval": None if interval is None else [_rounded(end) for end in interval],
    }


def _comparison_json(compared: Comparison | None) -> JsonDict:
    interval = compared.interval if compared else None
    return {
        "difference": _rounded(compared.difference) if compared else None,
        "interval": None if interval is None else [_rounded(end) for end in interval],
        "p_value": _rounded(compared.p_value) if compared else None,
        "different": compared.different if compared else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), _DECIMALS)
