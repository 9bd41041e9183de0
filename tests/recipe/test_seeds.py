"""``--seeds``: the rows stay, the adapters differ, the first run is the one without it, and nothing is done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from hone.config import ProofConfig, RunConfig, load_config
from hone.errors import ConfigError, DataError, InterruptedRunError, StorageError
from hone.evaluation.statistics import PairedBootstrap
from hone.evaluation.sums import mean_aggregate
from hone.planning.history import read_history
from hone.recipe.inference import load_answerer
from hone.recipe.prove import prove
from hone.recipe.run import open_interrupted_run, run
from hone.registry import RunFolder, list_versions
from hone.types import JsonDict
from tests.recipe.conftest import Listener, evaluate_in_this_process, read_jsonl, row, write_jsonl

RunOptions = Callable[..., RunConfig]
ADAPTER = "adapter/adapter_model.safetensors"
# What a run depends on its rows and its seed for, and not on the clock.
REPEATABLE = (ADAPTER, "metrics.jsonl", "held_out.jsonl", "manifest.json", "ledger.jsonl", "replay.jsonl")
STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def evaluated_here_for_all() -> Iterator[None]:
    """The comparisons in this process, for the runs of the module too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hone.recipe.run._evaluate_in_fresh_process", evaluate_in_this_process)
        yield


@dataclass(frozen=True)
class Shop:
    """A folder with rows, and the options of small runs on them."""

    folder: Path
    base: Path

    def config(self, output: str, **given: object) -> RunConfig:
        options: dict[str, object] = {
            "data": str(self.folder / "questions.jsonl"), "general_data": str(self.folder / "general.jsonl"),
            "general_rows": 3, "model": str(self.base), "rank": 4, "max_steps": STEPS, "save_every_steps": 2,
            "learning_rate": 5e-3, "dtype": "float32", "device": "cpu", "probes": 0, "max_new_tokens": 8,
            "arms": "base,tuned", "name": "questions", "output": str(self.folder / output),
        }  # fmt: skip
        return RunConfig.model_validate({**options, **given})

    def done(self, output: str, **given: object) -> JsonDict:
        return run(self.config(output, **given), home=self.folder / "home", recorder=Listener())


