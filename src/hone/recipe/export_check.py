"""The prompts of an export's proof, and the runtimes in which its files are read back."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hone.errors import MissingDependencyError, TemplateError
from hone.model.gguf_load import load_gguf_weights
from hone.model.llama_cpp import LlamaCppPrompt, find_llama_cpp
from hone.model.load import load_base
from hone.model.peft_methods import load_as_peft
from hone.model.quiet import quiet_transformers
from hone.proof.conversations import PROBE_CONVERSATIONS
from hone.proof.exported import (
    ExportCheck,
    ReferenceAnswer,
    RuntimeAnswer,
    check_exported,
    read_with_model,
    reference_answers,
)
from hone.recipe.inference import Answerer
from hone.recipe.method import load_for
from hone.types import Message

__all__ = ["ExportPrompts", "WrittenExport", "check_files", "make_prompts", "with_peft"]

_HELD_OUT_PROMPTS = 8
_LONGEST_PROMPT = 1024
_NEW_TOKENS = 32


@dataclass(frozen=True, slots=True)
class ExportPrompts:
    """What is asked of every runtime, and how hone answers it.

    Args:
        references: hone's answers; none of a reward model, which writes none.
        conversations: the turns of each prompt, as role and content; None where its template takes it from hone alone.
        chat_template: Jinja that renders as hone does, without hone.
        stop_ids: tokens that end an answer.
        stop_texts: their texts.
        system_prompt: what the version is asked with where a prompt has no system message; None where nothing is.
        token_text: text of one token.
        notes: what other runtimes cannot be asked.
    """

    references: tuple[ReferenceAnswer, ...]
    conversations: tuple[tuple[dict[str, str], ...] | None, ...]
    chat_template: str
    stop_ids: tuple[int, ...]
    stop_texts: tuple[str, ...]
    system_prompt: str | None
    token_text: Callable[[int], str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WrittenExport:
    """What was written, as far as reading it back needs to know.

    Args:
        target: the format.
        weights: how they are stored.
        gguf: name of the GGUF file in the folder; None where there is none.
        unread: why PEFT cannot read the adapter; empty where it can.
        notes: sentences for the user.
    """

    target: str
    weights: str
    gguf: str | None = None
    unread: str = ""
    notes: tuple[str, ...] = ()


def make_prompts(answerer: Answerer) -> ExportPrompts:
    """The probe's conversations and the first held-out rows, with the version's own system prompt, answered greedily.

    Conversations with tools are left out: what a runtime makes of tools is its own. Of a reward model, which writes
    nothing, there are no answers: ``export_scores.py`` compares its scores.

    Args:
        answerer: the version, in float32.

    Raises:
        TemplateError: the template, outside of hone, renders some of them otherwise.
        TrainingError: a log-probability is not finite.
    """
    shared = answerer.notes.get("system_prompt")
    asked: list[tuple[str, list[Message]]] = [
        (name, list(example.prompt)) for name, example in PROBE_CONVERSATIONS if not example.tools
    ]
    asked += _held_out(answerer)
    prompts, conversations = [], []
    for name, messages in asked:
        opening = [Message("system", shared)] if shared and messages[0].role != "system" else []
        turns = [*opening, *messages]
        try:
            text, ids = answerer.renderer.prompt_text(turns), answerer.prompt(turns)
        except TemplateError:
            continue  # the template takes no such conversation, in hone or elsewhere
        if len(ids) <= min(_LONGEST_PROMPT, answerer.base.context_length - _NEW_TOKENS):
            prompts.append((name, text, ids))
            conversations.append(tuple({"role": one.role, "content": one.content} for one in turns))
    template = answerer.renderer.portable_template()
    taken = [
        _renders_alike(answerer, template, text, turns)
        for (_, text, _), turns in zip(prompts, conversations, strict=True)
    ]
    if not any(taken):
        raise TemplateError("outside of hone the chat template renders none of the prompts")
    notes = () if all(taken) else (
        f"outside of hone the chat template refuses {taken.count(False)} of {len(taken)} prompts, as with a system "
        "message that it has no place for",
    )  # fmt: skip
    stop_ids = answerer.renderer.stop_ids
    asked_of_it = [] if answerer.scores_answers else prompts
    references = reference_answers(answerer.base.model, asked_of_it, stop_ids=stop_ids, max_new_tokens=_NEW_TOKENS)
    token_text = answerer.renderer.token_text
    return ExportPrompts(
        references=tuple(references),
        conversations=tuple(turns if one else None for turns, one in zip(conversations, taken, strict=True)),
        chat_template=template,
        stop_ids=tuple(stop_ids),
        stop_texts=tuple(token_text(token) for token in stop_ids),
        system_prompt=shared or None,
        token_text=token_text,
        notes=notes,
    )


def _held_out(answerer: Answerer) -> list[tuple[str, list[Message]]]:
    """Prompts of the version's own held-out rows, where its folder still has them."""
    path = answerer.run_folder / "held_out.jsonl" if answerer.run_folder is not None else None
    if path is None or not path.is_file():
        return []
    loaded = load_for(answerer.notes.get("method"), str(path))
    examples = [example for example in loaded.examples if not example.tools]
    return [(f"held-out row {one.row}", list(one.prompt)) for one in examples[:_HELD_OUT_PROMPTS]]


