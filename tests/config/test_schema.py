"""The options: their defaults and rules, and that everything wrong is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import hone
from hone import types
from hone.config import EvaluateConfig, GenerateConfig, RunConfig, TrainConfig, option_help, schema
from hone.errors import ConfigError
from hone.model import catalog

CONFIGS = [TrainConfig, RunConfig, EvaluateConfig, GenerateConfig]


def problems(error: ConfigError) -> list[str]:
    return list(error.details) or [error.what]


@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_option_has_help_and_its_default_in_it(config_class: type[BaseModel]) -> None:
    texts = option_help(config_class)
    assert len(texts) == len(config_class.model_fields)
    for name, text in texts.items():
        assert text.endswith("."), name
        assert len(text) > 15, name
    for attribute, field in config_class.model_fields.items():
        if field.default is not None and not field.is_required():
            assert str(field.default) in texts[field.alias or attribute]


def test_only_the_data_is_needed() -> None:
    config = RunConfig(data="x.jsonl")
    assert (config.model, config.method, config.seed, config.early_stop) == ("smollm2-135m-instruct", None, 0, True)
    chosen_later = ["rank", "alpha", "epochs", "batch_size", "learning_rate", "max_length", "validation", "held_out"]
    assert all(getattr(config, name) is None for name in chosen_later)


def test_the_default_model_is_written_once() -> None:
    source = Path(hone.__file__).parent
    written = [path.name for path in source.rglob("*.py") if f'"{types.DEFAULT_MODEL}"' in path.read_text("utf-8")]
    assert written == ["types.py"]
    assert schema.DEFAULT_MODEL == catalog.DEFAULT_MODEL == types.DEFAULT_MODEL


def test_a_config_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig(data="x").rank = 3


@pytest.mark.parametrize(
    ("option", "given", "read"),
    [
        ("map", "prompt=question, completion=answer", {"prompt": "question", "completion": "answer"}),
        ("map", {"prompt": "q"}, {"prompt": "q"}),
        ("held_out", "0.2", 0.2),
        ("held_out", "40", 40),
        ("held_out", 40, 40),
        ("validation", 0, 0),
        ("learning_rate", "1e-4", 1e-4),  # what PyYAML makes of 1e-4 is text
        ("device", "cuda:1", "cuda:1"),
        ("eval", "held.jsonl", "held.jsonl"),
    ],
)
def test_values_that_are_read(option: str, given: object, read: object) -> None:
    config = RunConfig.model_validate({"data": "x", option: given})
    value = config.model_dump(by_alias=True)[option]
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("option", "given", "rule"),
    [
        ("rank", 0, "rank = 0: must be at least 1"),
        ("rank", 2.5, "rank = 2.5: must be a valid integer"),
        ("rank", True, "rank = True: must be a number"),
        ("epochs", -1, "must be at least 1"),
        ("alpha", 0, "must be greater than 0"),
        ("learning_rate", float("nan"), "must be a finite number"),
        ("learning_rate", float("inf"), "must be a finite number"),
        ("learning_rate", "fast", "learning_rate = 'fast': must be a valid number"),
        ("warmup_share", 1, "must be less than 1"),
        ("weight_decay", -0.1, "must be at least 0"),
        ("seed", -1, "must be at least 0"),
        ("seed", 2**32, "must be less than 4294967296"),
        ("data", "", "must have at least 1 character"),
        ("data", 3, "must be a valid string; put it in quotes"),
        ("method", "sfd", "did you mean sft?"),
        ("dtype", "bfloat", "must be 'float32' or 'bfloat16'; did you mean bfloat16?"),
        ("device", "gpu", "must match the pattern"),
        ("map", "question", "must read prompt=COLUMN,completion=COLUMN"),
        ("map", {"prompt": 3}, "map[prompt] = 3: must be a valid string"),
        ("held_out", 0, "must be greater than 0"),
        ("held_out", 1.5, "must be a share of the rows between 0 and 1"),
        ("held_out", "many", "must be a share of the rows between 0 and 1"),
        ("validation", -1, "must be a share of the rows between 0 and 1"),
        ("early_stop", "perhaps", "must be a valid boolean"),
        ("lerning_rate", 1, "there is no such option; did you mean learning_rate?"),
        ("max-steps", 1, "there is no such option; did you mean max_steps?"),
        ("zzz", 1, "zzz: there is no such option"),
        ("name", "x" * 10_000 + "\0" * 10_000, ""),
    ],
)
def test_values_that_are_refused(option: str, given: object, rule: str) -> None:
    if not rule:
        assert RunConfig.model_validate({"data": "x", option: given})
        return
    with pytest.raises(ConfigError) as caught:
        RunConfig.model_validate({"data": "x", option: given})
    assert len(problems(caught.value)) == 1
    assert problems(caught.value)[0].startswith(option)
    assert rule in problems(caught.value)[0]
    assert "hone run --help" in str(caught.value.remedy)


def test_all_problems_come_together() -> None:
    with pytest.raises(ConfigError, match="5 options are wrong") as caught:
        RunConfig(rank=-1, epochs=0, eval="x", held_out=3, ranks=1)
    text = "\n".join(problems(caught.value))
    for part in ("data is missing", "rank = -1", "epochs = 0", "eval and held_out are both given", "ranks: there is"):
        assert part in text


@pytest.mark.parametrize(
    ("config_class", "values", "part"),
    [
        (RunConfig, {"data": "x", "eval": "y", "held_out": 0.2}, "eval and held_out are both given"),
        (RunConfig, {"data": "x", "evaluation_data": "y", "held_out": 0.2}, "eval and held_out are both given"),
        (GenerateConfig, {"model": "m", "prompt": "p", "top_p": 0.9}, "no effect with temperature = 0"),
    ],
)
def test_rules_between_options(config_class: type[BaseModel], values: dict[str, object], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        config_class.model_validate(values)


def test_options_that_go_together() -> None:
    assert TrainConfig(data="x", micro_batch_tokens=99, max_length=100, epochs=3, max_steps=10).max_steps == 10
    assert GenerateConfig(model="m", prompt="p", temperature=0.7, top_p=0.9).top_p == 0.9
    assert RunConfig(data="x", eval="y").evaluation_data == "y"


def test_arms_are_named_in_a_list() -> None:
    assert EvaluateConfig(version="support", arms="base, tuned").arms == ("base", "tuned")
    assert EvaluateConfig(version="support", arms=["tuned"]).arms == ("tuned",)
    with pytest.raises(ConfigError, match=r"arms\[1\] = 'tunde'.*did you mean tuned"):
        EvaluateConfig(version="support", arms="base,tunde")


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(data="x", rank="9" * 100_000)
    assert len(caught.value.render()) < 300
