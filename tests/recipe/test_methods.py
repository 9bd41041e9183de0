"""Every way of adapting through the whole job: trained, proven, compared with its base, registered, reloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from safetensors.torch import load_file

from hone.config import RunConfig, TrainConfig
from hone.config.chat import GenerateConfig
from hone.config.check import WITH_HALVES, WITHOUT_RANK
from hone.errors import ConfigError, InterruptedRunError, ModelError
from hone.model.adaptation import ADAPTATIONS
from hone.recipe.answer import open_conversation
from hone.recipe.inference import load_answerer
from hone.recipe.run import open_interrupted_run, run, train
from hone.registry import resolve_version, verify_version
from hone.types import AdaptationName, JsonDict
from tests.recipe.conftest import THINGS, Listener, row, write_jsonl

RunOptions = Callable[..., RunConfig]
TrainOptions = Callable[..., TrainConfig]

# what is given beside the method's name, and the file that holds what was trained
GIVEN: dict[AdaptationName, dict[str, Any]] = {
    "rslora": {},
    "dora": {"layers": "model.layers.1.*,q_proj"},
    "pissa": {"learning_rate": 1e-3},
    "full": {"rank": None, "learning_rate": 1e-3},
    "partial": {"rank": None, "learning_rate": 1e-3, "layers": "model.layers.1,norm"},
}
FILES = {"full": "model.safetensors", "partial": "changed_weights.safetensors"}


def _holding(result: JsonDict) -> dict[int, bool]:
    return {invariant["number"]: invariant["holds"] for invariant in result["proof"]}


@pytest.mark.usefixtures("evaluated_here")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", GIVEN)
def test_the_whole_job(name: AdaptationName, dtype: str, run_options: RunOptions, hone_home: Path) -> None:
    heard = Listener()
    options = run_options(**{"adaptation": name, "dtype": dtype, "epochs": 3, "name": "questions", **GIVEN[name]})
    result = run(options, home=hone_home, recorder=heard)

    assert _holding(result) | {12: True} == dict.fromkeys(range(1, 13), True)
    steps = [event.data["loss"] for event in heard.of("step")]
    assert steps[-1] < steps[0]
    assert (result["training"]["adaptation"], result["training"]["rank"]) == (name, GIVEN[name].get("rank", 4))
    version = resolve_version(hone_home, "questions")
    verify_version(version)
    assert FILES.get(name, "adapter_model.safetensors") in version.adapter_files
    assert "hone.json" in version.adapter_files

    # the base answers as it does alone, after the tuned model was loaded onto it
    plain = load_answerer(options.model, home=hone_home, device="cpu", dtype=dtype, note=lambda _text: None)
    asked = {"prompt": "what of the lamp?", "device": "cpu", "dtype": dtype, "max_new_tokens": 8}
    said = {}
    for who, base in (("questions", True), ("questions", False), (options.model, False)):
        config = GenerateConfig.model_validate({"model": who, "base": base, **asked})
        conversation = open_conversation(config, home=hone_home, note=lambda _text: None)
        said[who, base] = "".join(conversation.ask("what of the lamp?", arm="base" if base else "tuned"))
    assert plain.adaptation is None
    assert said["questions", True] == said[options.model, False]
    assert said["questions", False] != said["questions", True]


@pytest.mark.parametrize("name", ["full", "pissa", "dora"])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    name: AdaptationName, train_options: TrainOptions, hone_home: Path, tmp_path: Path
) -> None:
    given = {"adaptation": name, "dtype": "bfloat16", **GIVEN[name]}
    given.pop("layers", None)
    train(train_options(output=str(tmp_path / "whole"), **given), home=hone_home, recorder=Listener())
    heard = Listener(stop_after=4)
    with pytest.raises(InterruptedRunError):
        train(
            train_options(output=str(tmp_path / "stopped"), **given), home=hone_home, recorder=heard,
            should_stop=heard.should_stop,
        )  # fmt: skip
    folder, config = open_interrupted_run(tmp_path / "stopped", home=hone_home)
    train(config, home=hone_home, recorder=Listener(), resume=folder)
    file = FILES.get(name, "adapter_model.safetensors")
    whole, resumed = ((tmp_path / one / "adapter" / file).read_bytes() for one in ("whole", "stopped"))
    assert whole == resumed
    metrics = [(tmp_path / one / "metrics.jsonl").read_bytes() for one in ("whole", "stopped")]
    assert metrics[0] == metrics[1]


@pytest.mark.usefixtures("evaluated_here")
def test_added_tokens_are_trained_saved_and_unknown_to_the_base(
    run_options: RunOptions, hone_home: Path, tmp_path: Path
) -> None:
    rows = [row(number) for number in range(24)]
    for number, one in enumerate(rows):
        one["completion"] = f"zirkon-{number % 2} the {THINGS[number % len(THINGS)]} is lit"
    data = write_jsonl(tmp_path / "questions.jsonl", rows)
    options = run_options(
        data=str(data), add_tokens="zirkon-0,zirkon-1", epochs=8, name="questions", learning_rate=1e-2
    )
    heard = Listener()
    result = run(options, home=hone_home, recorder=heard)
    assert "2 tokens added" in heard.notes()
    assert _holding(result) | {12: True} == dict.fromkeys(range(1, 13), True)
    folder = Path(result["run_dir"]) / "adapter"
    rows_saved = [name for name in load_file(folder / "adapter_model.safetensors") if "trainable_tokens" in name]
    assert len(rows_saved) == 2, "embeddings and head of an untied base"
    assert (folder / "tokenizer.json").exists()

    answerer = load_answerer("questions", home=hone_home, device="cpu", dtype="float32", note=lambda _text: None)
    new = answerer.base.tokenizer.convert_tokens_to_ids(["zirkon-0", "zirkon-1"])
    own = answerer.base.tokenizer.encode("zirkon-1")
    assert own == [new[1]]
    assert answerer.base_renderer is not None
    config = GenerateConfig.model_validate(
        {"model": "questions", "prompt": "x", "device": "cpu", "dtype": "float32", "max_new_tokens": 12}
    )
    conversation = open_conversation(config, home=hone_home, note=lambda _text: None)
    tuned = "".join(conversation.ask(rows[0]["prompt"], arm="tuned"))
    assert tuned.startswith("zirkon-"), "it answers with a token that was added"
    plain = open_conversation(
        config.model_copy(update={"model": options.model}), home=hone_home, note=lambda _text: None
    )
    assert "".join(conversation.ask("zirkon-1?", arm="base")) == "".join(plain.ask("zirkon-1?", arm="base"))
    # bits of the base are those that the base alone needs for the same bytes
    alone = load_answerer(options.model, home=hone_home, device="cpu", dtype="float32", note=lambda _text: None)
    assert answerer.renderer_of("base").stop_ids == alone.renderer.stop_ids


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"adaptation": "full", "alpha": 4.0}, "alpha = 4.0 has no effect with adaptation = full"),
        ({"adaptation": "full", "rank": None, "layers": "q_proj"}, "trains all weights"),
        ({"adaptation": "partial", "rank": None}, "needs layers"),
        ({"adaptation": "partial", "rank": None, "layers": "mlp", "learning_rate_ratio": 4}, "learning_rate_ratio = 4"),
        ({"adaptation": "full", "rank": None, "add_tokens": "x"}, "add_tokens goes with the adapters"),
        ({"adaptation": "lore"}, "did you mean lora"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    given: dict[str, Any], named: str, train_options: TrainOptions
) -> None:
    with pytest.raises(ConfigError) as caught:
        train_options(**given)
    assert named in str(caught.value)


def test_a_pattern_that_fits_nothing_ends_the_run_before_it_trains(
    train_options: TrainOptions, hone_home: Path
) -> None:
    heard = Listener()
    with pytest.raises(ModelError, match="1 of 1 patterns"):
        train(train_options(layers="c_attn"), home=hone_home, recorder=heard)
    assert not heard.of("step")


def test_lora_plus_trains_b_faster(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    sizes = []
    for ratio in (1.0, 8.0):
        output = tmp_path / str(ratio)
        options = train_options(output=str(output), learning_rate=1e-4, learning_rate_ratio=ratio, max_steps=2)
        train(options, home=hone_home, recorder=Listener())
        saved = load_file(output / "adapter" / "adapter_model.safetensors")
        sizes.append(sum(float(tensor.abs().sum()) for name, tensor in saved.items() if "lora_B" in name))
    assert sizes[1] == pytest.approx(8 * sizes[0], rel=0.2)


def test_the_names_of_config_and_model_are_one_list() -> None:
    assert set(get_args(AdaptationName)) == set(ADAPTATIONS)
    assert {name for name, method in ADAPTATIONS.items() if not method.has_rank} == WITHOUT_RANK
    assert WITH_HALVES.isdisjoint(WITHOUT_RANK)


def test_the_default_s_numbers_are_lora_s(train_options: TrainOptions, hone_home: Path, tmp_path: Path) -> None:
    plain = train(train_options(output=str(tmp_path / "a"), rank=None), home=hone_home, recorder=Listener())["training"]
    named = {key: plain[key] for key in ("adaptation", "rank", "alpha", "adapted_layers")}
    assert named == {"adaptation": "lora", "rank": 16, "alpha": 32.0, "adapted_layers": 14}
    assert plain["trained_values"] == sum(
        tensor.numel() for tensor in load_file(tmp_path / "a" / "adapter" / "adapter_model.safetensors").values()
    )


def test_a_memory_budget_recomputes_layers_and_changes_no_byte(
    train_options: TrainOptions, hone_home: Path, tmp_path: Path
) -> None:
    found = {}
    for name, given in {"free": {}, "tight": {"memory_budget": "2MB", "micro_batch_tokens": 200}}.items():
        output = tmp_path / name
        shared = {"micro_batch_tokens": 200, "max_steps": 4}
        training = train(train_options(output=str(output), **{**shared, **given}), home=hone_home, recorder=Listener())[
            "training"
        ]
        found[name] = training["recompute_layers"], (output / "adapter" / "adapter_model.safetensors").read_bytes()
    assert found["free"][0] == 0
    assert found["tight"][0] > 0
    assert found["tight"][1] == found["free"][1]


def test_a_budget_under_the_weights_is_refused_with_the_figures(train_options: TrainOptions, hone_home: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights \(0.00 GB\) and optimizer"):
        train(train_options(memory_budget="10KB"), home=hone_home, recorder=Listener())
    with pytest.raises(ConfigError, match=r"300 tokens at once take about .* with 2 of 2 layers computed again"):
        train(train_options(memory_budget="700KB", micro_batch_tokens=300), home=hone_home, recorder=Listener())
    with pytest.raises(ConfigError, match="must be a size, as 6GB"):
        train_options(memory_budget="much")


@pytest.mark.usefixtures("evaluated_here")
def test_a_run_on_a_4_bit_base_is_proven_and_reloaded_on_it(run_options: RunOptions, hone_home: Path) -> None:
    pytest.importorskip("bitsandbytes")
    heard = Listener()
    result = run(run_options(quantize="nf4", name="questions", epochs=3), home=hone_home, recorder=heard)
    assert "14 linear layers of the base are kept in 4 bits (nf4)" in heard.notes()
    assert _holding(result) | {12: True} == dict.fromkeys(range(1, 13), True)
    answerer = load_answerer("questions", home=hone_home, device="cpu", dtype="float32", note=lambda _text: None)
    assert answerer.notes["quantize"] == "nf4"
    assert result["training"]["quantize"] == "nf4"


@pytest.mark.usefixtures("evaluated_here")
@pytest.mark.parametrize("name", ["ia3", "miss", "oft"])
def test_a_method_of_peft_through_the_whole_job(name: AdaptationName, run_options: RunOptions, hone_home: Path) -> None:
    rank = 4 if ADAPTATIONS[name].has_rank else None
    options = run_options(adaptation=name, rank=rank, name="questions", dtype="bfloat16", epochs=3)
    heard = Listener()
    result = run(options, home=hone_home, recorder=heard)
    assert _holding(result) | {12: True} == dict.fromkeys(range(1, 13), True)
    losses = [event.data["loss"] for event in heard.of("step")]
    assert losses[-1] < losses[0]
