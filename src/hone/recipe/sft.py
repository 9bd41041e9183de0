"""Supervised fine-tuning, from rows to a saved adapter: the recipe behind ``hone train`` and ``hone run``.

Read it top to bottom: :func:`train_sft` is the whole job. What each part does stands in the layer it calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hone.config.schema import TrainConfig
from hone.data.loader import LoadedData
from hone.data.render import Renderer
from hone.engine.checkpoint import Checkpoint, checkpoint_bytes
from hone.engine.events import Event, Recorder
from hone.engine.loop import LoopResult, LoopSettings, train
from hone.engine.parallel import ALONE, Parallel
from hone.engine.sharding import shard_model
from hone.engine.step import mean_loss
from hone.evaluation.strength import StrengthChoice
from hone.files import require_free_space
from hone.model.adaptation import Adaptation
from hone.model.allocator import give_back_freed_memory, keep_freed_memory
from hone.model.forward import Forward
from hone.model.load import LoadedModel
from hone.model.recompute import recompute_enabled
from hone.planning.choose import TrainingChoices
from hone.proof.invariant import Invariant, require_all
from hone.proof.postflight import check_training, probe_sequences, write_probe
from hone.recipe.adapting import NewTokens
from hone.recipe.begin import begin_method
from hone.recipe.inference import training_path
from hone.recipe.method import Method, joined_proof
from hone.recipe.placement import memory_for_training
from hone.recipe.proving import check_before, probe_files
from hone.recipe.question_sets import QuestionSet
from hone.recipe.ready import get_ready
from hone.recipe.rows import PreparedRows
from hone.recipe.run_files import PROBE_FILE, describe_base, describe_data, describe_training, store_inputs, store_proof
from hone.recipe.starting import begin_adaptation, check_start, like_start, unlimited_renderer
from hone.recipe.strength import material_for_sweep, set_kept_strength
from hone.registry.runs import RunFolder
from hone.retrieval import PassageIndex
from hone.types import Example, JsonDict, Keep, TokenSequence

__all__ = ["SftResult", "train_sft"]

# Validations in a row that are not kept before the run stops; one may be chance.
_PATIENCE_EPOCHS = 2


@dataclass(frozen=True, slots=True)
class SftResult:
    """What training leaves behind, as the JSON objects of the result.

    Args:
        base: the model that was trained from.
        data: row counts.
        training: figures of the training.
        manifest: the data's hashes and splits.
        proof: the invariants checked so far.
        template_hash: of the chat template and how it is used.
        config: the options with every number resolved.
    """

    base: JsonDict
    data: JsonDict
    training: JsonDict
    manifest: JsonDict
    proof: list[Invariant]
    template_hash: str
    config: TrainConfig


@dataclass(frozen=True, slots=True)
class _Job:
    """What the parts of one training share."""

    config: TrainConfig
    base: LoadedModel
    renderer: Renderer
    rows: PreparedRows
    choices: TrainingChoices
    folder: RunFolder
    recorder: Recorder
    forward: Forward
    adaptation: Adaptation
    new_tokens: NewTokens | None
    parallel: Parallel

    def say(self, name: str, detail: str) -> None:
        self.recorder.record(Event("stage", {"name": name, "detail": detail}))


def train_sft(
    config: TrainConfig,
    loaded: LoadedData,
    *,
    folder: RunFolder,
    home: Path,
    recorder: Recorder,
    held_out_data: LoadedData | None = None,
    held_out: float | int | None = 0,
    keep: Keep = "off",
    questions: Sequence[QuestionSet] = (),
    documents: Callable[[], PassageIndex | None] = lambda: None,
    resume_from: Checkpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    parallel: Parallel = ALONE,
) -> SftResult:
    """Fine-tune an adapter on ``loaded`` and save it in ``folder``.

    Args:
        config: the options; what is None is chosen here.
        loaded: the training rows as read.
        folder: the run's folder; receives config, ledger, manifest, metrics, checkpoints, adapter and proof.
        home: hone's home folder.
        recorder: receives events.
        held_out_data: rows of the comparison, from a file of their own.
        held_out: rows to set aside for the comparison instead; 0 for none, None to choose.
        keep: how much general ability the strength may cost; ``off`` saves what was trained at full strength.
        questions: sets of general questions, which may cost strength too.
        documents: gives the index whose passages are put into training prompts, or None.
        resume_from: the checkpoint to go on from; None begins anew.
        should_stop: asked after each step.
        parallel: the processes that train together. Each reads everything; the first one alone writes.

    Raises:
        HoneError: as its parts do; nothing half-written is left.
    """
    config = like_start(config, home=home)
    if config.method not in (None, "sft"):
        keep = "off"  # the sweep judges the domain by one right answer a row
    ready = get_ready(
        config, loaded, held_out_data=held_out_data, held_out=held_out, documents=documents, folder=folder, home=home,
        parallel=parallel, recorder=recorder, resumed=resume_from is not None,
    )  # fmt: skip
    config, base, choices, place = ready.config, ready.base, ready.choices, ready.place
    rows, renderer, planned = ready.chosen.rows, ready.renderer, ready.planned
    if parallel.is_first:
        config = store_inputs(folder, config, rows, choices, base, resumed=resume_from is not None)
        ready.chosen.store(folder, base)

    base_facts = describe_base(base)
    adaptation = begin_adaptation(config, base, choices, ready.new_tokens, home=home)
    # two checkpoints are kept and a third is written before the oldest goes; then the adapter itself
    needed_bytes = 4 * checkpoint_bytes(adaptation.parameters())
    if parallel.is_first:
        require_free_space(folder.path, needed_bytes, "the run's checkpoints and adapter")
    # fast layers lay weights together, and FSDP wants each for itself
    forward, path = training_path(base.model, reference=config.reference_path, fast=not place.sharded)
    job = _Job(config, base, renderer, rows, choices, folder, recorder, forward, adaptation, ready.new_tokens, parallel)
    keep_freed_memory()
    material = material_for_sweep(
        keep, adaptation, base, renderer, questions=questions, home=home, parallel=parallel, sharded=place.sharded,
        recorder=recorder,
    )  # fmt: skip
    with path as fast_layers:
        before = _check_before(job, ready.chosen.replay.sequences, sharded=place.sharded, home=home)
        if place.sharded:
            job = _shard(job)
            base = job.base
        method = begin_method(
            config, base, rows, forward=job.forward, max_tokens=choices.micro_batch_tokens, home=home,
            recorder=planned.hearing(recorder) if planned else recorder, renderer=renderer, replay=ready.chosen.replay,
        )  # fmt: skip
        plain = "as the base is split" if place.sharded else "on the reference path"
        job.say("layers", fast_layers.describe() if fast_layers else f"the model's own, {plain}")
        where = f"{parallel.world_size} x {place.kind}" if parallel.world_size > 1 else base.device
        give_back_freed_memory()  # of the checks: their blocks fit none of training's
        job.say("training", f"{adaptation.summary}, {base.dtype} weights, {where}")
        started = time.perf_counter()
        result = _train(job, method, resume_from=resume_from, should_stop=should_stop)
        seconds = time.perf_counter() - started
        strength = set_kept_strength(
            keep, adaptation, material, rows.rendered(rows.validation), forward=job.forward, recorder=recorder,
            should_stop=should_stop, parallel=parallel,
        )  # fmt: skip
        after = _save(job, method, result, strength)
    proof = [*joined_proof(before, method.proof), after]
    if parallel.is_first:
        store_proof(folder, proof)
    return SftResult(
        base=base_facts,
        data=describe_data(rows),
        training=describe_training(config, result, base, adaptation, fast_layers, items=method.train)
        | {"devices": parallel.world_size, "sharded": place.sharded}
        | {"strength": strength.value, **ready.chosen.to_json()}
        | method.facts
        | {"plan": planned and planned.compare(result, seconds=seconds, grading_seconds=method.grading_seconds)},
        manifest=rows.manifest,
        proof=proof,
        template_hash=renderer.template_hash,
        config=config,
    )


def _check_before(job: _Job, beside: Sequence[TokenSequence], *, sharded: bool, home: Path) -> list[Invariant]:
    job.say("proof", "checking the rows and the model before training")
    alone = job.parallel.world_size == 1
    found = check_before(
        job.base, job.renderer, job.rows, adaptation=job.adaptation, choices=job.choices, forward=job.forward,
        free_bytes=None if alone else memory_for_training(job.parallel, job.base.device), sharded=sharded,
        beside=beside,
    )  # fmt: skip
    found = check_start(found, job.config, job.base, job.renderer, home=home, forward=job.forward)
    require_all(found)
    return found


def _shard(job: _Job) -> _Job:
    """The same job with the base split over the processes; each keeps the adapter whole."""
    model, parallel = job.base.model, job.parallel
    forward, parallel = shard_model(model, job.forward, parallel, replicated=list(job.adaptation.parameters().values()))
    base = replace(job.base, device=parallel.device or job.base.device)
    return replace(job, base=base, forward=forward, parallel=parallel)


def _train(job: _Job, method: Method, *, resume_from: Checkpoint | None, should_stop: Callable[[], bool]) -> LoopResult:
    config, choices, model = job.config, job.choices, job.base.model
    settings = LoopSettings(
        batch_size=choices.batch_size,
        epochs=choices.epochs,
        max_steps=config.max_steps,
        learning_rate=choices.learning_rate,
        warmup_share=choices.warmup_share,
        weight_decay=config.weight_decay,
        max_gradient_norm=config.max_gradient_norm,
        micro_batch_tokens=choices.micro_batch_tokens,
        seed=config.seed,
        evaluate_every_steps=method.steps_between_checkpoints(choices.batch_size),
        patience=_PATIENCE_EPOCHS if config.early_stop else None,
        save_every_steps=config.save_every_steps,
        keep_checkpoints=0 if config.save_every_steps else 2,
        tolerated_loss_rise=method.tolerated_loss_rise,
    )

    def validation_loss() -> float:
        held = method.collate(method.validation, max_tokens=choices.micro_batch_tokens)
        return mean_loss(model, held, forward=method.forward, objective=method.objective, parallel=job.parallel)

    model.eval()  # no dropout: a row's loss depends on the row alone
    parameters = {**job.adaptation.parameters(), **method.parameters}  # by their names outside of the block
    with recompute_enabled(model, choices.recompute_layers):
        return train(
            model,
            method.train,
            parameters=parameters,
            forward=method.forward,
            objective=method.objective,
            collate=method.collate,
            settings=settings,
            evaluate=validation_loss if method.validation else None,
            recorder=job.recorder,
            checkpoints=job.folder.checkpoints,
            resume_from=resume_from,
            should_stop=should_stop,
            rate_factors=job.adaptation.rate_factors(config.learning_rate_ratio),
            refresh=job.adaptation.refresh,
            parallel=job.parallel,
            around=method.around,
        )


def _save(job: _Job, method: Method, result: LoopResult, strength: StrengthChoice) -> Invariant:
    """Write adapter and probe; what a loader must know stands beside the adapter."""
    base, progress = job.base, result.progress
    moved = check_training(
        job.adaptation.parts(),
        smallest_gradient_norm=method.least_gradient_norm(progress),
        largest_gradient_norm=progress.largest_gradient_norm,
    )
    train_rows = job.rows.train
    sequences = job.rows.rendered(train_rows)
    notes = {
        # absolute where it is a path, so that the version answers from every working folder
        "base_name": str(base.source.path) if base.source.kind in ("folder", "gguf") else base.name,
        "base_hash": base.base_hash,
        # of a GGUF the base's hash says all: its tokenizer's files are of hone's own making
        "tokenizer_hash": base.tokenizer_hash if base.source.kind in ("folder", "hub") else None,
        "template": job.renderer.describe(),
        "longest_answer_tokens": max(sequence.num_supervised for sequence in sequences),
        "shape": job.rows.shape.to_json(),
        "reference_path": job.config.reference_path,
        # folded into lora_alpha already; divided by it, alpha is what it was in training
        "strength": strength.to_json(),
        "system_prompt": _common_system_prompt(train_rows),
        "method": job.config.method or "sft",
        **method.facts,
        **({} if job.new_tokens is None else {"added_tokens": job.new_tokens.texts}),
        **({} if job.config.quantize is None else {"quantize": job.config.quantize}),
    }
    # the probe goes first: it refuses a model that gives no numbers, and then there is no adapter to be taken for one
    probe = job.folder.path / PROBE_FILE if job.parallel.is_first else None
    write_probe(probe, base.model, probe_sequences(sequences), forward=job.forward)
    own = unlimited_renderer(base, job.renderer)
    files = probe_files(
        base.model, own, forward=job.forward, note=lambda text: job.recorder.record(Event("note", {"text": text}))
    )
    if job.parallel.is_first:
        job.adaptation.save(job.folder.adapter, tokenizer=base.tokenizer, base_name=base.name, notes=notes, files=files)
    return moved


def _common_system_prompt(examples: Sequence[Example]) -> str | None:
    """The system prompt that all rows share, which chat then uses by default; None where they differ or have none."""
    prompts = {example.messages[0].content if example.messages[0].role == "system" else None for example in examples}
    return prompts.pop() if len(prompts) == 1 else None
