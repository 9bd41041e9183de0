"""The order of a whole run: gates first, then rounds that go through the systems forwards and backwards in turn.

Round 1 measures A B C ..., round 2 ... C B A: each round is one pair of hone with every peer, and between rounds each
pair is A B B A, so that a drift of the machine falls on both.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from side_by_side.gate import Verdict, compare_gradients, judge
from side_by_side.measure import Environments, Store, hash_of_sources, hone_folder, key_of, measure, run_tool
from side_by_side.spec import Spec, Workload
from side_by_side.systems import SYSTEMS, System, oracle_in

GATE_NORM_BOUND = 1e9  # clips nothing, so that the whole gradient is compared


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Args:
        systems: names of :data:`SYSTEMS`, hone first.
        pairs: rounds of hone and of peers at their best.
        default_pairs: rounds of peers in their default setting.
        ablation_pairs: rounds of hone with one switch off; 0 for no ablation.
        learning_rate: of every system.
        limit_seconds: after which a measurement is given up.
        roofline_seconds: spent on each matrix product.
    """

    systems: tuple[str, ...]
    pairs: int
    default_pairs: int
    ablation_pairs: int
    learning_rate: float
    limit_seconds: float
    roofline_seconds: float

    def rounds_of(self, name: str) -> int:
        """Rounds in which ``name`` takes part."""
        if name.startswith("hone without"):
            return self.ablation_pairs
        return self.default_pairs if SYSTEMS[name].is_default else self.pairs


@dataclass
class Outcome:
    """What was found on one workload.

    Args:
        workload: the rows.
        rooflines: matrix-product rates, before and after the rounds.
        oracles: losses of the eager oracle, step by step: in float32, then in the compute dtype where it is another.
        runs: timed runs of each system, by round.
        verdicts: whether each system computes what the oracle does.
        absent: systems that were not measured, with the reason.
    """

    workload: Workload
    rooflines: list[dict[str, Any]] = field(default_factory=list)
    oracles: list[list[float]] = field(default_factory=list)
    runs: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


