"""From a name to something that answers: a base, a version, an alias or a run's folder, made ready and checked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from hone.data.render import Renderer, ensure_chat_template, has_reasoning
from hone.errors import ConfigError, ModelError, ProofError, StorageError
from hone.model.adaptation import Adaptation, load_adaptation
from hone.model.adapter_files import NOTES_FILE
from hone.model.added_tokens import add_tokens
from hone.model.attention import attention_in_words, packed_attention_enabled, supports_packing
from hone.model.fast_layers import FastLayers, fast_layers_enabled
from hone.model.forward import Forward, packed_logprobs, padded_logprobs
from hone.model.fused_lora import fuse_adapted_layers
from hone.model.load import LoadedModel
from hone.model.lora_files import read_json_object
from hone.proof.invariant import Invariant, described
from hone.recipe.adapting import load_base_as
from hone.recipe.finding import find_run, load_named_base, notes_of_run
from hone.recipe.proving import first_difference, reproduce
from hone.registry.versions import Version, verify_version
from hone.types import ArmName, Example, JsonDict, Message

__all__ = [
    "Answerer",
    "check_same_base",
    "check_same_template",
    "is_reward_model",
    "load_answerer",
    "make_renderer",
    "no_answers_of",
    "training_path",
]

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answerer:
    """A model that is ready to answer.

    Args:
        name: how it is called: ``support@3``, a run's folder, or the base's name.
        base: the base, with the adapter attached where there is one.
        renderer: the same that training used.
        run_folder: the run it came from; None for a plain base.
        version: its version; None for a plain base or a run that is not registered.
        notes: what training wrote beside the adapter; empty for a plain base.
        adaptation: what was trained; None for a plain base.
        base_renderer: the base's own, where training added tokens.
        reproduced: how it compares with the probe stored with it; None for a plain base, or where there is no probe.
    """

    name: str
    base: LoadedModel
    renderer: Renderer
    run_folder: Path | None
    version: Version | None
    notes: JsonDict
    adaptation: Adaptation | None = None
    base_renderer: Renderer | None = None
    reproduced: Invariant | None = None

    def renderer_of(self, arm: ArmName) -> Renderer:
        """The renderer of an arm: the base does not read the tokens that training added."""
        return self.base_renderer if arm == "base" and self.base_renderer is not None else self.renderer

    @property
    def reference_path(self) -> bool:
        """Whether it was trained on the reference path, and so is measured on it."""
        return bool(self.notes.get("reference_path"))

    @property
    def reference(self) -> str:
        """What loads it again, from any working folder."""
        if self.version is not None:
            return self.version.reference
        place = self.run_folder or Path(self.name)
        return str(place.absolute()) if place.exists() else self.name

    @property
    def scores_answers(self) -> bool:
        """Whether it is a reward model."""
        return self.notes.get("method") == "reward"

    @property
    def is_tuned(self) -> bool:
        """Whether there is an adapter to switch on and off."""
        return self.run_folder is not None

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[JsonDict] = (), *, arm: ArmName = "tuned"
    ) -> tuple[int, ...]:
        """Token ids for an arm to generate from."""
        return self.renderer_of(arm).prompt(messages, tools)

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without special tokens."""
        return str(self.base.tokenizer.decode(list(ids), skip_special_tokens=True))


def is_reward_model(run_folder: Path) -> bool:
    """Whether a run made a reward model, which scores answers and writes none.

    Args:
        run_folder: of the run; where its notes cannot be read the answer is no, and whoever loads it is told why.
    """
    try:
        return read_json_object(run_folder / "adapter" / NOTES_FILE).get("method") == "reward"
    except StorageError:
        return False


def no_answers_of(name: str) -> ConfigError:
    """The error of a reward model of that name that is asked to write."""
    return ConfigError(
        f"{name} is a reward model: it scores answers, and writes none",
        where="MODEL",
        remedy=f"hone reward score {name} FILE",
    )


