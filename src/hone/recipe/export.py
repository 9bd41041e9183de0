"""Export: a version as files for another program, which count only where that program gives the same answers.

One flat job: gate, load, answer the prompts as hone does, write, read back in the format's own runtime, compare. The
folder takes its name when all of that has passed; a refused export leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch

from hone import __version__
from hone.engine.events import Event, Recorder
from hone.errors import ConfigError, ProofError
from hone.files import atomic_folder, require_free_space, sha256_file, write_json
from hone.model.gguf_write import GGUF_WEIGHTS
from hone.proof.exported import ExportCheck
from hone.proof.invariant import described
from hone.recipe.export_check import ExportPrompts, WrittenExport, check_files, make_prompts
from hone.recipe.export_files import EXPORT_FILE, ExportJob, write_export
from hone.recipe.export_scores import GivenAnswer, ScoreCheck, check_scores, refuse_unscored, scored_answers
from hone.recipe.inference import load_answerer
from hone.registry.proven import require_proven
from hone.registry.versions import Version, resolve_version
from hone.types import JsonDict

__all__ = ["EXPORT_FORMATS", "ExportResult", "check_request", "export_version"]

EXPORT_FORMATS = ("peft", "merged", "gguf", "ollama", "vllm")
"""What ``--to`` takes."""

_WEIGHTS: dict[str, tuple[str, ...]] = {
    "peft": (), "vllm": (), "merged": ("float32", "bfloat16", "float16"), "gguf": GGUF_WEIGHTS, "ollama": GGUF_WEIGHTS,
}  # fmt: skip
_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "f16": 2.0, "q8_0": 1.1, "q4_1": 0.8, "q4_0": 0.8}
_SPARE_BYTES = 64_000_000  # tokenizer, cards, and an adapter's files


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An export that was written.

    Args:
        version: as ``support@3``.
        target: the format.
        weights: how they are stored.
        folder: where it lies.
        files: SHA-256 of each file by name.
        checks: how it compares, one a runtime.
        not_checked: (runtime, reason) of each in which it could not be compared.
        notes: what the user should know of this export.
        status: ``proven`` where every check holds and the version is; else ``unproven``.
        scores: how a reward model compares, which has no ``checks``; None of other versions, or where it was not.
    """

    version: str
    target: str
    weights: str
    folder: Path
    files: dict[str, str]
    checks: tuple[ExportCheck, ...]
    not_checked: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    status: str
    scores: ScoreCheck | None = None

    def to_json(self) -> JsonDict:
        """As ``--json`` prints it; ``export.json`` holds the same without ``folder``, and more of the version."""
        return {
            "schema": 1,
            "version": self.version,
            "format": self.target,
            "weights": self.weights,
            "status": self.status,
            "folder": str(self.folder),
            "files": self.files,
            "checks": [check.to_json() for check in _all_checks(self.checks, self.scores)],
            "not_checked": [{"runtime": runtime, "reason": reason} for runtime, reason in self.not_checked],
            "notes": list(self.notes),
        }


class _Base(NamedTuple):
    """What the read-back needs to know of the base."""

    name: str
    folder: Path
    device: str


def check_request(target: str, weights: str | None) -> None:
    """Refuse a format or a kind of weights that does not exist, before anything is loaded.

    Raises:
        ConfigError: it does not; the message lists those that do.
    """
    if target not in EXPORT_FORMATS:
        raise ConfigError(f"{target!r} is no format", where="--to", remedy=f"give one of {', '.join(EXPORT_FORMATS)}")
    known = _WEIGHTS[target]
    if weights is not None and weights not in known:
        remedy = f"give one of {', '.join(known)}" if known else "leave it out: an adapter is stored as it was trained"
        raise ConfigError(f"{target} does not store weights as {weights!r}", where="--weights", remedy=remedy)


def export_version(
    reference: str,
    *,
    target: str,
    out: Path,
    weights: str | None = None,
    accept_unproven: bool = False,
    known_as: str | None = None,
    home: Path,
    recorder: Recorder,
) -> ExportResult:
    """Write a version in a format, and hold the files against it in the format's own runtimes.

    Args:
        reference: the version, as ``support@3``.
        target: one of :data:`EXPORT_FORMATS`.
        out: the folder to make; it must not exist.
        weights: how they are stored: ``float32``, ``bfloat16`` or ``float16`` for merged (as the base's unless given);
            ``f16`` (unless given), ``q8_0``, ``q4_1`` or ``q4_0`` for gguf and ollama.
        accept_unproven: whether an unproven version, or files that fail, are written all the same.
        known_as: how the files' readers name the folder where it leaves this machine, as a repository of the hub.
        home: hone's home folder.
        recorder: hears stages and notes.

    Raises:
        ConfigError: the request makes no sense, or ``out`` is there already.
        VersionError, StorageError: there is no such version; its files are damaged; or no space.
        ProofError: the version is unproven, or a runtime gives other answers; the first token that differs is named.
        ModelError, TemplateError: the model, its tokenizer or its template cannot be written in this format, as a
            reward model in none but peft.
    """
    check_request(target, weights)
    if out.exists():
        raise ConfigError(f"{out} is there already", where="--out", remedy="name a folder that is not there yet")
    version = resolve_version(home, reference)
    refuse_unscored(version, target)
    notes = [f"{version.reference} is unproven: {failed}"
             for failed in require_proven(version, accept_unproven=accept_unproven, action="export")]  # fmt: skip

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    with atomic_folder(out) as temporary:
        job = _begin(version, temporary, target, weights, known_as or str(out.absolute()), home, recorder, note)
        job = replace(job, is_local=known_as is None)
        recorder.record(Event("stage", {"name": "write", "detail": f"{target} in {out}"}))
        written = write_export(job, home=home)
        prompts, given, loaded = job.prompts, job.given, job.answerer.base
        base = _Base(loaded.name, loaded.folder, loaded.device)
        del job, loaded  # the read-back needs the memory of its model
        recorder.record(Event("stage", {"name": "proof", "detail": "reading it back in its own runtime"}))
        checks, scores, not_checked = _read_back(temporary, written, prompts, given, base, home, note)
        held = _refuse_failed(_all_checks(checks, scores), accept_unproven=accept_unproven, note=note)
        result = ExportResult(
            version.reference, target, written.weights, out.absolute(), _sums(temporary), tuple(checks),
            tuple(not_checked), (*notes, *prompts.notes, *written.notes),
            "proven" if held and version.status == "proven" else "unproven", scores,
        )  # fmt: skip
        write_json(temporary / EXPORT_FILE, _stored(result, version, prompts, given))
    return result


