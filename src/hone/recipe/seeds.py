"""``hone run --seeds N``: the training repeated with the next seeds on the same rows, judged on the same held-out rows.

    RUN/seeds/1/   what the run's own training and comparison gave, for a resumed run to take up
    RUN/seeds/2/   the second training, a run of its own: config, checkpoints, adapter, answers and report; no version
    RUN/seeds/3/   ...

The seed of training alone differs: the adapter's start and the order of rows. The split, passages and general rows are
those of the first seed, every number that was chosen for it is given, and the strength is swept anew, as in any run.
Each part that is done is kept in its folder before the next begins, so that a resumed run does nothing twice.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hone.config.load import load_config
from hone.config.schema import RunConfig
from hone.data.loader import LoadedData
from hone.engine.checkpoint import Checkpoint, load_newest_checkpoint
from hone.engine.events import Event, Recorder, Tee
from hone.engine.parallel import Parallel
from hone.errors import ConfigError, DataError, StorageError
from hone.files import write_atomically, write_json
from hone.model.allocator import give_back_freed_memory
from hone.proof.invariant import Invariant
from hone.recipe.replay import replay_file
from hone.recipe.reporting import write_run_report
from hone.recipe.run_files import held_out_file, store_proof
from hone.recipe.seeds_comparison import SeedOutcome, with_seeds
from hone.recipe.sft import SftResult
from hone.recipe.training_passages import passages_file
from hone.registry.recorder import RunRecorder
from hone.registry.runs import SEED_RUN, RunFolder
from hone.types import JsonDict

__all__ = ["Repeated", "Training", "Workplace", "require_repeatable"]

_TRAINED, _ANSWERED = "trained.json", "answered.json"
_COMPARED = ("base", "tuned")
_LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Workplace:
    """A run's folder, where its events go, and the checkpoint it goes on from."""

    folder: RunFolder
    recorder: Recorder
    checkpoint: Checkpoint | None


Training = Callable[[RunConfig, LoadedData, LoadedData | None, Workplace], SftResult]
Rows = Callable[[], tuple[LoadedData, LoadedData | None]]
Described = Callable[[RunFolder, SftResult, list[Invariant]], JsonDict]


def require_repeatable(config: RunConfig) -> None:
    """Refuse ``--seeds`` where further trainings could not be judged; to be asked before anything is trained.

    Args:
        config: the options, their method known.

    Raises:
        ConfigError: the method is another one than sft, the last seed is too large, or base and tuned are not both
            among the arms.
    """
    if config.seeds == 1:
        return
    if config.method not in (None, "sft"):
        raise ConfigError(
            f"{config.method} cannot be repeated",
            why="seeds are compared by their answers to held-out rows, and methods of preferences are judged by pairs",
            where="--seeds",
            remedy="leave it out, or run the seeds one by one: --seed 1 --split-seed 0",
        )
    last = config.seed + config.seeds - 1
    if last > _LARGEST_SEED:
        raise ConfigError(
            f"{config.seeds} seeds from {config.seed} end at {last}, and the largest is {_LARGEST_SEED}",
            where="--seeds",
            remedy="begin with a smaller --seed",
        )
    missing = [arm for arm in _COMPARED if config.arms is not None and arm not in config.arms]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} would not answer, and every seed is held against the base",
            where="--seeds",
            remedy="put base and tuned among --arms",
        )