def make_renderer(
    base: LoadedModel, examples: Iterable[Example], *, max_length: int | None, note: Note, thinking: bool | None = None
) -> Renderer:
    """The one renderer of training, evaluation and serving for ``base``.

    Args:
        base: its tokenizer receives hone's documented template where it has none.
        examples: rows that say whether reasoning is trained on; unused where ``thinking`` is given.
        max_length: the user's limit in tokens, or None for the base's context.
        note: receives sentences for the user.
        thinking: as it was in training, when loading a version.

    Raises:
        ConfigError: ``max_length`` is over the base's context.
        TemplateError: the template cannot be used for training.
    """
    fallback = ensure_chat_template(base.tokenizer)
    if fallback:
        note(fallback)
    if max_length is not None and max_length > base.context_length:
        raise ConfigError(
            f"{max_length} is more than the {base.context_length} tokens that {base.name} can see",
            where="--max-length",
            remedy=f"use at most {base.context_length}",
        )
    return Renderer(
        base.tokenizer,
        max_length=max_length or base.context_length,
        thinking=has_reasoning(examples) if thinking is None else thinking,
        extra_stop_ids=base.generation_stop_ids,
    )


def training_path(
    model: PreTrainedModel, *, reference: bool = False, fast: bool = True
) -> tuple[Forward, AbstractContextManager[FastLayers | None]]:
    """The forward pass for ``model`` and the block it must run in: packed and fast where the architecture allows it.

    The block gives what was replaced by fast layers, or None on the reference path.

    Args:
        model: read for its architecture; its adapter is attached already.
        reference: take padded rows and the model's own layers all the same.
        fast: False keeps the model's own layers on packed rows.
    """
    if supports_packing(model) and not reference:
        return packed_logprobs, _fast_path(model) if fast else packed_attention_enabled(model)
    return padded_logprobs, nullcontext()


@contextmanager
def _fast_path(model: PreTrainedModel) -> Iterator[FastLayers]:
    with fast_layers_enabled(model) as layers, packed_attention_enabled(model):
        yield replace(layers, attention=attention_in_words(model))


def load_answerer(
    reference: str,
    *,
    home: Path,
    device: str | None = None,
    dtype: str | None = None,
    note: Note,
    refuse_changed: bool = True,
) -> Answerer:
    """Load what ``reference`` names, and hold it against the probe stored with it. Every loader comes through here.

    Args:
        reference: ``support``, ``support@3``, ``support@production``, a run's folder, or any name of a base.
        home: hone's home folder.
        device: as for training; chosen where None.
        dtype: as for training; chosen where None.
        note: receives sentences for the user.
        refuse_changed: False loads a version all the same where it does not reproduce its probe, to look at it;
            ``reproduced`` then says so.

    Raises:
        VersionError, ModelError: there is no such thing; or the base or template is not the one it was trained with.
        StorageError: its files are not those that were registered.
        ProofError: it does not reproduce its probe; the first token that differs is named. A version that was
            registered as unproven for that reason is loaded with a note.
    """
    version, folder = find_run(reference, home, note)
    if folder is None:
        base = load_named_base(reference, home=home, device=device, dtype=dtype, note=note)
        return Answerer(base.name, base, make_renderer(base, (), max_length=None, note=note), None, None, {})
    if version is not None:
        verify_version(version)
    notes = notes_of_run(folder)
    base, renderer, base_renderer = _load_same_base(reference, notes, folder, home, device, dtype, note)
    adaptation = load_adaptation(base.model, folder / "adapter")
    if not notes.get("reference_path"):
        fuse_adapted_layers(base.model)  # as in training, so that the sums are rounded alike
    name = version.reference if version else folder.name
    answerer = Answerer(name, base, renderer, folder, version, notes, adaptation, base_renderer)
    return _reproduced(answerer, note, refuse_changed=refuse_changed)


