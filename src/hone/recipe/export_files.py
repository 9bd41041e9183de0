"""The files of each export format: the adapter, the merged folder, the GGUF, and what tells another program of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
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
from hone.recipe.inference import Answerer
from hone.registry.versions import MODEL_CARD, Version
from hone.types import Message

__all__ = ["EXPORT_FILE", "write_export"]

EXPORT_FILE = "export.json"
"""The record of an export, beside its files."""

_TEMPLATE_FILE = "chat_template.jinja"
_ADAPTER_CONFIG = "adapter_config.json"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank takes


def write_export(
    version: Version,
    answerer: Answerer,
    prompts: ExportPrompts,
    folder: Path,
    *,
    target: str,
    weights: str | None,
    out: Path,
    home: Path,
) -> WrittenExport:
    """Write one format's files; of formats that hold whole weights, the model is a plain one afterwards.

    Args:
        version: the version.
        answerer: the same, loaded in float32.
        prompts: hone's answers, chat template and stop tokens.
        folder: one that takes the name ``out`` when all is written and compared.
        target: peft, merged, gguf, ollama or vllm.
        weights: how they are stored; None for the format's own.
        out: the name that the folder takes.
        home: hone's home folder.

    Raises:
        ModelError, TemplateError: the model cannot be written in this format.
        StorageError: no space or no permission.
    """
    written, use = _WRITERS[target](version, answerer, prompts, folder, weights, out)
    use += _system_lines(prompts)
    source = resolve_model(version.base_name, home=home)
    write_export_card(version, folder, target=target, source=source, use=use)
    return written


def _write_peft(
    version: Version, answerer: Answerer, prompts: ExportPrompts, folder: Path, weights: str | None, out: Path
) -> tuple[WrittenExport, list[str]]:
    """The adapter's files byte for byte, and the chat template that they were trained with."""
    if not (version.adapter / _ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{version.reference} is no adapter: the base's own weights were trained",
            remedy="export it with --to merged or --to gguf",
        )
    for name in version.adapter_files:
        if name not in (MODEL_CARD, _TEMPLATE_FILE):
            write_atomically(folder / name, (version.adapter / name).read_bytes())
    write_atomically(folder / _TEMPLATE_FILE, prompts.chat_template)
    unread = ""
    if answerer.notes.get("quantize"):
        unread = f"it was trained on a base in {answerer.notes['quantize']}, and was not compared on another"
    use = [
        "```python", "from peft import PeftModel", "from transformers import AutoModelForCausalLM", "",
        f'base = AutoModelForCausalLM.from_pretrained("{_base_to_name(answerer)}")',
        f'model = PeftModel.from_pretrained(base, "{out.absolute()}")', "```", "",
        f"Render prompts with `{_TEMPLATE_FILE}`. An answer ends with {_quoted(prompts.stop_texts)}.",
    ]  # fmt: skip
    return WrittenExport("peft", "float32", unread=unread, notes=_base_notes(answerer)), use