@dataclass(frozen=True, slots=True)
class Repeated:
    """A run's trainings, one for each seed.

    Args:
        config: the options of the run.
        work: its folder, with the recorder that writes there.
        listener: the user's recorder.
        training: trains one seed.
        evaluation: lets base and tuned answer in a fresh process, by options and folder.
        described: the objects of a result that training gives.
        parallel: the processes that train together; the first one alone does the rest.
    """

    config: RunConfig
    work: Workplace
    listener: Recorder
    training: Training
    evaluation: Callable[[RunConfig, RunFolder], JsonDict]
    described: Described
    parallel: Parallel

    def trained(self, train: Callable[[], SftResult]) -> SftResult:
        """What the first seed's training gave; it is not trained again where an interruption came after it."""
        return train() if self.config.seeds == 1 else self._kept_training(self._folder_of_first, train)

    def answered(self, first: SftResult, read_rows: Rows) -> JsonDict:
        """The comparison of the first seed; with ``--seeds`` also what the other seeds, trained here, say of it.

        Args:
            first: as :meth:`trained` gave it.
            read_rows: reads the rows of training and of the comparison anew.

        Returns:
            What :func:`hone.recipe.evaluate.evaluate` prints; empty in all processes but the first.

        Raises:
            DataError: the rows are not those that the first seed was trained on.
            HoneError: as training and comparison do.
        """
        # before the others are trained: a comparison that fails is to fail now. But nobody waits long for the first.
        own = self._answers_of_first() if self.parallel.world_size == 1 else None
        runs = [self._train(place, first, read_rows) for place in range(2, self.config.seeds + 1)]
        if not self.parallel.is_first:
            return {}
        own = own or self._answers_of_first()
        if not runs:
            return own
        outcomes = [SeedOutcome(None, first.training, own, _holds(first, own))]
        outcomes += [self._judged(folder, trained) for folder, trained in runs]
        return with_seeds(own, outcomes, held_out_file(self.work.folder), split_seed=first.config.rows_seed)

    @property
    def _folder_of_first(self) -> Path:
        return self.work.folder.seeds / "1"

    def _answers_of_first(self) -> JsonDict:
        def answer() -> JsonDict:
            self._say("evaluation", "reloading in a fresh process")
            return self.evaluation(self.config, self.work.folder)

        return answer() if self.config.seeds == 1 else _kept(self._folder_of_first / _ANSWERED, answer)

    def _train(self, place: int, first: SftResult, read_rows: Rows) -> tuple[RunFolder, SftResult]:
        """One further training, in its own folder."""
        folder, parallel = self._opened(place), self.parallel
        seed = self.config.seed + place - 1

        def train() -> SftResult:
            self._say("seed", f"{place} of {self.config.seeds}: the same rows, trained with seed {seed}")
            loaded, held_out = read_rows()
            _require_same_rows(first, loaded, held_out)
            gc.collect()  # the last model, before the next one is loaded
            give_back_freed_memory()
            with self._at_work(folder) as work:
                return self.training(self._options(seed), loaded, held_out, work)

        trained = self._kept_training(folder.path, train)
        assert trained.manifest == first.manifest, "every seed has the rows of the first"
        parallel.from_first(None)  # nobody goes on to the next seed before this one is kept
        return folder, trained

    def _judged(self, folder: RunFolder, trained: SftResult) -> SeedOutcome:
        """A further seed's answers, and its folder made complete."""

        def answer() -> JsonDict:
            self._say("evaluation", f"the adapter of seed {trained.config.seed}, in a fresh process")
            return self.evaluation(self._options_of_answers(), folder)

        answered = _kept(folder.path / _ANSWERED, answer)
        if folder.record()["status"] != "done":
            proof = [*trained.proof, *(Invariant(**one) for one in answered["proof"])]
            store_proof(folder, proof)
            result = self.described(folder, trained, proof) | {
                name: answered[name] for name in ("evaluation", "generation")
            }
            write_run_report(folder, trained.config, result, answers=answered["answers"])
            folder.finish(result)
        place = folder.path.relative_to(self.work.folder.path).as_posix()
        return SeedOutcome(place, trained.training, answered, _holds(trained, answered))

    def _options(self, seed: int) -> RunConfig:
        """Those of the first seed with every number as it was used, and another seed of training alone."""
        begun = load_config(RunConfig, {}, file=self.work.folder.config)
        update = {"seed": seed, "split_seed": begun.rows_seed, "seeds": 1, "output": None}
        # a resumed run may compute on other devices
        return begun.model_copy(update={**update, "devices": self.config.devices, "shard": self.config.shard})

    def _options_of_answers(self) -> RunConfig:
        """Base and tuned answer alone, and what is left of the base is the first seed's to say."""
        alone = {"arms": _COMPARED, "probes": 0, "retention": None, "instruction": None, "documents": None}
        return self.config.model_copy(update=alone)

    def _opened(self, place: int) -> RunFolder:
        """The folder of a further seed, with the rows beside the data's that the first seed was trained on."""
        path = self.work.folder.seeds / str(place)
        told: list[str] = []
        if self.parallel.is_first:
            folder = RunFolder.open(path) if (path / "run.json").exists() else RunFolder.at(
                path, kind=SEED_RUN, name=self.work.folder.name
            )  # fmt: skip
            for name in (passages_file, replay_file):
                source, target = name(self.work.folder), name(folder)
                if source.exists() and not target.exists():
                    write_atomically(target, source.read_bytes())
            told = [str(folder.path), folder.id, folder.kind, folder.name, folder.created_at]
        own, *rest = self.parallel.from_first(told)
        return RunFolder(Path(own), *rest)

    @contextmanager
    def _at_work(self, folder: RunFolder) -> Iterator[Workplace]:
        """A further seed's folder, locked, with its own files for events and the checkpoint that it goes on from."""
        if not self.parallel.is_first:
            yield Workplace(folder, self.listener, None)
            return
        with folder.lock():
            checkpoint, damaged = load_newest_checkpoint(folder.checkpoints)
            folder.start({})
            with RunRecorder.resume(folder, checkpoint.progress.step if checkpoint else 0) as written:
                told = Tee(written, self.listener)
                for path in damaged:
                    told.record(Event("note", {"text": f"a damaged checkpoint was set aside as {path}"}))
                yield Workplace(folder, told, checkpoint)

    def _kept_training(self, folder: Path, train: Callable[[], SftResult]) -> SftResult:
        path = folder / _TRAINED
        stored = self.parallel.from_first(_read(path) if self.parallel.is_first else None)
        if stored is not None:
            return _trained_from(stored)
        trained = train()
        if self.parallel.is_first:
            write_json(path, _trained_to_json(trained))
        return trained

    def _say(self, name: str, detail: str) -> None:
        if self.parallel.is_first:
            self.work.recorder.record(Event("stage", {"name": name, "detail": detail}))


