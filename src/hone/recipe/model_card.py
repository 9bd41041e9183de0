"""The model card: README.md beside an adapter, with the hub's metadata, the comparison and the proof in figures.

Everything in it was measured or counted in the run; of the rows it holds numbers and the file's name, no text.
Format: Hugging Face's model cards, as huggingface_hub writes and reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hone import __version__
from hone.files import write_atomically
from hone.model.catalog import ModelSource
from hone.registry.versions import MODEL_CARD

__all__ = ["TASK_OF_REWARD_MODELS", "reward_model_use", "write_model_card"]

TASK_OF_REWARD_MODELS = "text-classification"
"""What the hub calls a model that gives a text a number."""

_Json = Mapping[str, Any]

# What the embedded base is on the hub, and its licence (its package's own metadata say the same).
_EMBEDDED_ID, _EMBEDDED_LICENSE = "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"
_NUMBERS = (
    "adaptation", "rank", "alpha", "learning_rate", "epochs", "steps", "batch_size", "max_length", "seed",
    "trained_values", "tokens", "supervised_tokens",
)  # fmt: skip
_WITHOUT_PEFT = {"full": "transformers", "partial": None}


def write_model_card(folder: Path, name: str, result: _Json, *, source: ModelSource) -> Path:
    """Write the card into an adapter's folder; it replaces one that is there.

    Args:
        folder: of the adapter.
        name: of the version, as ``support@1``, or of the run.
        result: the machine-readable result, with or without a comparison.
        source: what the base's name meant.

    Returns:
        Its path.

    Raises:
        StorageError: no space or no permission.
    """
    metadata = _metadata(name, result, source)
    text = "\n".join(_lines(name, result, base=metadata.base_model, license_name=metadata.license))
    path = folder / MODEL_CARD
    write_atomically(path, f"---\n{metadata.to_yaml()}\n---\n\n{text}\n")
    return path


def reward_model_use(name: str, base: str, place: str) -> list[str]:
    """How transformers and PEFT load a reward model, and where they have to read the score.

    Args:
        name: of the version, or of the run.
        base: what its base is loaded by.
        place: of the adapter.
    """
    return [
        f"A reward model: it scores answers, and writes none. `hone reward score {name} FILE` scores those of a file.",
        "", "```python",
        "from peft import PeftModel", "from transformers import AutoModelForSequenceClassification", "",
        f'base = AutoModelForSequenceClassification.from_pretrained("{base}", num_labels=1)',
        "base.config.pad_token_id = None  # where it is the token that ends a turn, that token would be passed over",
        f'judge = PeftModel.from_pretrained(base, "{place}").eval()', "```", "",
        "An answer is scored at the token that ends its turn, and transformers scores the last token there is: cut off",
        "what the template writes behind it, as ChatML a line break, and give one conversation at a time.",
    ]  # fmt: skip


def _task(training: _Json) -> str:
    return TASK_OF_REWARD_MODELS if training["method"] == "reward" else "text-generation"


def _metadata(name: str, result: _Json, source: ModelSource) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    training, evaluation = result["training"], result.get("evaluation")
    results = []
    if evaluation:
        for metric in evaluation["metrics"].values():
            value = evaluation["arms"].get("tuned", {}).get("metrics", {}).get(metric["name"])
            if value is not None:
                results.append(
                    EvalResult(
                        task_type=_task(training),
                        dataset_type=name.partition("@")[0],
                        dataset_name=f"held-out rows of {name.partition('@')[0]} ({evaluation['rows']})",
                        dataset_split="held-out",
                        metric_type=metric["name"],
                        metric_name=metric["title"],
                        metric_value=round(float(value), 4),
                    )
                )
    return ModelCardData(
        base_model=_hub_id(source),
        license=_license(source),
        library_name=_WITHOUT_PEFT.get(training["adaptation"], "peft"),
        pipeline_tag=_task(training),
        tags=["hone", training["adaptation"], training["method"]],
        metrics=[one.metric_type for one in results] or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _hub_id(source: ModelSource) -> str | None:
    return {"hub": source.name, "embedded": _EMBEDDED_ID}.get(source.kind)


def _license(source: ModelSource) -> str | None:
    """What the base's own card says; None where there is none, for nobody but its authors can say it."""
    if source.kind == "embedded":
        return _EMBEDDED_LICENSE
    from huggingface_hub import ModelCard, try_to_load_from_cache

    if source.kind == "hub":
        found = try_to_load_from_cache(source.name, MODEL_CARD)
        card = Path(found) if isinstance(found, str) else None
    else:
        card = source.path / MODEL_CARD if source.path is not None and source.path.is_dir() else None
    if card is None or not card.is_file():
        return None
    try:
        stated = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.get("license")
    except (OSError, ValueError):
        return None
    return stated if isinstance(stated, str) else None