@pytest.fixture(scope="module")
def shop(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("seeds")
    write_jsonl(folder / "questions.jsonl", [row(number) for number in range(24)])
    general = [{"prompt": f"say word {number} of nine", "completion": f"word {number}"} for number in range(9)]
    write_jsonl(folder / "general.jsonl", general)
    return Shop(folder, tiny_base)


@pytest.fixture(scope="module")
def plain(shop: Shop) -> JsonDict:
    """The run without --seeds."""
    return shop.done("plain")


@pytest.fixture(scope="module")
def whole(shop: Shop) -> JsonDict:
    """The run with three seeds, never interrupted."""
    return shop.done("whole", seeds=3)


def bytes_of(folder: Path, names: tuple[str, ...] = REPEATABLE) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def without_clock(value: object) -> object:
    """A JSON value without seconds and speeds."""
    if isinstance(value, dict):
        clock = {"seconds", "per_1000_answers", "answered_in"}
        return {key: without_clock(inner) for key, inner in value.items() if key not in clock}
    return [without_clock(one) for one in value] if isinstance(value, list) else value


def test_the_first_seed_is_the_run_without_seeds(shop: Shop, plain: JsonDict, whole: JsonDict) -> None:
    names = (*REPEATABLE, "answers.jsonl", "probe.safetensors")
    assert bytes_of(shop.folder / "whole", names) == bytes_of(shop.folder / "plain", names)
    assert "seeds" not in plain["evaluation"]
    assert not (shop.folder / "plain" / "seeds").exists()
    evaluation = {key: value for key, value in whole["evaluation"].items() if key != "seeds"}
    assert without_clock(evaluation) == without_clock(plain["evaluation"])
    for name in ("data", "base", "retention"):
        assert whole[name] == plain[name], name


def test_the_rows_stay_and_the_adapters_differ(shop: Shop, whole: JsonDict) -> None:
    folders = [shop.folder / "whole", *(shop.folder / "whole" / "seeds" / place for place in "23")]
    for name in ("manifest.json", "held_out.jsonl", "ledger.jsonl", "replay.jsonl"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1, name
    configs = [load_config(RunConfig, {}, file=folder / "config.yaml") for folder in folders]
    assert [(config.seed, config.rows_seed) for config in configs] == [(0, 0), (1, 0), (2, 0)]
    same = {"seed": 0, "split_seed": None, "seeds": 1, "output": None}
    assert len({config.model_copy(update=same).model_dump_json() for config in configs}) == 1
    weights = [load_file(folder / ADAPTER) for folder in folders]
    starts = [np.concatenate([one[name].flatten().numpy() for name in sorted(one)]) for one in weights]
    assert all(not np.array_equal(starts[first], starts[second]) for first, second in ((0, 1), (0, 2), (1, 2)))
    losses = [
        [one["loss"] for one in read_jsonl(folder / "metrics.jsonl") if one["event"] == "step"] for folder in folders
    ]
    assert len({tuple(one) for one in losses}) == 3, "another order of rows"
    assert whole["training"]["seed"] == 0


def test_its_figures_are_those_of_the_adapters(shop: Shop, whole: JsonDict) -> None:
    seeds, evaluation = whole["evaluation"]["seeds"], whole["evaluation"]
    scores = [evaluation["arms"]["tuned"]["score"]]
    for place in "23":
        stored = json.loads((shop.folder / "whole" / "seeds" / place / "result.json").read_text(encoding="utf-8"))
        scores.append(stored["evaluation"]["arms"]["tuned"]["score"])
    assert [one["score"] for one in seeds["trainings"]] == pytest.approx(scores, abs=1e-5)
    assert [one["seed"] for one in seeds["trainings"]] == [0, 1, 2]
    assert [one["folder"] for one in seeds["trainings"]] == [None, "seeds/2", "seeds/3"]
    assert seeds["mean"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert seeds["standard_deviation"] == pytest.approx(np.std(scores, ddof=1), abs=1e-5)
    base = evaluation["arms"]["base"]["score"]
    assert seeds["difference"] == pytest.approx(np.mean(scores) - base, abs=1e-5)
    first = evaluation["differences"][0]
    assert (first["arm"], first["against"]) == ("tuned", "base")
    assert seeds["interval_over_rows"] == seeds["trainings"][0]["interval"] == first["interval"]
    assert seeds["interval"] != seeds["interval_over_rows"]
    assert seeds["interval"][0] <= seeds["difference"] <= seeds["interval"][1]
    assert "greedy" in seeds["generation"]
    assert whole["verdict"]["numbers"]["seeds"]["interval"] == seeds["interval"]


def test_every_place_tells_of_it(shop: Shop, whole: JsonDict, repository: Path) -> None:
    folder, seeds = shop.folder / "whole", whole["evaluation"]["seeds"]
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["seeds"] == seeds
    markdown, page = ((folder / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    for text in (markdown, page):
        assert "Seeds of training" in text
        assert f"{seeds['mean']:.1f}" in text
        assert "rows and seeds" in text
        assert "greedy" in text
        assert "seeds/3" in text.replace("\\", "")
    page_of_docs = (repository / "docs" / "result.md").read_text(encoding="utf-8")
    assert [key for key in (*seeds, *seeds["trainings"][0]) if f"`{key}`" not in page_of_docs] == []


def test_the_others_are_kept_to_be_looked_at_and_not_registered(shop: Shop, whole: JsonDict) -> None:
    home = shop.folder / "home"
    runs = {version.run_folder for version in list_versions(home, "questions")}
    assert shop.folder / "whole" in runs
    assert not any("seeds" in folder.parts[-2:] for folder in runs)
    second = shop.folder / "whole" / "seeds" / "2"
    assert RunFolder.open(second).status == "done"
    for name in ("report.html", "answers.jsonl", "proof.json", "log.txt", "checkpoints"):
        assert (second / name).exists(), name
    with pytest.raises(ConfigError, match="this run is finished"):
        open_interrupted_run(second, home=home)
    proved = prove(ProofConfig(version=str(second), device="cpu", dtype="float32"), home=home, recorder=Listener())
    assert {one.number for one in proved.proof} == set(range(1, 13))
    answerer = load_answerer(str(second), home=home, device="cpu", dtype="float32", note=lambda _text: None)
    assert answerer.is_tuned
    assert answerer.reproduced is not None
    assert answerer.reproduced.holds


def test_only_the_first_training_teaches_the_plan(shop: Shop, whole: JsonDict) -> None:
    """The process of the others has trained before, so that its peak of memory may be an earlier training's."""
    learnt = {entry["name"] for entry in read_history(shop.folder / "home")}
    of_seeds = {RunFolder.open(shop.folder / "whole" / "seeds" / place).id for place in "23"}
    assert (shop.folder / "whole" / "seeds" / "2" / "plan.json").exists()
    assert not learnt & of_seeds
    assert RunFolder.open(shop.folder / "whole").id in learnt


def test_its_config_trains_the_same_adapter_again(shop: Shop, whole: JsonDict) -> None:
    second = shop.folder / "whole" / "seeds" / "2"
    config = load_config(RunConfig, {"output": shop.folder / "again"}, file=second / "config.yaml")
    run(config, home=shop.folder / "home", recorder=Listener())
    assert bytes_of(shop.folder / "again") == bytes_of(second)


@pytest.mark.parametrize("after", [STEPS + 1, 2 * STEPS - 2])
def test_interrupted_in_the_second_training_it_goes_on_there(
    shop: Shop, whole: JsonDict, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(shop.folder / "broken", ignore_errors=True)
    stopping = Listener(stop_after=after)
    home = shop.folder / "home"
    with pytest.raises(InterruptedRunError) as raised:
        run(shop.config("broken", seeds=3), home=home, recorder=stopping, should_stop=stopping.should_stop)
    assert "hone run --resume" in str(raised.value.remedy)
    broken = RunFolder.open(shop.folder / "broken")
    assert broken.status == "interrupted"
    with pytest.raises(ConfigError, match="one of the trainings of a run"):
        open_interrupted_run(broken.path / "seeds" / "2", home=home)
    evaluated: list[Path] = []

    def counted(config: RunConfig, folder: RunFolder, own: Path) -> JsonDict:
        evaluated.append(folder.path)
        return evaluate_in_this_process(config, folder, own)

    monkeypatch.setattr("hone.recipe.run._evaluate_in_fresh_process", counted)
    again, config = open_interrupted_run(broken.path, home=home)
    assert isinstance(config, RunConfig)
    heard = Listener()
    result = run(config, home=home, recorder=heard, resume=again)
    assert len(stopping.of("step")) + len(heard.of("step")) == 3 * STEPS, "no step is done twice, and none is left out"
    assert evaluated == [broken.path / "seeds" / place for place in "23"], "the first was compared before"
    for place in (".", "seeds/2", "seeds/3"):
        assert bytes_of(broken.path / place) == bytes_of(shop.folder / "whole" / place), place
    assert without_clock(result["evaluation"]) == without_clock(whole["evaluation"])
    assert result["verdict"] == whole["verdict"]
    assert RunFolder.open(broken.path).status == "done"


def test_a_comparison_that_fails_does_so_before_further_seeds_and_is_taken_up(
    shop: Shop, whole: JsonDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(config: RunConfig, folder: RunFolder, home: Path) -> JsonDict:
        raise InterruptedRunError("stopped during the evaluation; the adapter is saved")

    home, heard = shop.folder / "home", Listener()
    with monkeypatch.context() as patch:
        patch.setattr("hone.recipe.run._evaluate_in_fresh_process", stopped)
        with pytest.raises(InterruptedRunError):
            run(shop.config("stopped", seeds=2), home=home, recorder=heard)
    assert len(heard.of("step")) == STEPS
    assert not (shop.folder / "stopped" / "seeds" / "2").exists()
    again, config = open_interrupted_run(shop.folder / "stopped", home=home)
    assert isinstance(config, RunConfig)
    heard = Listener()
    run(config, home=home, recorder=heard, resume=again)
    assert len(heard.of("step")) == STEPS, "the second training alone"
    assert bytes_of(shop.folder / "stopped" / "seeds" / "2") == bytes_of(shop.folder / "whole" / "seeds" / "2")


def test_rows_that_changed_meanwhile_and_damaged_state_are_refused(shop: Shop) -> None:
    home, stopping = shop.folder / "home", Listener(stop_after=STEPS + 1)
    own = write_jsonl(shop.folder / "own.jsonl", [row(number) for number in range(24)])
    config = shop.config("changed", seeds=2, data=str(own))
    with pytest.raises(InterruptedRunError):
        run(config, home=home, recorder=stopping, should_stop=stopping.should_stop)
    write_jsonl(own, [row(number) for number in range(1, 25)])
    again, resumed = open_interrupted_run(shop.folder / "changed", home=home)
    assert isinstance(resumed, RunConfig)
    with pytest.raises(DataError, match=r"own\.jsonl changed since the first seed was trained"):
        run(resumed, home=home, recorder=Listener(), resume=again)
    (shop.folder / "changed" / "seeds" / "1" / "answered.json").write_text("{", encoding="utf-8")
    again, _ = open_interrupted_run(shop.folder / "changed", home=home)
    with pytest.raises(StorageError, match="cannot be read"):
        run(resumed, home=home, recorder=Listener(), resume=again)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seeds": 0}, "seeds = 0: must be at least 1"),
        ({"seeds": -3}, "seeds = -3: must be at least 1"),
        ({"seeds": 10**6}, "seeds = 1000000: must be less than or equal to 100"),
        ({"seeds": "two"}, "seeds = 'two'"),
        ({"seeds": True}, "must be a number"),
        ({"seeds": 2, "seed": 2**32 - 1}, "end at 4294967296, and the largest is 4294967295"),
        ({"seeds": 2, "arms": "prompted,tuned"}, "base would not answer"),
    ],
)
def test_what_cannot_be_repeated_is_refused_before_a_run_is_begun(
    shop: Shop, given: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        shop.done("refused", **given)
    assert said in raised.value.what
    assert not (shop.folder / "refused").exists()


def test_methods_of_preferences_are_refused(shop: Shop, tmp_path: Path) -> None:
    pairs = [{"prompt": row(n)["prompt"], "chosen": "it is lit", "rejected": "no"} for n in range(16)]
    data = write_jsonl(tmp_path / "pairs.jsonl", pairs)
    with pytest.raises(ConfigError, match="dpo cannot be repeated"):
        shop.done("refused", seeds=2, data=str(data), general_data=None, general_rows=None)


def test_another_split_seed_moves_the_rows_and_nothing_else(shop: Shop, plain: JsonDict) -> None:
    shop.done("moved", split_seed=9)
    assert (shop.folder / "moved" / "held_out.jsonl").read_bytes() != (
        shop.folder / "plain" / "held_out.jsonl"
    ).read_bytes()
    shop.done("stayed", seed=4, split_seed=0)
    names = ("held_out.jsonl", "manifest.json", "ledger.jsonl", "replay.jsonl")
    assert bytes_of(shop.folder / "stayed", names) == bytes_of(shop.folder / "plain", names)


def test_resamples_are_drawn_once_for_all_seeds() -> None:
    """What makes the covariance of two seeds that of the same rows."""
    random = np.random.default_rng(3)
    bootstrap = PairedBootstrap(12, permutations=20)
    one, other = (np.column_stack([random.random(12), np.ones(12)]) for _ in range(2))

    first = bootstrap.resampled_differences(one, other, mean_aggregate)
    assert np.array_equal(first, bootstrap.resampled_differences(one, other, mean_aggregate))
    assert np.allclose(first, -bootstrap.resampled_differences(other, one, mean_aggregate))