def _load_same_base(
    reference: str, notes: JsonDict, folder: Path, home: Path, device: str | None, dtype: str | None, note: Note
) -> tuple[LoadedModel, Renderer, Renderer | None]:
    """The base that a run was trained on, its renderer, and the base's own renderer where training added tokens.

    Raises:
        ModelError: base, template or tokenizer is not the one it was trained with.
    """
    base = load_base_as(
        notes["base_name"], quantize=notes.get("quantize"), home=home, device=device, dtype=dtype, note=note
    )
    check_same_base(base, notes, name=reference)
    template = notes["template"]
    base_renderer = None
    if notes.get("added_tokens"):
        own = replace(base, tokenizer=copy.deepcopy(base.tokenizer))
        base_renderer = make_renderer(own, (), max_length=None, note=note, thinking=template["thinking"])
        add_tokens(base.tokenizer, notes["added_tokens"])
    renderer = make_renderer(base, (), max_length=None, note=note, thinking=template["thinking"])
    check_same_template(base, renderer, notes, folder, name=reference)
    return base, renderer, base_renderer


def check_same_base(base: LoadedModel, notes: JsonDict, *, name: str) -> None:
    """Refuse a base whose files are not those that a run was trained on.

    Args:
        base: as loaded.
        notes: what training wrote beside the adapter.
        name: of the run or version, for the message.

    Raises:
        ModelError: they have changed.
    """
    if base.base_hash != notes["base_hash"]:
        raise ModelError(
            f"{notes['base_name']} is not the base that {name} was trained on: its files have changed",
            details=[f"hash then {notes['base_hash'][:16]}, now {base.base_hash[:16]}"],
            why="an adapter on another base gives answers that nobody has measured",
            remedy="put the old files back, or train again",
        )


def check_same_template(base: LoadedModel, renderer: Renderer, notes: JsonDict, folder: Path, *, name: str) -> None:
    """Refuse a template or tokenizer that renders otherwise than in training.

    Args:
        base: as loaded.
        renderer: as made for the run.
        notes: what training wrote beside the adapter.
        folder: of the run.
        name: of the run or version, for the message.

    Raises:
        ModelError: it does; the first token that differs is named.
    """
    if renderer.template_hash != notes["template"]["template_hash"]:
        raise ModelError(
            f"the chat template of {notes['base_name']} renders otherwise than when {name} was trained",
            details=first_difference(folder / "adapter", renderer),
            why="a prompt that looks different from the training rows gets worse answers",
            remedy="use the versions of transformers and of the base stored in the run's result.json, or train again",
        )
    if notes.get("tokenizer_hash") not in (None, base.tokenizer_hash):
        raise ModelError(
            f"the tokenizer of {notes['base_name']} has changed since {name} was trained",
            details=first_difference(folder / "adapter", renderer),
            why="the adapter would read other tokens than it was trained on",
            remedy="put the old files back, or train again",
        )


def _reproduced(answerer: Answerer, note: Note, *, refuse_changed: bool) -> Answerer:
    """The same, held against its probe; and what is known to be wrong with it is said."""
    assert answerer.run_folder is not None, "a plain base has no probe"
    forward, path = training_path(answerer.base.model, reference=answerer.reference_path)
    with path:
        found = reproduce(answerer.run_folder / "adapter", answerer.base.model, answerer.renderer, forward=forward)
    failed = [one for one in (answerer.version and answerer.version.proof) or [] if not one["holds"]]
    known = any(one["number"] == 10 for one in failed)
    if found is None:
        note(f"{answerer.name} has no probe: it was made before probes were stored, so nobody can tell whether it is "
             "as it was saved")  # fmt: skip
    elif not found.holds and refuse_changed and not known:
        raise ProofError(
            f"{answerer.name} is not what was saved: {found.found}",
            why="it would give answers that nobody has measured",
            remedy=f"{found.remedy}; `hone proof {answerer.name}` shows all that can be checked",
            details=[described(found)],
        )
    for one in failed:
        note(f"{answerer.name} is unproven: {described(Invariant(**one))}")
    return replace(answerer, reproduced=found)
