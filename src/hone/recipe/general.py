"""The general material as tokens of one base: its own answers to general prompts, and passages of ordinary prose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hone.data.render import Renderer
from hone.evaluation.probes.suite import general_prompts, general_texts
from hone.model.forward import Forward
from hone.model.generate import SamplingSettings, generate
from hone.model.load import LoadedModel
from hone.model.lora import adapter_disabled
from hone.recipe.base_cache import cached_figures
from hone.types import JsonDict, Message, TokenSequence

__all__ = ["GENERAL_ANSWER_TOKENS", "GeneralMaterial", "base_key", "general_material", "on_path"]

# Long enough to leave the prompt behind, short enough for seconds on two cores.
GENERAL_ANSWER_TOKENS = 32


@dataclass(frozen=True, slots=True)
class GeneralMaterial:
    """What general ability is measured on beside questions. The base's tokens alone: training may have added others.

    Args:
        questions: the general prompts that leave room for an answer.
        prompts: their ids.
        base_texts: the base's own answer to each, as text.
        answers: prompts with the base's answers, which alone are supervised; without those that are empty.
        answer_bytes: UTF-8 bytes of each of ``answers``.
        texts: passages of prose, all of it supervised.
        text_bytes: UTF-8 bytes of each passage.
    """

    questions: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]
    base_texts: tuple[str, ...]
    answers: tuple[TokenSequence, ...]
    answer_bytes: tuple[int, ...]
    texts: tuple[TokenSequence, ...]
    text_bytes: tuple[int, ...]


def general_material(
    base: LoadedModel, renderer: Renderer, *, home: Path, on_done: Callable[[int], None] = lambda count: None
) -> GeneralMaterial:
    """Render the material, and let the base answer the general prompts where it has not done so before.

    Args:
        base: with or without an adapter, which is switched off; on the model's own attention.
        renderer: of the base, without tokens that training added.
        home: hone's home folder, where the base's answers are kept.
        on_done: called with the number of prompts answered so far.

    Raises:
        TemplateError: the template cannot render a plain question.
        StorageError: the answers cannot be kept.
    """
    asked = general_prompts()
    room = base.context_length - GENERAL_ANSWER_TOKENS
    rendered = [(prompt, renderer.prompt([Message("user", prompt)])) for prompt in asked]
    questions = tuple(prompt for prompt, ids in rendered if len(ids) <= room)
    prompts = tuple(ids for _, ids in rendered if len(ids) <= room)
    key = ("own answers", *base_key(base, renderer), GENERAL_ANSWER_TOKENS, prompts)
    ids = cached_figures(home, key, lambda: _answer(base, renderer, prompts, on_done))["answers"]
    texts = tuple(str(base.tokenizer.decode(one, skip_special_tokens=True)) for one in ids)
    kept = [place for place, text in enumerate(texts) if text.strip()]
    passages = [(_passage(base, text), len(text.encode())) for text in general_texts()]
    fitting = [(one, size) for one, size in passages if len(one.ids) <= base.context_length]
    return GeneralMaterial(
        questions=questions,
        prompts=prompts,
        base_texts=texts,
        answers=tuple(_answered(prompts[place], ids[place]) for place in kept),
        answer_bytes=tuple(len(texts[place].encode()) for place in kept),
        texts=tuple(one for one, _ in fitting),
        text_bytes=tuple(size for _, size in fitting),
    )


def base_key(base: LoadedModel, renderer: Renderer) -> tuple[object, ...]:
    """What all figures of a base depend on."""
    return base.base_hash, base.tokenizer_hash, renderer.template_hash, base.device, str(base.dtype)


def on_path(what: str, base: tuple[object, ...], forward: Forward, texts: object) -> tuple[object, ...]:
    """The key of figures of a base that depend on the forward pass.

    Args:
        what: is measured.
        base: its key.
        forward: the pass.
        texts: what is read.
    """
    return (what, *base, forward.__name__, texts)


def _answer(
    base: LoadedModel, renderer: Renderer, prompts: Sequence[Sequence[int]], on_done: Callable[[int], None]
) -> JsonDict:
    with adapter_disabled(base.model):
        answers = generate(
            base.model,
            prompts,
            stop_ids=renderer.stop_ids,
            settings=SamplingSettings(GENERAL_ANSWER_TOKENS),
            on_done=on_done,
        )
    return {"answers": [list(answer.ids) for answer in answers]}


def _answered(prompt: Sequence[int], answer: Sequence[int]) -> TokenSequence:
    return TokenSequence((*prompt, *answer), (False,) * len(prompt) + (True,) * len(answer), row=0)


def _passage(base: LoadedModel, text: str) -> TokenSequence:
    ids = tuple(base.tokenizer(text)["input_ids"])
    return TokenSequence(ids, (True,) * len(ids), row=0)