def _begin(
    version: Version,
    folder: Path,
    target: str,
    weights: str | None,
    place: str,
    home: Path,
    recorder: Recorder,
    note: Callable[[str], None],
) -> ExportJob:
    """Load the version in float32, see that there is room, and answer the prompts."""
    recorder.record(Event("stage", {"name": "model", "detail": f"loading {version.reference} in float32"}))
    answerer = load_answerer(version.reference, home=home, dtype="float32", note=note)
    num_values = sum(parameter.numel() for parameter in answerer.base.model.parameters())
    needed_bytes = round(num_values * _BYTES[weights or "float32"]) if _WEIGHTS[target] else 0
    require_free_space(folder, needed_bytes + _SPARE_BYTES, f"the export of {version.reference}")
    prompts = make_prompts(answerer)
    given = scored_answers(answerer) if answerer.scores_answers else []
    counted = (
        f"{len(given)} given ones, scored by hone" if given else f"of {len(prompts.references)} prompts, as hone gives"
    )
    recorder.record(Event("stage", {"name": "answers", "detail": counted}))
    return ExportJob(version, answerer, prompts, folder, target, weights, place, is_local=True, given=tuple(given))


def _read_back(
    folder: Path,
    written: WrittenExport,
    prompts: ExportPrompts,
    given: Sequence[GivenAnswer],
    base: _Base,
    home: Path,
    note: Callable[[str], None],
) -> tuple[list[ExportCheck], ScoreCheck | None, list[tuple[str, str]]]:
    """How the files compare in their own runtimes: by answers, or by the scores of given ones."""
    if not given:
        checks, missing = check_files(
            folder, written, prompts, base_name=base.name, device=base.device, home=home, note=note
        )
        return checks, None, missing
    scores, missing = check_scores(folder, written, given, base_folder=base.folder, device=base.device)
    if scores is not None and scores.invariant.holds:
        note(f"proof: {scores.runtime} gives {scores.answers} answers the scores that hone gives, at most "
             f"{scores.difference:.2g} apart")  # fmt: skip
    return [], scores, missing


def _all_checks(checks: Sequence[ExportCheck], scores: ScoreCheck | None) -> list[ExportCheck | ScoreCheck]:
    return [*checks] if scores is None else [*checks, scores]


def _refuse_failed(
    checks: Sequence[ExportCheck | ScoreCheck], *, accept_unproven: bool, note: Callable[[str], None]
) -> bool:
    """Refuse files of which a check does not hold; else whether there was one, and all hold."""
    failed = [described(check.invariant) for check in checks if not check.invariant.holds]
    if failed and not accept_unproven:
        raise ProofError(
            "the exported files do not give the version's answers; nothing was written",
            why="who uses them would get answers that nobody has measured",
            details=failed,
            remedy="; ".join(dict.fromkeys(check.invariant.remedy for check in checks if not check.invariant.holds))
            + "; --unproven writes them all the same",
        )
    for text in failed:
        note(f"written all the same: {text}")
    return bool(checks) and not failed


def _sums(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def _stored(result: ExportResult, version: Version, prompts: ExportPrompts, given: Sequence[GivenAnswer]) -> JsonDict:
    """The record beside the files: of what they were made, and how they compare."""
    stored = {key: value for key, value in result.to_json().items() if key != "folder"}
    return {
        **stored,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hone_version": __version__,
        "torch_version": torch.__version__,
        "base": {"name": version.base_name, "hash": version.base_hash},
        "adapter_sha256": version.adapter_sha256,
        "template_hash": version.template_hash,
        "system_prompt": prompts.system_prompt,
        "stop_tokens": list(prompts.stop_texts),
        "answers": [
            *(one.to_json() for one in given),
            *(
                {"prompt": one.name, "prompt_tokens": len(one.prompt_ids), "answer_ids": list(one.answer_ids)}
                for one in prompts.references
            ),
        ],
    }