class Campaign:
    """One benchmark over prepared workloads.

    Args:
        store: where results are kept.
        prepared: what ``prepare`` wrote, and its folder.
        environments: interpreters and threads.
        plan: what is asked for.
    """

    def __init__(self, store: Store, prepared: Path, environments: Environments, plan: Plan) -> None:
        self.store, self.environments, self.plan, self.folder = store, environments, plan, prepared
        self.prepared = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))
        drivers = Path(__file__).parent
        driving = "".join((drivers / f"{name}.py").read_text(encoding="utf-8") for name in ("meter", "spec", "worker"))
        weights = b"".join(path.read_bytes() for path in sorted(prepared.glob("*/*model*.safetensors")))
        self._same = {
            "hone": hash_of_sources(hone_folder()),
            "harness": hashlib.sha256(driving.encode()).hexdigest(),
            "weights": hashlib.sha256(weights).hexdigest(),
            "dtype": self.prepared["dtype"],
            "threads": environments.threads,
            "learning_rate": plan.learning_rate,
        }

    def run(self, name: str) -> Outcome:
        """Everything on one workload."""
        path = self.folder / self.prepared["workloads"][name]
        outcome = Outcome(Workload.read(path))
        gate, curves = self._oracle(outcome, path)
        outcome.oracles = [curve["losses"] for curve in curves]
        gates = {name: self._gate(outcome, path, name) for name in self.plan.systems}
        ready = [system for system in self.plan.systems if self._may_run(outcome, system, gates[system], gate)]
        outcome.rooflines.append(self._roofline(path, "before"))
        self._rounds(outcome, path, ready)
        outcome.rooflines.append(self._roofline(path, "after"))
        for system in ready:
            if system in outcome.absent:
                continue
            outcome.verdicts[system] = judge(
                gates[system], list(outcome.runs.get(system, {}).values()), gate, outcome.oracles,
                dtype=self.prepared["dtype"], gradients=self.store.gradients(gates[system]["key"]),
                oracle_gradients=self.store.gradients(gate["key"]),
            )  # fmt: skip
        return outcome

    def _rounds(self, outcome: Outcome, path: Path, ready: Sequence[str]) -> None:
        for number in range(max((self.plan.rounds_of(system) for system in ready), default=0)):
            taking_part = [system for system in ready if number < self.plan.rounds_of(system)]
            for system in taking_part if number % 2 == 0 else reversed(taking_part):
                if system in outcome.absent:
                    continue
                found = self._measure(outcome, path, system, SYSTEMS[system], "time", number)
                if "error" in found:
                    outcome.absent[system] = found["error"]
                else:
                    outcome.runs.setdefault(system, {})[number] = found

    def _oracle(self, outcome: Outcome, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The oracle's step at the probe adapter, and its curves in float32 and in the compute dtype."""
        dtypes = dict.fromkeys(("float32", self.prepared["dtype"]))
        found = [self._measure(outcome, path, "oracle", oracle_in("float32"), "gate", 0)]
        found += [self._measure(outcome, path, f"oracle in {one}", oracle_in(one), "time", 0) for one in dtypes]
        for one in found:
            if "error" in one:
                raise SystemExit(f"the oracle failed, so nothing can be judged: {one['error']}")
        return found[0], found[1:]

    def _gate(self, outcome: Outcome, path: Path, name: str) -> dict[str, Any]:
        if SYSTEMS[name].environment not in self.environments.pythons:
            return {"error": "no environment given"}
        return self._measure(outcome, path, name, SYSTEMS[name], "gate", 0)

    def _may_run(self, outcome: Outcome, name: str, gate: dict[str, Any], oracle: dict[str, Any]) -> bool:
        """Whether it is worth a clock; what cannot pass the gate is not timed."""
        if "error" in gate:
            outcome.absent[name] = gate["error"]
            return False
        paths = self.store.gradients(gate["key"]), self.store.gradients(oracle["key"])
        if not paths[0].exists():
            outcome.absent[name] = "it gave no gradients to compare"
            return False
        verdict = judge(
            gate,
            [],
            oracle,
            outcome.oracles,
            dtype=self.prepared["dtype"],
            gradients=paths[0],
            oracle_gradients=paths[1],
        )
        cosine, _, _ = compare_gradients(*paths)
        print(f"{outcome.workload.name}: gate of {name}: gradient cosine {cosine:.5f}", file=sys.stderr, flush=True)
        failed = [problem for problem in verdict.problems if not problem.startswith("losses ")]
        if failed:
            outcome.verdicts[name] = verdict
            outcome.absent[name] = "fails the gate: " + "; ".join(failed)
        return not failed

    def _measure(
        self, outcome: Outcome, path: Path, name: str, system: System, kind: str, number: int
    ) -> dict[str, Any]:
        workload, gate = outcome.workload, kind == "gate"
        rows = hashlib.sha256(path.read_bytes()).hexdigest()
        driver = (Path(__file__).parent / f"{system.driver}.py").read_bytes()
        # what hone's code cannot change is kept when it changes; clocks are not, so that pairs stay pairs
        apart = {"hone": ""} if name.startswith("oracle") or (gate and system.driver != "hone_side") else {}
        key = key_of(
            **{**self._same, **apart}, system=[name, system.driver, system.settings, system.variables], rows=rows,
            kind=kind, number=number, driver=hashlib.sha256(driver).hexdigest(),
        )  # fmt: skip
        told = f"{workload.name}: {kind} {name}" + ("" if gate else f", round {number + 1}")
        print(told + ("" if self.store.get(key) is None else " (kept)"), file=sys.stderr, flush=True)
        scratch = self.store.folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        spec = Spec(
            system=name,
            driver=system.driver,
            settings=system.settings,
            model=str(self.folder / "model"),
            adapter=str(self.folder / ("probe" if gate else "start")),
            rows=str(path),
            steps=1 if gate else workload.steps,
            learning_rate=self.plan.learning_rate,
            max_gradient_norm=GATE_NORM_BOUND if gate else 1.0,
            dtype=system.settings.get("dtype", self.prepared["dtype"]),
            threads=self.environments.threads,
            gradients=str(self.store.gradients(key)) if gate else "",
            scratch=str(scratch),
            result="",
        )
        return measure(self.store, key, spec, system, self.environments, limit_seconds=self.plan.limit_seconds)

    def _roofline(self, path: Path, when: str) -> dict[str, Any]:
        key = key_of(**self._same, roofline=when, rows=hashlib.sha256(path.read_bytes()).hexdigest())
        if (kept := self.store.get(key)) is not None:
            return kept
        model = self.prepared["model"]
        result = self.store.folder / "now.roofline.json"
        sizes = [model["width"], model["feed_forward_width"], self.plan.roofline_seconds]
        arguments = [str(result), str(self.environments.threads), *map(str, sizes)]
        run_tool("roofline", arguments, self.environments, self.store.folder / "logs" / "roofline.txt")
        return self.store.put(key, json.loads(result.read_text(encoding="utf-8")))
