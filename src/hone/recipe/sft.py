"""Supervised fine-tuning, from rows to a saved adapter: the recipe behind ``hone train`` and ``hone run``.

Read it top to bottom: :func:`train_sft` is the whole job. What each part does stands in the layer it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hone.config.load import dump_resolved
from hone.config.schema import TrainConfig
from hone.data.formats import example_to_openai
from hone.data.loader import LoadedData
from hone.data.render import Renderer, ensure_chat_template, has_reasoning
from hone.engine.checkpoint import load_newest_checkpoint
from hone.engine.events import Event, Recorder
from hone.engine.loop import LoopResult, LoopSettings, micro_batches, train
from hone.engine.step import mean_loss
from hone.errors import ConfigError
from hone.files import write_atomically, write_json
from hone.model.adapter_files import save_adapter
from hone.model.attention import packed_attention_enabled, supports_packing
from hone.model.forward import Forward, packed_logits, padded_logits
from hone.model.load import LoadedModel, load_base
from hone.model.lora import adapter_parameters, attach_adapter
from hone.model.machine import available_memory_bytes, peak_memory_bytes
from hone.objective.supervised import supervised_loss
from hone.planning.choose import TrainingChoices, choose_training
from hone.proof.invariant import Invariant, require_all
from hone.proof.postflight import check_training, probe_sequences, write_probe
from hone.proof.preflight import check_model, check_rows
from hone.recipe.rows import PreparedRows, prepare_rows
from hone.registry.runs import RunFolder
from hone.types import JsonDict, TokenSequence

__all__ = ["SftResult", "train_sft"]

PROBE_FILE = "probe.safetensors"
HELD_OUT_FILE = "held_out.jsonl"


@dataclass(frozen=True, slots=True)
class SftResult:
    """What training leaves behind, as the JSON objects of the result.

    Args:
        base: the model that was trained from.
        data: row counts.
        training: figures of the training.
        manifest: the data's hashes and splits.
        proof: invariants checked so far.
        template_hash: of the chat template and how it is used.
    """

    base: JsonDict
    data: JsonDict
    training: JsonDict
    manifest: JsonDict
    proof: list[Invariant]
    template_hash: str


def train_sft(
    config: TrainConfig,
    loaded: LoadedData,
    *,
    folder: RunFolder,
    home: Path,
    recorder: Recorder,
    held_out_data: LoadedData | None = None,
    held_out: float | int | None = 0,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
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
        resume: go on from the newest checkpoint of ``folder``.
        should_stop: asked after each step.

    Raises:
        HoneError: as its parts do; nothing half-written is left.
    """

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    recorder.record(Event("stage", {"name": "model", "detail": config.model}))
    base = load_base(config.model, home=home, device=config.device, dtype=config.dtype, note=note)
    renderer = _renderer(base, loaded, max_length=config.max_length, note=note)

    recorder.record(Event("stage", {"name": "data", "detail": loaded.source}))
    rows = prepare_rows(
        loaded, renderer, held_out_data=held_out_data, held_out=held_out, validation=config.validation,
        seed=config.seed, note=note,
    )  # fmt: skip
    sequences, validation = rows.rendered(rows.train), rows.rendered(rows.validation)
    choices = _choices(config, base, sequences + validation)
    _store_inputs(folder, config, rows, choices)
    for choice in choices.choices:
        note(f"{choice.name} {choice.value:g}: {choice.reason}")

    names = attach_adapter(base.model, rank=choices.rank, alpha=choices.alpha, seed=config.seed)
    forward, attention = _path(base)
    with attention:
        recorder.record(Event("stage", {"name": "proof", "detail": "before training"}))
        before = check_rows(
            rows.train, rows.held_out, sequences, renderer, bos_id=base.tokenizer.bos_token_id
        ) + check_model(base.model, sequences, forward=forward)
        require_all(before)
        recorder.record(Event("stage", {"name": "training", "detail": f"LoRA on {len(names)} linear layers"}))
        result = _train(
            config, base, choices, sequences, validation, forward=forward, folder=folder, recorder=recorder,
            resume=resume, should_stop=should_stop,
        )  # fmt: skip
        moved = check_training(
            base.model,
            smallest_gradient_norm=result.progress.smallest_gradient_norm,
            largest_gradient_norm=result.progress.largest_gradient_norm,
        )
        proof = [*before, moved]
        answer_tokens = max(sequence.num_supervised for sequence in sequences)
        _save(folder, base, renderer, config, longest_answer_tokens=answer_tokens)
        write_probe(folder.path / PROBE_FILE, base.model, probe_sequences(sequences), forward=forward)
    write_json(folder.proof, [invariant.to_json() for invariant in proof])
    return SftResult(
        base=_describe_base(base),
        data=_describe_data(rows),
        training=_describe_training(choices, result, len(names)),
        manifest=rows.manifest,
        proof=proof,
        template_hash=renderer.template_hash,
    )