def _renders_alike(answerer: Answerer, template: str, text: str, turns: tuple[dict[str, str], ...]) -> bool:
    """Whether the template that travels takes the turns outside of hone.

    Raises:
        TemplateError: it does, and renders them otherwise.
    """
    tokenizer: Any = answerer.base.tokenizer
    try:
        found = tokenizer.apply_chat_template(
            list(turns), chat_template=template, add_generation_prompt=True, tokenize=False
        )
    except (jinja2.TemplateError, TypeError, AttributeError):
        return False
    if found != text:
        at = next(
            (at for at, (a, b) in enumerate(zip(found, text, strict=False)) if a != b), min(len(found), len(text))
        )
        raise TemplateError(
            f"outside of hone the chat template renders {found[at : at + 40]!r} where hone has {text[at : at + 40]!r}",
            why="other programs would show the model other prompts than those it was trained on",
            remedy="serve this version with hone",
        )
    return True


def check_files(
    folder: Path,
    written: WrittenExport,
    prompts: ExportPrompts,
    *,
    base_name: str,
    device: str,
    home: Path,
    note: Callable[[str], None],
) -> tuple[list[ExportCheck], list[tuple[str, str]]]:
    """Read the files back in every runtime of their format that is installed.

    Args:
        folder: of the files.
        written: what they are.
        prompts: with hone's answers.
        base_name: the base, as load_base takes it.
        device: where PEFT is to compute.
        home: hone's home folder.
        note: receives sentences for the user.

    Returns:
        The checks, and (runtime, reason) where there was none.

    Raises:
        ModelError: a runtime cannot read the files at all.
    """
    if written.gguf is not None:
        checks, missing = _check_gguf(folder / written.gguf, written, prompts, home)
        if written.target == "ollama":
            missing.append(("ollama", "hone does not start it; its template and stop tokens were compared as text"))
        return checks, missing
    if written.target == "merged":
        return [_check_merged_folder(folder, written, prompts)], []
    missing = [("vllm", "hone does not start it; the adapter was read with PEFT")] if written.target == "vllm" else []
    if written.unread or importlib.util.find_spec("peft") is None:
        return [], [("peft", written.unread or "not installed: pip install peft"), *missing]
    model = with_peft(folder, load_base(base_name, home=home, device=device, dtype="float32", note=note).model)
    return [_compare(read_with_model(model, prompts.references), f"peft {_release('peft')}", written, prompts)], missing


def _compare(
    found: Sequence[RuntimeAnswer],
    runtime: str,
    written: WrittenExport,
    prompts: ExportPrompts,
    known_stops: frozenset[int] | None = None,
) -> ExportCheck:
    return check_exported(
        prompts.references, found, runtime=runtime, weights=written.weights, stop_ids=prompts.stop_ids,
        known_stops=known_stops, token_text=prompts.token_text,
    )  # fmt: skip


def _check_merged_folder(folder: Path, written: WrittenExport, prompts: ExportPrompts) -> ExportCheck:
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    found = []
    for one, messages, reference in zip(
        read_with_model(model.eval(), prompts.references), prompts.conversations, prompts.references, strict=True
    ):
        text = None
        if messages is not None:
            text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        ids = tuple(tokenizer(reference.text, add_special_tokens=False)["input_ids"])
        found.append(RuntimeAnswer(one.picks, one.logprobs, text_ids=ids, rendered=text))
    known = model.generation_config.eos_token_id
    stops = frozenset([known] if isinstance(known, int) else known or ())
    return _compare(found, f"transformers {transformers.__version__}", written, prompts, stops)


def _check_gguf(
    path: Path, written: WrittenExport, prompts: ExportPrompts, home: Path
) -> tuple[list[ExportCheck], list[tuple[str, str]]]:
    checks, missing = _check_gguf_with_transformers(path, written, prompts)
    runtime = find_llama_cpp(home)
    if isinstance(runtime, str):
        return checks, [*missing, ("llama.cpp", runtime)]
    asked = [
        LlamaCppPrompt(one.text, one.prompt_ids, one.answer_ids, messages)
        for one, messages in zip(prompts.references, prompts.conversations, strict=True)
    ]
    try:
        reading = runtime.read(path, asked, stop_ids=prompts.stop_ids, new_tokens=_NEW_TOKENS)
    except MissingDependencyError as error:
        return checks, [*missing, ("llama.cpp", error.render())]
    found = [RuntimeAnswer(one.picks, one.logprobs, one.written, one.text_ids, one.rendered) for one in reading.answers]
    return [*checks, _compare(found, reading.runtime, written, prompts, reading.ends)], missing


def _check_gguf_with_transformers(
    path: Path, written: WrittenExport, prompts: ExportPrompts
) -> tuple[list[ExportCheck], list[tuple[str, str]]]:
    """Weights alone: how it would split text, transformers does not read from a GGUF for every rule."""
    runtime = f"transformers {transformers.__version__}"
    try:
        model, _ = load_gguf_weights(path)
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:  # it has no class of its own for these
        return [], [(runtime, f"cannot read this GGUF: {(str(error).splitlines() or ['?'])[0]}")]
    return [_compare(read_with_model(model, prompts.references), runtime, written, prompts)], []


def with_peft(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """A plain base with an exported adapter, as PEFT loads it.

    Args:
        folder: of the export.
        model: changed in place.

    Raises:
        ModelError: PEFT does not load it on this model.
    """
    tokens = folder / "tokenizer_config.json"
    if tokens.is_file():  # tokens were added: PEFT's user first gives the base a row for each
        whole: Any = model
        with quiet_transformers():
            size = len(AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True))
            whole.resize_token_embeddings(size, mean_resizing=False)
    return load_as_peft(model, folder)


def _release(package: str) -> str:
    return importlib.metadata.version(package)