def _require_same_rows(first: SftResult, loaded: LoadedData, held_out: LoadedData | None) -> None:
    sources = ((first.manifest["source"], loaded), (first.manifest.get("held_out_source"), held_out))
    changed = [data.source for then, data in sources if then and data and then["sha256"] != data.sha256]
    if changed:
        raise DataError(
            f"{' and '.join(changed)} changed since the first seed was trained",
            where="--seeds",
            why="seeds can be compared on the same rows alone",
            remedy="put the file back as it was, or begin the run anew",
        )


def _holds(trained: SftResult, answered: JsonDict) -> bool:
    return all(one.holds for one in trained.proof) and all(one["holds"] for one in answered["proof"])


def _kept(path: Path, make: Callable[[], JsonDict]) -> JsonDict:
    """What ``path`` holds; where it is not there yet, what ``make`` gives, kept."""
    found = _read(path)
    if found is None:
        found = make()
        # half of a surrogate pair, which an answer may hold and no encoding has, becomes an escape that JSON allows
        text = json.dumps(found, ensure_ascii=False, allow_nan=False)
        write_atomically(path, text.encode("utf-8", "backslashreplace"))
    return found


def _read(path: Path) -> JsonDict | None:
    try:
        found: JsonDict = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot be read: {error}", where=str(path), remedy="remove it: what it held is then done again"
        ) from error
    return found


def _trained_to_json(trained: SftResult) -> JsonDict:
    return {
        "base": trained.base,
        "data": trained.data,
        "training": trained.training,
        "manifest": trained.manifest,
        "proof": [invariant.to_json() for invariant in trained.proof],
        "template_hash": trained.template_hash,
        "config": trained.config.model_dump(mode="json", by_alias=True),
    }


def _trained_from(stored: JsonDict) -> SftResult:
    proof: Sequence[JsonDict] = stored["proof"]
    restored = {"proof": [Invariant(**one) for one in proof], "config": RunConfig.model_validate(stored["config"])}
    return SftResult(**{**stored, **restored})
