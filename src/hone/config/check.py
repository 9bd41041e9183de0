"""What is wrong with a set of options: pydantic's findings and the rules between options, in hone's words.

A problem is one line: the place, the option with its value, the rule, and the nearest right word where there is one.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic_core import ErrorDetails

from hone.errors import ConfigError
from hone.types import AdaptationName, MethodName

__all__ = [
    "POLICY_METHODS",
    "WITHOUT_RANK",
    "WITH_HALVES",
    "config_error",
    "cross_problems",
    "field_problems",
    "method_problems",
    "nearest",
]


# Adaptations that have no rank, and those that are a product of two halves A and B.
WITHOUT_RANK: frozenset[AdaptationName] = frozenset(
    {"full", "partial", "c3a", "fourierft", "ia3", "ln_tuning", "oft", "road", "waveft"}
)
WITH_HALVES: frozenset[AdaptationName] = frozenset({"lora", "rslora", "dora", "pissa"})
_REINFORCED: tuple[MethodName, ...] = ("grpo", "rloo", "ppo")
# Methods that train on answers of the model's own.
POLICY_METHODS: tuple[MethodName, ...] = (*_REINFORCED, "raft", "distill")
# Those that hold the answers to a prompt against each other.
_OF_GROUPS: tuple[MethodName, ...] = ("grpo", "rloo", "raft")
# Options that some methods alone have.
_OF_METHODS: Mapping[str, tuple[MethodName, ...]] = {
    "beta": ("dpo", "ipo", "kto", "orpo", "simpo"),
    "label_smoothing": ("dpo", "simpo"),
    "length_normalised": ("dpo", "ipo"),
    "target_margin": ("simpo",),
    "reward": POLICY_METHODS,
    "watch_reward": POLICY_METHODS,
    "group_size": POLICY_METHODS,
    "rollout_tokens": POLICY_METHODS,
    "policy_epochs": POLICY_METHODS,
    "kl_weight": _REINFORCED,
    "teacher": ("distill",),
    "loss_normalisation": ("grpo",),
    "clip_range": _REINFORCED,
    "scale_advantages": ("grpo",),
}
# Values that ask for nothing, so that they go with every method: what stands in a stored configuration.
_ASKS_NOTHING: Mapping[str, float | bool] = {"label_smoothing": 0.0, "clip_range": 0.2, "scale_advantages": True}

_LONGEST_WORD = 60
# pydantic's wordings, and ours
_WORDINGS = {
    "Input should be": "must be",
    "String should": "must",
    "Value error, ": "",
    "greater than or equal to": "at least",
    "match pattern": "match the pattern",
}


def field_problems(
    errors: Iterable[ErrorDetails], *, options: Sequence[str], places: Mapping[str, str], words: Mapping[str, str]
) -> list[str]:
    """The problems of single options.

    Args:
        errors: what pydantic found.
        options: all options that there are.
        places: ``file:line`` of each option that came from a file.
        words: how an option is told of, as ``--max-steps``; by its key, where it stands not in here.
    """
    return [_field_problem(error, options, places, words) for error in errors]


def cross_problems(values: Mapping[str, Any], *, places: Mapping[str, str], words: Mapping[str, str]) -> list[str]:
    """The problems between options, each of which may be right alone.

    Args:
        values: options as they were given, by their names; those with wrong types are not judged.
        places: ``file:line`` of each option that came from a file.
        words: how an option is told of, as ``--max-steps``; by its key, where it stands not in here.
    """
    problems = []
    if values.get("eval") is not None and values.get("held_out") is not None:
        file, aside = _word(words, "eval"), _word(words, "held_out")
        problems.append(
            _place(places, "held_out")
            + f"{file} and {aside} are both given: {file} names the file of held-out rows, {aside} sets rows of the "
            "data aside; give one of them"
        )
    top_p, temperature = (_number(values.get(name)) for name in ("top_p", "temperature"))
    if top_p is not None and top_p < 1 and not temperature:
        problems.append(
            _place(places, "top_p")
            + f"{_said(words, 'top_p', top_p)} has no effect with {_said(words, 'temperature', 0)}, which always takes "
            f"the likeliest token; give a temperature above 0, or leave {_word(words, 'top_p')} out"
        )
    problems += _retention_problems(values, places, words)
    problems += _adaptation_problems(values, places, words)
    return problems + method_problems(values, places=places, words=words)


def method_problems(
    values: Mapping[str, Any], *, places: Mapping[str, str] = MappingProxyType({}), words: Mapping[str, str]
) -> list[str]:
    """The problems between a method and the other options; none where no method is named.

    Args:
        values: options by their names.
        places: ``file:line`` of each option that came from a file.
        words: how an option is told of.
    """
    name = values.get("method")
    if not name:
        return []
    method = _said(words, "method", name)
    problems = [
        _place(places, option) + f"{_said(words, option, values[option])} has no effect with {method}; leave it out"
        for option, methods in _OF_METHODS.items()
        if _asks(option, values.get(option)) and name not in methods
    ]
    if name in POLICY_METHODS and values.get("validation"):
        problems.append(
            _place(places, "validation")
            + f"{_said(words, 'validation', values['validation'])} has no effect with {method}, which keeps its last "
            "weights; leave it out"
        )
    if name in _OF_GROUPS and _number(values.get("group_size")) == 1:
        problems.append(
            _place(places, "group_size")
            + f"{method} holds the answers to a prompt against each other, and {_said(words, 'group_size', 1)} leaves "
            "nothing to hold against; give at least 2"
        )
    return problems


def _asks(name: str, value: Any) -> bool:
    nothing = _ASKS_NOTHING.get(name)
    return value is not None and (nothing is None or nothing not in (value, _number(value)))


def _number(value: Any) -> float | None:
    """A number, which a command line gives as text; None for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _retention_problems(values: Mapping[str, Any], places: Mapping[str, str], words: Mapping[str, str]) -> list[str]:
    problems = []
    if values.get("lm_eval") is not None and str(values.get("probes")) == "0":
        problems.append(
            _place(places, "lm_eval")
            + f"{_said(words, 'lm_eval', values['lm_eval'])} has no effect with {_said(words, 'probes', 0)}, which "
            "measures no retention; leave one out"
        )
    if values.get("lm_eval_limit") is not None and values.get("lm_eval") is None:
        problems.append(
            _place(places, "lm_eval_limit")
            + f"{_said(words, 'lm_eval_limit', values['lm_eval_limit'])} has no effect without "
            f"{_word(words, 'lm_eval')}; leave it out"
        )
    return problems


