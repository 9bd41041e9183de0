"""``hone proof``: the invariants that come before a training, alone; or a finished one's, measured again.

What cannot be measured again keeps the figure of its run, and the reason is said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hone.config.load import load_config
from hone.config.proof import ProofConfig
from hone.config.schema import RunConfig, TrainConfig
from hone.data.answers import AnswerRenderer
from hone.engine.events import Event, Recorder
from hone.engine.parallel import ALONE
from hone.errors import ConfigError, DataError, StorageError
from hone.files import sha256_file
from hone.model.low_rank import LowRankAdaptation
from hone.planning.shape import shape_of
from hone.proof.invariant import Invariant
from hone.proof.memory import check_memory
from hone.proof.postflight import check_training
from hone.proof.preflight import check_model
from hone.proof.rows import check_rows
from hone.recipe.adapting import attach_method, free_bytes, load_base_as, require_memory
from hone.recipe.inference import Answerer, load_answerer, make_renderer, training_path
from hone.recipe.method import choose_method, is_policy_method, load_for, load_rows
from hone.recipe.placement import memory_for_training
from hone.recipe.planner import choose_numbers
from hone.recipe.proving import check_before
from hone.recipe.reproving import measure_merged, measure_reloaded
from hone.recipe.rows import prepare_rows, render_rows
from hone.recipe.run_files import held_out_file
from hone.registry.runs import SEED_RUN, RunFolder
from hone.types import Example, JsonDict

__all__ = ["ProofResult", "prove"]

_FROM_ROWS = (1, 2, 3, 4, 5, 7, 8)
_NEVER_AGAIN = {
    6: "the adapter is no longer at its start",
    12: "`hone evaluate` lets it answer the held-out rows again",
}


@dataclass(frozen=True, slots=True)
class ProofResult:
    """What was measured.

    Args:
        name: the version, run or base that it was measured on.
        proof: the invariants by number: measured now, or as the run has stored them.
        as_stored: why some are not measured now, by number; those that nobody measured are not in ``proof``.
    """

    name: str
    proof: list[Invariant]
    as_stored: dict[int, str]

    def to_json(self) -> JsonDict:
        """As ``hone proof --json`` prints it."""
        return {
            "schema": 1,
            "name": self.name,
            "holds": all(invariant.holds for invariant in self.proof),
            "proof": [one.to_json() | {"measured_now": one.number not in self.as_stored} for one in self.proof],
            "not_measured_now": [{"number": number, "reason": why} for number, why in sorted(self.as_stored.items())],
        }


def prove(config: ProofConfig, *, home: Path, recorder: Recorder) -> ProofResult:
    """Measure the invariants of a version or run again, or those before a training on rows and a base.

    Args:
        config: which.
        home: hone's home folder.
        recorder: receives events.

    Raises:
        ConfigError: neither a version nor rows are named, or both.
        HoneError: as the loading of either does.
    """
    if (config.version is None) == (config.data is None):
        raise ConfigError(
            "name either a version or run, or rows with --data",
            where="VERSION",
            remedy="hone proof support   or   hone proof --data examples.jsonl --model MODEL",
        )
    return _before(config, home, recorder) if config.version is None else _again(config, home, recorder)


def _before(config: ProofConfig, home: Path, recorder: Recorder) -> ProofResult:
    """Invariants 1 to 8, as ``hone run`` would measure them; nothing is trained, and no run is made."""

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    asked = RunConfig.model_validate(config.model_dump(exclude={"version"}, exclude_none=True))
    recorder.record(Event("stage", {"name": "model", "detail": f"loading {asked.model}"}))
    loaded = load_rows(asked, asked.data)
    asked = asked.model_copy(update={"method": choose_method(asked, loaded)})
    aside = None
    if asked.evaluation_data:
        aside = load_rows(asked, asked.evaluation_data, preferences=loaded.are_preferences)
    base = load_base_as(asked.model, quantize=None, home=home, device=asked.device, dtype=asked.dtype, note=note)
    renderer = make_renderer(base, loaded.examples, max_length=asked.max_length, note=note)
    rows = prepare_rows(
        loaded,
        AnswerRenderer(renderer),
        held_out_data=aside,
        held_out=None,
        validation=None,
        seed=asked.rows_seed,
        note=note,
    )
    available = memory_for_training(ALONE, base.device)
    choices = choose_numbers(
        asked, shape_of(base.model, context_length=base.context_length), rows.computed(rows.train + rows.validation),
        free_bytes=free_bytes(asked, base, available), bytes_per_value=base.model.dtype.itemsize,
        has_validation=bool(rows.validation), answers=rows.shape.kind, on_card=base.on_card,
    )  # fmt: skip
    require_memory(asked, base, choices, available)
    adaptation = attach_method(asked, base, choices, None, home=home)
    forward, path = training_path(base.model, reference=asked.reference_path)
    recorder.record(Event("stage", {"name": "proof", "detail": f"{len(rows.train)} rows, {adaptation.summary}"}))
    with path:
        proof = check_before(
            base, renderer, rows, adaptation=adaptation, choices=choices, forward=forward, free_bytes=None
        )
    return ProofResult(f"{Path(asked.data).name} with {base.name}", proof, {})


def _again(config: ProofConfig, home: Path, recorder: Recorder) -> ProofResult:
    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    assert config.version is not None
    recorder.record(Event("stage", {"name": "model", "detail": f"loading {config.version}"}))
    answerer = load_answerer(
        config.version, home=home, device=config.device, dtype=config.dtype, note=note, refuse_changed=False
    )
    if answerer.run_folder is None:
        raise ConfigError(
            f"{answerer.name} is a base: it carries no proof",
            where="VERSION",
            remedy="check rows with it: hone proof --data examples.jsonl --model " + answerer.name,
        )
    run = RunFolder.open(answerer.run_folder)
    recorder.record(Event("stage", {"name": "proof", "detail": "measuring again what can be"}))
    why = dict(_NEVER_AGAIN)
    found = measure_reloaded(answerer)
    if not found:
        why[10] = "no probe is stored with it"
    try:
        found += _on_rows(answerer, run)
    except (ConfigError, DataError, StorageError) as error:
        why |= dict.fromkeys(_FROM_ROWS, f"the training rows are not as they were: {error.render()}")
    moved = _training(answerer, run)
    found += moved
    if not moved:
        why[9] = "the figures of the steps are gone (metrics.jsonl), or what moved cannot be told from the files"
    merged = measure_merged(answerer)  # last, because merging makes the model a plain one
    if not merged:
        why[11] = "it cannot be merged, or no probe is stored with it"
    found += merged
    now = {invariant.number: invariant for invariant in found}
    stored = {invariant.number: invariant for invariant in _stored(answerer, run)}
    as_stored = {number: reason for number, reason in why.items() if number not in now}
    as_stored |= {number: "not measured again for this kind of training" for number in stored.keys() - now.keys()
                  if number not in as_stored}  # fmt: skip
    proof = [now.get(number) or stored[number] for number in sorted(stored.keys() | now.keys())]
    return ProofResult(answerer.name, proof, as_stored)


def _on_rows(answerer: Answerer, run: RunFolder) -> list[Invariant]:
    """Invariants 1 to 5, 7 and 8 on the rows of the run, where its file is still what it was.

    Raises:
        StorageError: it is not, or the run's own files cannot be read.
        ConfigError, DataError: they cannot be read as rows.
    """
    config_class: type[TrainConfig] = RunConfig if run.kind in ("run", SEED_RUN) else TrainConfig
    config = load_config(config_class, {}, file=run.config)
    manifest = json.loads(run.manifest.read_text(encoding="utf-8")) if run.manifest.exists() else None
    if manifest is None or not Path(config.data).is_file():
        raise StorageError("is not there any more", where=config.data)
    if sha256_file(Path(config.data)) != manifest["source"]["sha256"]:
        raise StorageError("has changed since the run", where=config.data)
    loaded = load_rows(config, config.data)
    numbers = {one["row"] for part in ("train", "validation") for one in manifest[part]}
    wanted = [example for example in loaded.examples if example.row in numbers]
    thinking = bool(answerer.notes["template"]["thinking"])
    renderer = make_renderer(
        answerer.base, (), max_length=config.max_length, note=lambda _text: None, thinking=thinking
    )
    examples, by_row = render_rows(wanted, AnswerRenderer(renderer), loaded.ledger)
    sequences = [sequence for example in examples for sequence in by_row[example.row]]
    found = check_rows(
        examples, _held_out(run, config.method), sequences, renderer, bos_id=answerer.base.tokenizer.bos_token_id
    )
    model, adaptation = answerer.base.model, answerer.adaptation
    parameters = adaptation.parameters() if adaptation is not None else {}
    if not parameters or not found[0].holds:
        return found
    forward, path = training_path(model, reference=answerer.reference_path)
    with path:
        computed = check_model(model, sequences, parameters=parameters, forward=forward)
        found += [one for one in computed if one.number not in _NEVER_AGAIN]
        if config.batch_size and config.micro_batch_tokens:
            found.append(
                check_memory(
                    model, sequences, parameters=parameters, forward=forward, batch_size=config.batch_size,
                    micro_batch_tokens=config.micro_batch_tokens,
                )
            )  # fmt: skip
    return found


def _held_out(run: RunFolder, method: str | None) -> Sequence[Example]:
    path = held_out_file(run)
    if not path.exists():
        return ()
    return [replace(one, source="held_out.jsonl") for one in load_for(method, str(path)).examples]


def _training(answerer: Answerer, run: RunFolder) -> list[Invariant]:
    """Invariant 9, from what stands in the files: the gradients of all steps, and what differs from the base."""
    adaptation = answerer.adaptation
    # of other methods the files do not hold where they began
    if not isinstance(adaptation, LowRankAdaptation) or not run.metrics.exists():
        return []
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines() if line.strip()]
    norms = [line["gradient_norm"] for line in lines if line["event"] == "step"]
    if not norms:
        return []
    # of rollouts whose rewards are alike there is nothing to learn, and a step without a gradient is no fault
    least = max(norms) if is_policy_method(answerer.notes.get("method")) else min(norms)
    return [check_training(adaptation.parts(), smallest_gradient_norm=least, largest_gradient_norm=max(norms))]


def _stored(answerer: Answerer, run: RunFolder) -> list[Invariant]:
    if answerer.version is not None and answerer.version.proof is not None:
        return [Invariant(**one) for one in answerer.version.proof]
    if not run.proof.exists():
        return []
    return [Invariant(**one) for one in json.loads(run.proof.read_text(encoding="utf-8"))]