def _renderer(
    base: LoadedModel, loaded: LoadedData, *, max_length: int | None, note: Callable[[str], None]
) -> Renderer:
    fallback = ensure_chat_template(base.tokenizer)
    if fallback:
        note(fallback)
    if max_length is not None and max_length > base.context_length:
        raise ConfigError(
            f"max_length {max_length} is over the {base.context_length} tokens that {base.name} was trained to see",
            where="--max-length",
            remedy=f"use at most {base.context_length}",
        )
    return Renderer(
        base.tokenizer,
        max_length=max_length or base.context_length,
        thinking=has_reasoning(loaded.examples),
        extra_stop_ids=base.generation_stop_ids,
    )


def _choices(config: TrainConfig, base: LoadedModel, sequences: Sequence[TokenSequence]) -> TrainingChoices:
    shape = base.model.config.get_text_config()
    return choose_training(
        num_parameters=sum(parameter.numel() for parameter in base.model.parameters()),
        num_layers=shape.num_hidden_layers,
        width=shape.hidden_size,
        row_lengths=[len(sequence.ids) for sequence in sequences],
        context_length=base.context_length,
        available_bytes=available_memory_bytes(base.device),
        bytes_per_value=base.model.dtype.itemsize,
        rank=config.rank,
        alpha=config.alpha,
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_length=config.max_length,
        micro_batch_tokens=config.micro_batch_tokens,
    )


def _path(base: LoadedModel) -> tuple[Forward, AbstractContextManager[None]]:
    if supports_packing(base.model):
        return packed_logits, packed_attention_enabled(base.model)
    return padded_logits, nullcontext()


def _train(
    config: TrainConfig,
    base: LoadedModel,
    choices: TrainingChoices,
    sequences: Sequence[TokenSequence],
    validation: Sequence[TokenSequence],
    *,
    forward: Forward,
    folder: RunFolder,
    recorder: Recorder,
    resume: bool,
    should_stop: Callable[[], bool],
) -> LoopResult:
    steps_per_epoch = -(-len(sequences) // choices.batch_size)
    settings = LoopSettings(
        batch_size=choices.batch_size,
        epochs=choices.epochs,
        max_steps=config.max_steps,
        learning_rate=choices.learning_rate,
        warmup_share=0.1 if config.warmup_share is None else config.warmup_share,
        weight_decay=config.weight_decay,
        max_gradient_norm=config.max_gradient_norm,
        micro_batch_tokens=choices.micro_batch_tokens,
        seed=config.seed,
        evaluate_every_steps=steps_per_epoch,
        patience=2 if config.early_stop else None,
        save_every_steps=config.save_every_steps,
        keep_checkpoints=0 if config.save_every_steps else 2,
    )
    held = micro_batches(validation, max_tokens=choices.micro_batch_tokens) if validation else None
    checkpoint, damaged = load_newest_checkpoint(folder.checkpoints) if resume else (None, [])
    for path in damaged:
        recorder.record(Event("note", {"text": f"{path.name} is damaged and was set aside; the one before it is used"}))
    base.model.eval()  # no dropout: LoRA on few rows trains best without, and a row's loss depends on the row alone
    return train(
        base.model,
        sequences,
        parameters=adapter_parameters(base.model),
        forward=forward,
        objective=supervised_loss,
        settings=settings,
        evaluate=None if held is None else lambda: mean_loss(base.model, held, forward=forward, objective=supervised_loss),
        recorder=recorder,
        checkpoints=folder.checkpoints,
        resume_from=checkpoint,
        should_stop=should_stop,
    )