def _lines(name: str, result: _Json, *, base: str | None, license_name: str | None) -> Iterator[str]:
    data, training, of_base = result["data"], result["training"], result["base"]
    known_as = base or Path(of_base["name"]).name
    yield f"# {_cell(name)}"
    yield ""
    yield (
        f"{_cell(known_as)}, tuned on {training.get('rows_used', data['train'])} rows with hone {__version__}. Status: "
        f"**{result.get('status', 'not registered')}**. " + _license_sentence(license_name)
    )
    yield ""
    yield from _comparison(result)
    yield from _proof(result["proof"])
    yield "## Training"
    yield ""
    yield (
        f"{data['rows']} rows of `{_cell(data['source'])}`: {data['kept']} kept, {data['cut']} cut, {data['dropped']} "
        f"dropped; {data['train']} to train on, {data['validation']} to choose the step that is kept, "
        f"{data['held_out']} held out."
    )
    yield ""
    numbers = [(key, training.get(key)) for key in _NUMBERS]
    numbers += [("base", known_as), ("base_hash", of_base["hash"]), ("dtype", of_base["dtype"])]
    yield from _table(("", "value"), [(key.replace("_", " "), value) for key, value in numbers if value is not None])
    yield ""
    yield from _use(name, training, known_as)


def _license_sentence(license_name: str | None) -> str:
    if license_name:
        return f"The base's licence, {_cell(license_name)}, holds for what is made from it."
    return "The base's files state no licence: ask its authors before you pass this on."


def _comparison(result: _Json) -> Iterator[str]:
    evaluation, verdict = result.get("evaluation"), result.get("verdict")
    yield "## Comparison"
    yield ""
    if not evaluation:
        yield "Not compared with its base: `hone evaluate` does."
        yield ""
        return
    metrics = list(evaluation["metrics"].values())
    rows = []
    for arm, figures in evaluation["arms"].items():
        values = [figures["metrics"].get(metric["name"]) for metric in metrics]
        low_high = figures.get("interval")
        interval = f"{low_high[0]:.2f} to {low_high[1]:.2f}" if low_high else "none"
        rows.append((arm, *("not measured" if one is None else f"{one:.2f}" for one in values), interval))
    deciding = evaluation["metrics"][evaluation["metric"]]["title"]
    yield f"On {evaluation['rows']} held-out rows; {deciding} decides."
    yield ""
    yield from _table(("arm", *(metric["title"] for metric in metrics), f"95% interval of {deciding}"), rows)
    yield ""
    if verdict:
        yield f"Verdict: **{verdict['decision'].replace('_', ' ')}**. {_cell(verdict['reason'])}"
        yield ""
        for one in verdict["not_measured"]:
            yield f"- Not measured: {_cell(one['what'])} ({_cell(one['reason'])})"
        yield ""


def _proof(proof: Sequence[_Json]) -> Iterator[str]:
    held = sum(one["holds"] for one in proof)
    yield "## Proof"
    yield ""
    yield f"{held} of {len(proof)} invariants hold on this model and its data."
    yield ""
    rows = [
        (one["number"], one["name"], "holds" if one["holds"] else "does not hold", f"{one['measured']:.4g}",
         one["bound"], one["checked"])
        for one in proof
    ]  # fmt: skip
    yield from _table(("", "invariant", "", "measured", "bound", "on"), rows)
    yield ""


def _use(name: str, training: _Json, known_as: str) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "`probe.json` and `probe.safetensors` hold eight conversations with the token ids and log-probabilities that"
    yield "a right copy gives; hone compares them at each load. Render prompts with the base's chat template."
    if training["adaptation"] in _WITHOUT_PEFT:
        return
    yield ""
    if training["method"] == "reward":
        yield from reward_model_use(name, _cell(known_as), "path/to/this/folder")
        return
    yield "```python"
    yield "from peft import PeftModel"
    yield "from transformers import AutoModelForCausalLM"
    yield ""
    yield f'base = AutoModelForCausalLM.from_pretrained("{_cell(known_as)}")'
    yield 'model = PeftModel.from_pretrained(base, "path/to/this/folder")'
    yield "```"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(map(_cell, head))} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(value: object) -> str:
    """One line of a table, in which nothing is markup."""
    text = " ".join((f"{value:g}" if isinstance(value, float) else str(value)).split())
    return "".join(f"\\{letter}" if letter in "\\|`*<>[]" else letter for letter in text)