def _adaptation_problems(values: Mapping[str, Any], places: Mapping[str, str], words: Mapping[str, str]) -> list[str]:
    adaptation = values.get("adaptation", "lora")
    said, layers = _said(words, "adaptation", adaptation), _word(words, "layers")
    with_halves = f"goes with the adapters {', '.join(sorted(WITH_HALVES))}, not with {said}"
    without_rank = ("rank", "alpha") if adaptation in WITHOUT_RANK else ()
    without_halves = ("learning_rate_ratio",) if adaptation not in WITH_HALVES else ()
    problems = [
        _place(places, name) + f"{_said(words, name, values[name])} has no effect with {said}; leave it out"
        for name in (*without_rank, *without_halves)
        if values.get(name) is not None and (name, values[name]) != ("learning_rate_ratio", 1.0)
    ]
    if adaptation not in WITH_HALVES:
        problems += [
            f"{_place(places, name)}{_word(words, name)} {with_halves}"
            for name in ("add_tokens", "quantize")
            if values.get(name)
        ]
    if adaptation not in WITH_HALVES and values.get("method") == "reward":
        problems.append(f"{_place(places, 'method')}{_said(words, 'method', 'reward')} {with_halves}")
    if adaptation == "partial" and not values.get("layers"):
        problems.append(
            f"{_place(places, 'adaptation')}{said} needs {layers}, the weights to train, as --layers "
            "'model.layers.29,*.norm.weight'"
        )
    if adaptation == "full" and values.get("layers"):
        partial = _said(words, "adaptation", "partial")
        problems.append(f"{_place(places, 'layers')}{said} trains all weights; use {partial} with {layers}")
    return problems


def config_error(problems: Sequence[str], *, command: str, where: str | None = None) -> ConfigError:
    """One error for all problems.

    Args:
        problems: at least one.
        command: the command whose ``--help`` lists the options.
        where: the config file, where there is one.
    """
    remedy = f"`hone {command} --help` lists all options with their rules"
    if len(problems) == 1:
        return ConfigError(problems[0], remedy=remedy)
    return ConfigError(f"{len(problems)} options are wrong", where=where, remedy=remedy, details=problems)


def nearest(word: str, known: Sequence[str]) -> str:
    """``; did you mean X?`` where a known word is near, else nothing."""
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def _field_problem(
    error: ErrorDetails, options: Sequence[str], places: Mapping[str, str], words: Mapping[str, str]
) -> str:
    location = [str(part) for part in error["loc"]]
    option = location[0] if location else "options"
    place, word = _place(places, option), _word(words, option)
    kind, given = error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"{place}{option}: there is no such option{nearest(option, options)}"
    if kind == "missing":
        return f"{place}{word} is missing, and has no default"
    rule = error["msg"]
    for wording, ours in _WORDINGS.items():
        rule = rule.replace(wording, ours, 1)
    if kind == "literal_error":
        rule += nearest(str(given), re.findall(r"'(\w+)'", rule))
    if kind == "string_type" and isinstance(given, int | float):
        rule += "; put it in quotes in a file"
    if word != option:  # a list is one word of the command line
        return f"{word} {_typed(given)}: {rule}"
    inner = "".join(f"[{part}]" for part in location[1:] if part != "[key]")
    return f"{place}{option}{inner} = {reprlib.repr(given)}: {rule}"


def _place(places: Mapping[str, str], option: str) -> str:
    return f"{places[option]}: " if option in places else ""


def _word(words: Mapping[str, str], option: str) -> str:
    return words.get(option, option)


def _said(words: Mapping[str, str], option: str, value: object) -> str:
    """An option with its value, as it is given: ``--top-p 0.5``, ``--no-probe`` or ``top_p = 0.5``."""
    if option in words and isinstance(value, bool):
        return words[option] if value else words[option].replace("--", "--no-", 1)
    return f"{words[option]} {_typed(value)}" if option in words else f"{option} = {value}"


def _typed(value: object) -> str:
    """A value as one word of a command line; a long one is cut."""
    text = str(value)
    return text if shlex.quote(text) == text and len(text) <= _LONGEST_WORD else reprlib.repr(text)