def _write_vllm(
    version: Version, answerer: Answerer, prompts: ExportPrompts, folder: Path, weights: str | None, out: Path
) -> tuple[WrittenExport, list[str]]:
    written, _ = _write_peft(version, answerer, prompts, folder, None, out)
    config: Mapping[str, Any] = json.loads((version.adapter / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
    unsupported = [f"peft_type is {config['peft_type']}"] if config["peft_type"] != "LORA" else []
    unsupported += [key for key in ("use_dora", "trainable_token_indices") if config.get(key)]
    rank = next((rank for rank in _RANKS if rank >= config.get("r", 0)), None)
    unsupported += [f"r is {config['r']}; at most {_RANKS[-1]}"] if rank is None else []
    if unsupported:
        raise ModelError(
            f"vLLM does not serve the adapter of {version.reference}",
            details=unsupported,
            remedy="export it with --to merged, and serve the folder with vllm",
        )
    place = out.absolute()
    command = (
        f"vllm serve {shlex.quote(_base_to_name(answerer))} --enable-lora --max-lora-rank {rank} \\\n"
        f"  --lora-modules {version.name}={shlex.quote(str(place))} --chat-template {shlex.quote(str(place / _TEMPLATE_FILE))}"
    )
    use = [
        "```bash", command, "```", "",
        f"Requests name the model `{version.name}`. Give `stop_token_ids: {list(prompts.stop_ids)}` with each where the",
        f"base's `generation_config.json` does not name them all ({_quoted(prompts.stop_texts)}).",
        "Move the folder, and the command has to name its new place.",
    ]  # fmt: skip
    return WrittenExport("vllm", written.weights, unread=written.unread, notes=written.notes), use


def _write_merged(
    version: Version, answerer: Answerer, prompts: ExportPrompts, folder: Path, weights: str | None, out: Path
) -> tuple[WrittenExport, list[str]]:
    """A plain model folder: config, weights, tokenizer with its template, and the stop tokens."""
    kind = weights or _stored_dtype(answerer)
    _merge(answerer)
    model, tokenizer = answerer.base.model, answerer.base.tokenizer
    if prompts.chat_template != tokenizer.chat_template:
        tokenizer.chat_template = prompts.chat_template
    if model.generation_config is not None:
        stops = list(prompts.stop_ids)
        model.generation_config.eos_token_id = stops[0] if len(stops) == 1 else stops
    save_whole(model, tokenizer, folder, dtype=getattr(torch, kind))
    use = [
        "```python", "from transformers import pipeline", "",
        f'chat = pipeline("text-generation", model="{out.absolute()}")', "```", "",
        "The folder is whole: hone, transformers and vLLM take it as a model.",
    ]  # fmt: skip
    return WrittenExport("merged", kind), use


def _write_gguf(
    version: Version, answerer: Answerer, prompts: ExportPrompts, folder: Path, weights: str | None, out: Path
) -> tuple[WrittenExport, list[str]]:
    model, tokenizer = answerer.base.model, answerer.base.tokenizer
    refuse_unwritable(model)
    kind: Any = weights or "f16"
    _merge(answerer)
    vocabulary = read_vocabulary(
        tokenizer, num_rows=model.get_input_embeddings().weight.shape[0], chat_template=prompts.chat_template,
        stop_ids=prompts.stop_ids,
    )  # fmt: skip
    name = f"{version.name}-{version.number}-{kind}.gguf"
    kept = write_gguf(model, vocabulary, folder / name, weights=kind, name=version.reference)
    notes = (f"{len(kept)} matrices stay float16: their rows are no multiple of 32 values",) if kept else ()
    use = [
        "```bash", f"llama-cli -m {name} --jinja --temp 0", "```", "",
        "The file holds chat template and stop tokens. `add_bos_token` is false: the template's text is all that is read.",
    ]  # fmt: skip
    return WrittenExport("gguf", kind, gguf=name, notes=notes), use


def _write_ollama(
    version: Version, answerer: Answerer, prompts: ExportPrompts, folder: Path, weights: str | None, out: Path
) -> tuple[WrittenExport, list[str]]:
    """The GGUF, and a Modelfile whose template gives the same prompts as the version's own."""
    texts = find_turn_texts(
        answerer.renderer.prompt_text, _tried(answerer, prompts.system_prompt), turn_end=prompts.stop_texts[0]
    )
    written, _ = _write_gguf(version, answerer, prompts, folder, weights, out)
    system = prompts.system_prompt or texts.default_system
    lines = [f"FROM ./{written.gguf}", f'TEMPLATE """{texts.go_template()}"""']
    lines += [f'SYSTEM """{system}"""'] if system else []
    lines += [f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}" for text in prompts.stop_texts]
    write_atomically(folder / "Modelfile", "\n".join(lines) + "\n")
    use = ["```bash", f"ollama create {version.name} -f Modelfile", f"ollama run {version.name}", "```"]
    return WrittenExport("ollama", written.weights, gguf=written.gguf, notes=written.notes), use


_Writer = Callable[[Version, Answerer, ExportPrompts, Path, str | None, Path], tuple[WrittenExport, list[str]]]
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


def _base_to_name(answerer: Answerer) -> str:
    """What another program loads the same base by: a hub id, or the folder that hone reads it from."""
    source = answerer.base.source
    return source.name if source.kind == "hub" else str(answerer.base.folder.absolute())


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
