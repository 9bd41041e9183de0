"""What a run would cost, before anything starts: the recipe behind ``hone plan``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from hone.config.plan import PlanConfig
from hone.config.schema import TrainConfig
from hone.data.answers import AnswerRenderer
from hone.errors import ConfigError
from hone.model.attention import supports_packing
from hone.model.device import check_device, check_dtype
from hone.model.machine import describe_machine, resident_memory_bytes
from hone.model.outline import Outline, load_outline
from hone.planning.choose import METHOD_REASONS, TrainingChoices
from hone.planning.estimate import Estimate, Place
from hone.planning.history import error_margin, error_summary, read_history
from hone.planning.machines import THIS_MACHINE, Machine, parse_rate, rates_of, read_machines
from hone.planning.rates import machine_key
from hone.planning.shape import ModelShape, shape_of
from hone.recipe.method import choose_method, is_policy_method, load_rows
from hone.recipe.plan_rendering import outline_renderer
from hone.recipe.planned import rates_for
from hone.recipe.planned_rollouts import is_planned_method, planned_rollouts
from hone.recipe.planner import PLANNED_ADAPTATIONS, Planner
from hone.recipe.policy_options import sequences_to_compute
from hone.recipe.probe import probe_rollouts, probe_speed
from hone.recipe.replay import choose_replay, replay_stand_ins
from hone.recipe.rewards import require_rewards
from hone.recipe.rows import PreparedRows, RowRenderer, prepare_rows
from hone.recipe.starting import like_start
from hone.recipe.version_base import base_of_version
from hone.types import JsonDict

__all__ = ["PLAN_SCHEMA", "plan", "plan_history"]

Note = Callable[[str], None]

PLAN_SCHEMA = 1
_OTHER_RANK = 64
# Of a card's memory, what its driver and its allocator keep for themselves.
_USABLE_SHARE = 0.93
_MLP = "mlp"


def plan(config: PlanConfig, *, home: Path, note: Note) -> JsonDict:
    """Estimate every sensible way of training ``config``'s rows, and say which one hone would choose.

    Args:
        config: the options.
        home: hone's home folder.
        note: receives sentences for the user.

    Returns:
        The object that ``hone plan --json`` prints (docs/plan.md).

    Raises:
        HoneError: the rows or the model cannot be read, or an option is wrong.
    """
    config = base_of_version(like_start(config, home=home), home=home)
    _require_plannable(config)
    process_bytes = resident_memory_bytes()  # before tokenizer and outline come to it, as a run measures it
    notes: list[str] = []

    def tell(text: str) -> None:
        notes.append(text)
        note(text)

    loaded = load_rows(config, config.data)
    require_rewards(config, home=home)
    method = choose_method(config, loaded)
    told = {"name": method, "reason": "as given" if config.method else f"goes with rows of the format {loaded.format}"}
    config = config.model_copy(update={"method": method})
    aside = config.evaluation_data
    held_out = load_rows(config, aside, preferences=loaded.are_preferences) if aside else None
    outline = load_outline(config.model, home=home, dtype=config.dtype, note=tell)
    shape = shape_of(outline.model, context_length=outline.context_length)
    plain = outline_renderer(outline, loaded.examples, max_length=config.max_length, note=tell)
    renderer = AnswerRenderer(plain)
    rows = prepare_rows(
        loaded, renderer, held_out_data=held_out, held_out=config.held_out,
        validation=0 if is_policy_method(config.method) else config.validation, seed=config.rows_seed, note=tell,
    )  # fmt: skip
    planner = _planner(config, outline, shape, rows, renderer, process_bytes=process_bytes, home=home, note=tell)
    if config.target_device is None and outline.base is not None and config.probe:
        planner = _probed(config, planner, rows, outline, home=home, note=tell)
    if planner.rollouts is not None:
        tell(f"answers are taken to be {planner.rollouts.lengths(config)[1]}; the reward's own time is not counted")
    ways = list(_ways(config, planner, shape))
    estimates = [planner.estimate(way.config, name=way.name, options=way.options) for way in ways]
    choices = planner.choose(config)
    return {
        "schema": PLAN_SCHEMA,
        "method": told,
        "data": _describe_rows(rows, outline),
        "model": _describe_model(config, shape, outline),
        "machine": _describe_place(planner.place, home),
        "estimates": [{**one.to_json(), "needs": way.needs} for one, way in zip(estimates, ways, strict=True)],
        "chosen": _chosen(config, planner, estimates[0], choices),
        "choices": [one.to_json() for one in (choose_replay(config, len(rows.train)), *choices.choices)],
        "left_out": _left_out(config, shape),
        "seeds": {"trainings": config.seeds, "seconds": round(config.seeds * estimates[0].seconds, 3)},
        "error": {"margin_of_memory": planner.place.margin, **error_summary(planner.history)},
        "notes": notes,
    }  # fmt: skip


def _require_plannable(config: PlanConfig) -> None:
    if config.adaptation not in PLANNED_ADAPTATIONS:
        raise ConfigError(
            f"{config.adaptation} cannot be planned: what it trains is known once it is put on the base",
            where="--adaptation",
            remedy=f"plan one of {', '.join(PLANNED_ADAPTATIONS)}",
        )
    if not is_planned_method(config):
        raise ConfigError(
            f"{config.method} cannot be planned: what it computes over the answers that it writes is not counted",
            where="--method",
            remedy="time a few steps: hone train DATA --max-steps 3 and the same options",
        )


def plan_history(home: Path) -> JsonDict:
    """What was predicted of earlier runs and what they took, and by how much the predictions were off."""
    entries = [entry for entry in read_history(home) if entry["kind"] == "run"]
    shown = [
        {name: entry[name] for name in ("name", "method", "steps", "predicted", "actual", "corrected_by")}
        for entry in entries
    ]
    return {"schema": PLAN_SCHEMA, "history": shown, "error": error_summary(entries)}


@dataclass(frozen=True, slots=True)
class _Way:
    """One way of training."""

    name: str
    options: str
    config: TrainConfig
    needs: str | None = None


def _ways(config: PlanConfig, planner: Planner, shape: ModelShape) -> Iterator[_Way]:
    """The ways that are compared; first the one that is asked for."""
    asked = planner.choose(config)
    every = {"recompute_layers": shape.num_layers}
    again = f"--recompute-layers {shape.num_layers}"
    yield _Way(_name(config, asked, shape), "", config)
    if config.adaptation != "full":
        if asked.rank != _OTHER_RANK:
            higher = config.model_copy(update={"rank": _OTHER_RANK, "alpha": None})
            yield _Way(_name(higher, planner.choose(higher), shape), f"--rank {_OTHER_RANK}", higher)
        if config.layers is None and _has_mlp(shape):
            narrow = config.model_copy(update={"layers": (_MLP,)})
            yield _Way(f"{_name(narrow, asked, shape)}, MLP only", f"--layers {_MLP}", narrow)
        if asked.recompute_layers < shape.num_layers:
            less = config.model_copy(update=every)
            yield _Way(_name(less, planner.choose(less), shape), again, less)
        if config.quantize is None:
            missing = None if importlib.util.find_spec("bitsandbytes") else "pip install 'hone-llm[4bit]'"
            small = config.model_copy(update={"quantize": "nf4", **every})
            yield _Way(_name(small, planner.choose(small), shape), f"--quantize nf4 {again}", small, missing)
    full = config.model_copy(
        update={"adaptation": "full", "rank": None, "alpha": None, "layers": None, "quantize": None}
    )
    if config.adaptation != "full":
        yield _Way(_name(full, planner.choose(full), shape), "--adaptation full", full)
    if planner.choose(full).recompute_layers < shape.num_layers:
        full_less = full.model_copy(update=every)
        yield _Way(_name(full_less, planner.choose(full_less), shape), f"--adaptation full {again}", full_less)


def _name(config: TrainConfig, choices: TrainingChoices, shape: ModelShape) -> str:
    names = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA", "full": "full"}
    parts = [names[config.adaptation]]
    if config.adaptation != "full":
        parts[0] += f" rank {choices.rank}"
    if config.quantize:
        parts.append("4-bit base")
    if choices.recompute_layers:
        whole = choices.recompute_layers >= shape.num_layers
        parts.append("recompute" if whole else f"recompute {choices.recompute_layers} layers")
    return ", ".join(parts)


def _has_mlp(shape: ModelShape) -> bool:
    return any(_MLP in layer.name.split(".") for layer in shape.layers)


def _left_out(config: PlanConfig, shape: ModelShape) -> list[str]:
    left = []
    if config.layers is None and not _has_mlp(shape):
        left.append("LoRA on the MLP alone: no layer of this model stands in a module of the name mlp")
    return left


def _chosen(config: PlanConfig, planner: Planner, asked: Estimate, choices: TrainingChoices) -> JsonDict:
    """What hone would do, and why; with changes that would make it fit where it does not."""
    remedies = planner.remedies(config, choices) if asked.cannot_fit else ()
    return {
        "name": asked.name,
        "starts": not asked.cannot_fit,
        "reason": METHOD_REASONS[config.adaptation],
        "remedies": [one.to_json() for one in remedies],
    }


def _planner(
    config: PlanConfig,
    outline: Outline,
    shape: ModelShape,
    rows: PreparedRows,
    renderer: RowRenderer,
    *,
    process_bytes: int,
    home: Path,
    note: Note,
) -> Planner:
    history = read_history(home)
    machines = read_machines(home)
    rate = None if config.rate is None else parse_rate(config.rate)
    margin = error_margin(history)
    if config.target_device is not None:
        machine = _target(config.target_device, machines)
        rates = rates_of(machine)
        assert machine.memory_gb is not None, "rates_of has seen to it"
        free = round(machine.memory_gb * 1e9 * _USABLE_SHARE)
        place, key = Place(machine, rates, False, free, 0, 2, margin, rate), f"target-{machine.name}"
    else:
        device = check_device(config.device)
        dtype = check_dtype(config.dtype, device)
        described = _device_of(describe_machine(home), device)
        on_host = torch.device(device).type != "cuda"
        rates = rates_for(shape, home=home, device=device, dtype=dtype, note=note)
        place = Place(
            machines[THIS_MACHINE], rates, on_host, described["free_bytes"], process_bytes, dtype.itemsize, margin, rate
        )
        key = machine_key(device, dtype)
    train, validating = sequences_to_compute(config, rows)
    return Planner(
        shape, train, validating, place, history, key, supports_packing(outline.model) and not config.reference_path,
        replay_stand_ins(config, renderer, len(rows.train)), rows.shape.kind,
        planned_rollouts(config, rows, context_length=outline.context_length, history=history),
    )  # fmt: skip


def _target(name: str, machines: dict[str, Machine]) -> Machine:
    known = [one for one in machines if one != THIS_MACHINE]
    if name.lower() not in known:
        raise ConfigError(
            f"the table has no machine {name!r}; it has {', '.join(known)}",
            where="--target-device",
            remedy="take one of these, or add yours to machines.yaml in the home folder (docs/plan.md)",
        )
    return machines[name.lower()]


def _device_of(machine: JsonDict, device: str) -> JsonDict:
    """What `hone doctor` says of ``device``."""
    parsed = torch.device(device)
    name = f"cuda:{parsed.index or 0}" if parsed.type == "cuda" else parsed.type
    found: JsonDict = next(one for one in machine["devices"] if one["device"] == name)
    return found


def _probed(
    config: PlanConfig, planner: Planner, rows: PreparedRows, outline: Outline, *, home: Path, note: Note
) -> Planner:
    """The same planner after steps of the real model were timed, where that is worth it."""
    asked = planner.estimate(config, name="asked")
    key = planner.key_of(config, asked.training.recompute_layers)
    known = any(entry["key"] == key for entry in planner.history)
    writes = planner.rollouts
    if (known and (writes is None or writes.known)) or asked.fits != "yes" or config.quantize is not None:
        return planner
    if writes is None:
        note("loading the base and timing two steps, once for this base and method")
        probe_speed(config, planner, key=key, home=home, note=note)
        return replace(planner, history=read_history(home))
    note("loading the base, writing the answers of one step and timing it, once for this base and these rows")
    probe_rollouts(config, planner, rows, key=key, home=home, note=note)
    history = read_history(home)
    known_now = planned_rollouts(config, rows, context_length=outline.context_length, history=history)
    return replace(planner, history=history, rollouts=known_now)


def _describe_rows(rows: PreparedRows, outline: Outline) -> JsonDict:
    return {
        "source": rows.manifest["source"]["name"],
        "train": len(rows.train),
        "validation": len(rows.validation),
        "held_out": len(rows.held_out),
        "dropped": rows.ledger.dropped,
        "tokens_are_estimated": outline.base is None,
    }


def _describe_model(config: PlanConfig, shape: ModelShape, outline: Outline) -> JsonDict:
    return {
        "name": config.model,
        "architecture": shape.architecture,
        "parameters": shape.num_parameters,
        "linear_values": shape.linear_values,
        "head_values": shape.head_values,
        "can_be_loaded": outline.base is not None,
    }


def _describe_place(place: Place, home: Path) -> JsonDict:
    """Where the plan is for; of this machine, what `hone doctor` says."""
    described: JsonDict = {
        "name": place.machine.name,
        "title": place.machine.title,
        "free_bytes": place.free_bytes,
        "price_per_hour": place.machine.price_per_hour if place.price_per_hour is None else place.price_per_hour,
        "currency": None if place.price_per_hour is not None else place.machine.currency,
        "watts": place.machine.watts,
        "source": place.machine.source,
        "rates": asdict(place.rates),
    }
    if place.machine.name == THIS_MACHINE:
        whole = describe_machine(home)
        described |= {name: whole[name] for name in ("processor", "memory", "devices", "chosen")}
    return described
