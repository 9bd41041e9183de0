"""The files of each export format: the adapter, the merged folder, the GGUF, and what tells another program of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hone.data.go_template import find_turn_texts
from hone.errors import ModelError, TemplateError
from hone.files import write_atomically
from hone.model.catalog import resolve_model
from hone.model.gguf_vocabulary import read_vocabulary
from hone.model.gguf_write import refuse_unwritable, write_gguf
from hone.model.merge import save_whole
from hone.proof.conversations import PROBE_CONVERSATIONS
from hone.recipe.export_card import write_export_card
from hone.recipe.export_check import ExportPrompts, WrittenExport
from hone.recipe.export_scores import GivenAnswer
from hone.recipe.inference import Answerer
from hone.recipe.model_card import reward_model_use
from hone.registry.versions import MODEL_CARD, Version
from hone.types import Message

__all__ = ["EXPORT_FILE", "ExportJob", "write_export"]

EXPORT_FILE = "export.json"
"""The record of an export, beside its files."""

_TEMPLATE_FILE = "chat_template.jinja"
_ADAPTER_CONFIG = "adapter_config.json"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank takes


@dataclass(frozen=True, slots=True)
class ExportJob:
    """What is to be written.

    Args:
        version: the version.
        answerer: the same, loaded in float32; of formats that hold whole weights, its model is a plain one afterwards.
        prompts: hone's answers, chat template and stop tokens.
        folder: one that takes its name when all is written and compared.
        target: peft, merged, gguf, ollama or vllm.
        weights: how they are stored; None for the format's own.
        place: by what the user names the folder: its path, or a repository of the hub.
        is_local: whether the files stay on this machine, so that its paths may be named in them.
        given: of a reward model, answers with its scores.
    """

    version: Version
    answerer: Answerer
    prompts: ExportPrompts
    folder: Path
    target: str
    weights: str | None
    place: str
    is_local: bool
    given: tuple[GivenAnswer, ...] = ()

    @property
    def base(self) -> str:
        """What another program loads the base by: a hub id, or the folder that hone reads it from."""
        source = self.answerer.base.source
        if source.kind == "hub":
            return source.name
        return str(self.answerer.base.folder.absolute()) if self.is_local else "path/to/the/base"


def write_export(job: ExportJob, *, home: Path) -> WrittenExport:
    """Write one format's files with their model card.

    Args:
        job: what, and where.
        home: hone's home folder.

    Raises:
        ModelError, TemplateError: the model cannot be written in this format.
        StorageError: no space or no permission.
    """
    written, use = _WRITERS[job.target](job)
    use += _system_lines(job.prompts)
    source = resolve_model(job.version.base_name, home=home)
    write_export_card(
        job.version, job.folder, target=job.target, source=source, use=use, scores_answers=job.answerer.scores_answers
    )
    return written


def _write_peft(job: ExportJob) -> tuple[WrittenExport, list[str]]:
    """The adapter's files byte for byte, and the chat template that they were trained with."""
    if not (job.version.adapter / _ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{job.version.reference} is no adapter: the base's own weights were trained",
            remedy="export it with --to merged or --to gguf",
        )
    for name in job.version.adapter_files:
        if name not in (MODEL_CARD, _TEMPLATE_FILE):
            write_atomically(job.folder / name, (job.version.adapter / name).read_bytes())
    write_atomically(job.folder / _TEMPLATE_FILE, job.prompts.chat_template)
    unread = ""
    if job.answerer.notes.get("quantize"):
        unread = f"it was trained on a base in {job.answerer.notes['quantize']}, and was not compared on another"
    use = reward_model_use(job.version.reference, job.base, job.place) if job.answerer.scores_answers else [
        "```python", "from peft import PeftModel", "from transformers import AutoModelForCausalLM", "",
        f'base = AutoModelForCausalLM.from_pretrained("{job.base}")',
        f'model = PeftModel.from_pretrained(base, "{job.place}")', "```",
    ]  # fmt: skip
    use += ["", f"Render prompts with `{_TEMPLATE_FILE}`. An answer ends with {_quoted(job.prompts.stop_texts)}."]
    return WrittenExport("peft", "float32", unread=unread, notes=_base_notes(job.answerer)), use


