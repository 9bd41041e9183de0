"""Answers for people to compare: several versions, several temperatures, no two alike from one of them.

Everybody answers the same prompts, with the same system message, at the same temperatures and with the same seeds, so
that what is compared is the versions and not their settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hone.config.rank import RankConfig
from hone.engine.events import Event, Recorder
from hone.errors import ConfigError, TemplateError
from hone.files import sha256_file
from hone.model.catalog import resolve_model
from hone.model.generate import SamplingSettings, generate
from hone.model.gguf import conversion_identity
from hone.model.hashing import cached_sha256, hash_of_files
from hone.model.hub import hub_folder
from hone.model.lora import adapter_disabled
from hone.model.model_folder import inspect_model_folder
from hone.model.sealed_folder import MANIFEST_NAME
from hone.recipe.finding import base_named, find_run, notes_of_run
from hone.recipe.inference import Answerer, load_answerer
from hone.registry.rankings import NewAnswer
from hone.registry.versions import MODEL_CARD
from hone.types import ArmName, JsonDict, Message

__all__ = ["Contender", "contenders_of", "sample_answers", "weights_of"]

Note = Callable[[str], None]

# Draws of one contender at one prompt, beyond which a second answer like the first is given up.
_MOST_ROUNDS = 4
_WARMER = 0.3
_NOBODY = "none"


@dataclass(frozen=True, slots=True)
class Contender:
    """Who answers.

    Args:
        name: as it stands in rankings: ``support@3``, a base's name, or a run's folder.
        reference: what is loaded.
        arm: ``base`` where the base behind ``reference`` answers.
        system: the system message that all rows of its training share; None where there is none.
        registered: whether a version is behind it, whose name is never given to other weights.
    """

    name: str
    reference: str
    arm: ArmName
    system: str | None
    registered: bool = False


def contenders_of(config: RankConfig, *, home: Path, note: Note) -> list[Contender]:
    """Who answers, the version first; nothing is loaded.

    Args:
        config: the options.
        home: hone's home folder.
        note: receives sentences for the user.

    Raises:
        VersionError: there is no such version or base.
        ConfigError: two are the same, one is a reward model, or ``n`` cannot be shared out evenly.
    """
    first = _contender(config.version, home, note)
    others: list[Contender] = []
    if config.against is None:
        if first.arm == "tuned":
            others = [_base_of(first, home, note)]
    elif config.against != (_NOBODY,):
        others = [_contender(reference, home, note) for reference in config.against]
    found = [first, *others]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"{' and '.join(names)} are not different", where="--against", remedy="name another version")
    if config.n % len(found):
        raise ConfigError(
            f"{config.n} answers cannot be shared out evenly among {' and '.join(names)}",
            where="--n",
            remedy=f"give a multiple of {len(found)}, as --n {len(found) * max(1, config.n // len(found))}",
        )
    return found


def weights_of(contender: Contender, *, home: Path) -> JsonDict:
    """What tells these weights from others of the same name; nothing is loaded.

    Args:
        contender: who.
        home: hone's home folder, where hashes of big files are remembered.

    Returns:
        ``base``: hash of the base, as versions have it; ``adapter``: of what was trained, None where the base answers.

    Raises:
        VersionError, ModelError: there is no such thing any more.
        StorageError: its files are missing or damaged.
    """
    version, folder = find_run(contender.reference, home, lambda _: None)
    if folder is None:
        return {"base": _hash_of_base(contender.name, home), "adapter": None}
    if version is not None:
        base, adapter = version.base_hash, version.adapter_sha256
    else:
        base, adapter = str(notes_of_run(folder)["base_hash"]), _hash_of_adapter(folder / "adapter", home)
    return {"base": base, "adapter": None if contender.arm == "base" else adapter}


def sample_answers(
    contender: Contender,
    prompts: Sequence[Sequence[Message]],
    count: int,
    config: RankConfig,
    *,
    home: Path,
    recorder: Recorder,
) -> list[list[NewAnswer]]:
    """What one contender answers: to each prompt ``count`` different texts, or fewer where it has no more to say.

    A text that was drawn before is drawn again, with another seed and 0.3 warmer, up to three times.

    Args:
        contender: who.
        prompts: turns, the last one the user's.
        count: answers to a prompt.
        config: the options.
        home: hone's home folder.
        recorder: receives events.

    Returns:
        The answers to each prompt; empty where the prompt does not fit or cannot be rendered.

    Raises:
        HoneError: the contender cannot be loaded, or is not what was registered.
    """
    recorder.record(Event("stage", {"name": "answers", "detail": f"loading {contender.name}"}))
    answerer = load_answerer(
        contender.reference, home=home, device=config.device, dtype=config.dtype,
        note=lambda text: recorder.record(Event("note", {"text": text})),
    )  # fmt: skip
    found: list[list[NewAnswer]] = [[] for _ in prompts]
    rendered = _rendered(answerer, contender.arm, prompts, config.max_new_tokens, recorder)
    with _switched(answerer, contender.arm):
        for place in range(count):
            waiting = list(rendered)
            temperature = config.temperatures[place % len(config.temperatures)]
            for attempt in range(_MOST_ROUNDS):
                # the base and a version must draw alike, so that they differ by what was trained alone
                seed = (config.seed * 1000 + place * _MOST_ROUNDS + attempt) % 2**32
                settings = SamplingSettings(config.max_new_tokens, temperature, seed=seed)
                drawn = _drawn(answerer, contender, [rendered[at] for at in waiting], settings, recorder)
                for at, answer in zip(waiting, drawn, strict=True):
                    if answer.text not in {one.text for one in found[at]}:
                        found[at].append(answer)
                waiting = [at for at in waiting if len(found[at]) <= place]
                temperature += _WARMER
                if not waiting:
                    break
    return found


def _contender(reference: str, home: Path, note: Note) -> Contender:
    version, folder = find_run(reference, home, note)
    if folder is None:
        # a folder is named as a version names it as its base
        name = str(Path(reference).absolute()) if Path(reference).is_dir() else base_named(home, reference)
        return Contender(name, reference, "base", None)
    notes = notes_of_run(folder)
    name = version.reference if version else folder.name
    if notes.get("method") == "reward":
        raise ConfigError(
            f"{name} is a reward model: it scores answers, and writes none", remedy="name a version that answers"
        )
    reference = version.reference if version else str(folder)
    return Contender(name, reference, "tuned", notes.get("system_prompt"), registered=version is not None)


def _base_of(contender: Contender, home: Path, note: Note) -> Contender:
    _, folder = find_run(contender.reference, home, note)
    assert folder is not None, "only what was tuned has a base behind it"
    name = str(notes_of_run(folder)["base_name"])
    return Contender(name, contender.reference, "base", None, registered=contender.registered)


def _hash_of_base(name: str, home: Path) -> str:
    """The hash that the base has when it is loaded."""
    source = resolve_model(name, home=home)
    if source.path is not None and source.kind in ("gguf", "embedded"):
        return conversion_identity(cached_sha256(source.path, home=home))
    folder = source.path or hub_folder(source.name)
    weights = inspect_model_folder(folder, name=source.name).weight_files
    return hash_of_files((folder / "config.json", *weights), home=home)


def _hash_of_adapter(folder: Path, home: Path) -> str:
    """The hash of the manifest, which has the sums of all files; of the files where an older run has none."""
    if (folder / MANIFEST_NAME).is_file():
        return sha256_file(folder / MANIFEST_NAME)
    return hash_of_files((one for one in folder.iterdir() if one.is_file() and one.name != MODEL_CARD), home=home)


def _rendered(
    answerer: Answerer, arm: ArmName, prompts: Sequence[Sequence[Message]], most_tokens: int, recorder: Recorder
) -> dict[int, tuple[int, ...]]:
    """Token ids by the prompt's place; what cannot be asked is left out, and said."""
    found = {}
    for place, messages in enumerate(prompts):
        try:
            ids = answerer.prompt(messages, arm=arm)
        except TemplateError as fault:
            recorder.record(Event("note", {"text": f"prompt {place + 1} is left out: {fault.what}"}))
            continue
        if len(ids) + most_tokens > answerer.base.context_length:
            text = f"prompt {place + 1} is left out: {len(ids)} tokens and {most_tokens} for the answer are more than "
            recorder.record(
                Event("note", {"text": f"{text}the {answerer.base.context_length} that {answerer.name} can see"})
            )
            continue
        found[place] = ids
    return found


def _drawn(
    answerer: Answerer,
    contender: Contender,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
    recorder: Recorder,
) -> list[NewAnswer]:
    task = f"{contender.name} at temperature {settings.temperature:g}"

    def on_done(done: int) -> None:
        recorder.record(Event("progress", {"task": task, "done": done, "total": len(prompts)}))

    drawn = generate(
        answerer.base.model,
        prompts,
        stop_ids=answerer.renderer_of(contender.arm).stop_ids,
        settings=settings,
        on_done=on_done,
    )
    details = {"temperature": round(settings.temperature, 3), "seed": settings.seed}
    return [
        NewAnswer(
            answerer.text(one.ids).strip(), contender.name, {**details, "stopped": one.stopped, "tokens": len(one.ids)}
        )
        for one in drawn
    ]


def _switched(answerer: Answerer, arm: ArmName) -> AbstractContextManager[None]:
    return adapter_disabled(answerer.base.model) if arm == "base" and answerer.is_tuned else nullcontext()