def _write_vllm(job: ExportJob) -> tuple[WrittenExport, list[str]]:
    written, _ = _write_peft(job)
    config: Mapping[str, Any] = json.loads((job.version.adapter / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
    unsupported = [f"peft_type is {config['peft_type']}"] if config["peft_type"] != "LORA" else []
    unsupported += [key for key in ("use_dora", "trainable_token_indices") if config.get(key)]
    rank = next((rank for rank in _RANKS if rank >= config.get("r", 0)), None)
    unsupported += [f"r is {config['r']}; at most {_RANKS[-1]}"] if rank is None else []
    if unsupported:
        raise ModelError(
            f"vLLM does not serve the adapter of {job.version.reference}",
            details=unsupported,
            remedy="export it with --to merged, and serve the folder with vllm",
        )
    template = f"{job.place}/{_TEMPLATE_FILE}" if job.is_local else _TEMPLATE_FILE
    command = (
        f"vllm serve {shlex.quote(job.base)} --enable-lora --max-lora-rank {rank} \\\n"
        f"  --lora-modules {job.version.name}={shlex.quote(job.place)} --chat-template {shlex.quote(template)}"
    )
    use = [
        "```bash", command, "```", "",
        f"Requests name the model `{job.version.name}`. Give `stop_token_ids: {list(job.prompts.stop_ids)}` with each",
        f"where the base's `generation_config.json` does not name them all ({_quoted(job.prompts.stop_texts)}).",
        "Move the folder, and the command has to name its new place.",
    ]  # fmt: skip
    return WrittenExport("vllm", written.weights, unread=written.unread, notes=written.notes), use


def _write_merged(job: ExportJob) -> tuple[WrittenExport, list[str]]:
    """A plain model folder: config, weights, tokenizer with its template, and the stop tokens."""
    kind = job.weights or _stored_dtype(job.answerer)
    _merge(job.answerer)
    model, tokenizer = job.answerer.base.model, job.answerer.base.tokenizer
    if job.prompts.chat_template != tokenizer.chat_template:
        tokenizer.chat_template = job.prompts.chat_template
    if model.generation_config is not None:
        stops = list(job.prompts.stop_ids)
        model.generation_config.eos_token_id = stops[0] if len(stops) == 1 else stops
    save_whole(model, tokenizer, job.folder, dtype=getattr(torch, kind))
    use = [
        "```python", "from transformers import pipeline", "",
        f'chat = pipeline("text-generation", model="{job.place}")', "```", "",
        "The folder is whole: hone, transformers and vLLM take it as a model.",
    ]  # fmt: skip
    return WrittenExport("merged", kind), use


def _write_gguf(job: ExportJob) -> tuple[WrittenExport, list[str]]:
    model, tokenizer = job.answerer.base.model, job.answerer.base.tokenizer
    refuse_unwritable(model)
    kind: Any = job.weights or "f16"
    _merge(job.answerer)
    embeddings: Any = model.get_input_embeddings()
    vocabulary = read_vocabulary(
        tokenizer, num_rows=len(embeddings.weight), chat_template=job.prompts.chat_template,
        stop_ids=job.prompts.stop_ids,
    )  # fmt: skip
    name = f"{job.version.name}-{job.version.number}-{kind}.gguf"
    kept = write_gguf(model, vocabulary, job.folder / name, weights=kind, name=job.version.reference)
    notes = (f"{len(kept)} matrices stay float16: their rows are no multiple of 32 values",) if kept else ()
    use = [
        "```bash", f"llama-cli -m {name} --jinja --temp 0", "```", "",
        "The file holds chat template and stop tokens. `add_bos_token` is false: the template's text is all that is",
        "read.",
    ]  # fmt: skip
    return WrittenExport("gguf", kind, gguf=name, notes=notes), use


def _write_ollama(job: ExportJob) -> tuple[WrittenExport, list[str]]:
    """The GGUF, and a Modelfile whose template gives the same prompts as the version's own."""
    texts = find_turn_texts(
        job.answerer.renderer.prompt_text,
        _tried(job.answerer, job.prompts.system_prompt),
        turn_end=job.prompts.stop_texts[0],
    )
    written, _ = _write_gguf(job)
    system = job.prompts.system_prompt or texts.default_system
    lines = [f"FROM ./{written.gguf}", f'TEMPLATE """{texts.go_template()}"""']
    lines += [f'SYSTEM """{system}"""'] if system else []
    lines += [f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}" for text in job.prompts.stop_texts]
    write_atomically(job.folder / "Modelfile", "\n".join(lines) + "\n")
    use = ["```bash", f"ollama create {job.version.name} -f Modelfile", f"ollama run {job.version.name}", "```"]
    return WrittenExport("ollama", written.weights, gguf=written.gguf, notes=written.notes), use


_Writer = Callable[[ExportJob], tuple[WrittenExport, list[str]]]
_WRITERS: dict[str, _Writer] = {
    "peft": _write_peft, "vllm": _write_vllm, "merged": _write_merged, "gguf": _write_gguf, "ollama": _write_ollama,
}  # fmt: skip


def _tried(answerer: Answerer, system_prompt: str | None) -> list[tuple[str, tuple[Message, ...]]]:
    """Conversations that the template takes, to be compared with Ollama's."""
    tried = []
    for name, example in PROBE_CONVERSATIONS:
        if example.tools:
            continue
        for turns in (example.prompt, (Message("system", system_prompt or "Be kind."), *example.prompt)):
            if [one.role for one in turns].count("system") > 1:
                continue
            try:
                answerer.renderer.prompt_text(turns)
            except TemplateError:
                continue
            tried.append((name, tuple(turns)))
    return tried


def _merge(answerer: Answerer) -> None:
    assert answerer.adaptation is not None, "a version has something that was trained"
    answerer.adaptation.merge()


def _stored_dtype(answerer: Answerer) -> str:
    """How the base's own files store its weights."""
    config = json.loads((answerer.base.folder / "config.json").read_text(encoding="utf-8"))
    stated = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return stated if stated in ("float32", "bfloat16", "float16") else "bfloat16"


def _base_notes(answerer: Answerer) -> tuple[str, ...]:
    if answerer.base.source.kind not in ("embedded", "gguf"):
        return ()
    return ("the base is a converted GGUF: on the weights it was quantised from, the answers were not compared",)


def _system_lines(prompts: ExportPrompts) -> list[str]:
    if prompts.system_prompt is None:
        return []
    return ["", "All training rows had this system message; send it with each conversation:", "",
            *(f"> {line}" for line in prompts.system_prompt.splitlines())]  # fmt: skip


def _quoted(texts: tuple[str, ...]) -> str:
    return ", ".join(f"`{text}`" for text in texts)
