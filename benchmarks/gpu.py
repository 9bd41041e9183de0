"""Measure training on one card: parity with the oracle first, then speed and memory beside transformers and PEFT.

    python benchmarks/gpu.py --json FOLDER/gpu.json --parts gate 8b 1b
    python benchmarks/gpu.py --json FOLDER/gpu.json --page docs/performance.md

Nothing has to be installed on an image that holds torch, transformers and peft: hone is read from ``src``, and only
what trains is imported. Every result is kept in the JSON file as soon as it is there; the same command goes on where
it was. No further process is started when ``--seconds`` are nearly over. Each run is a process of its own, in turn
(A B C, C B A, ...), so that a round is one pair of hone with its peer, and memory is each one's own. What fails the
parity with the float32 eager oracle is not timed.

``--device cpu --tiny`` takes the same way in seconds, with figures that mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

BEGIN, END = "<!-- written by benchmarks/gpu.py: begin -->", "<!-- written by benchmarks/gpu.py: end -->"
HONE, PEER = ("hone", "hone/varlen"), "plain/sdpa"
SYSTEMS = (*HONE, PEER)
# bfloat16 without sparsity, FLOP/s, from NVIDIA's data sheets; the first name that the card's own contains counts.
PEAKS = {
    "H200": 989e12, "GH200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "B200": 2250e12,
    "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12, "RTX 4090": 165e12,
}  # fmt: skip
# Processes of one run may differ by so much and still compute the same: rounding in bfloat16 on other orders of sums.
LOSS_BOUND, NORM_BOUND = 0.01, 0.05
SECONDS_OF_A_RUN = 150  # assumed of the first one


def loads(tiny: bool) -> dict[str, Any]:
    """What each part trains: full rows of 4,096 tokens at 8B, short chat rows at 1B."""
    from side_by_side.card import Load

    found = {
        "8b": Load("8b", 4096, 4096, 4, 1.0, 4096, 2, 6),
        "1b": Load("1b", 60, 300, 64, 0.5, 8192, 4, 16),
    }
    if not tiny:
        return found
    return {name: replace(load, shape="tiny", shortest=load.shortest // 64 + 4, longest=load.longest // 64 + 8,
                          rows_per_step=4, micro_tokens=128, warmup=1, timed=2)
            for name, load in found.items()}  # fmt: skip


def candidates(system: str, layers: int) -> list[dict[str, Any]]:
    """Settings from the fastest to the leanest; the first that fits is measured. A peer recomputes all or none."""
    counts = [0, layers // 4, layers // 2, layers] if system in HONE else [0, layers]
    return [{"recompute_layers": count} for count in dict.fromkeys(counts)]


def child(work: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One process: ``work`` as a file, figures as a file."""
    task, result = folder / "task.json", folder / "result.json"
    task.write_text(json.dumps({**work, "result": str(result)}), encoding="utf-8")
    result.unlink(missing_ok=True)
    done = subprocess.run([sys.executable, str(HERE / "gpu.py"), "--task", str(task)], check=False,
                          stderr=subprocess.PIPE, text=True)  # fmt: skip
    if not result.exists():
        return {"failed": (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]}
    return dict(json.loads(result.read_text(encoding="utf-8")))


def work(task: Path) -> None:
    """What a child does."""
    from side_by_side import card

    given = json.loads(task.read_text(encoding="utf-8"))
    if given["kind"] == "gate":
        figures: Any = {
            "checks": card.gate(given["device"], given["attentions"], given["families"]),
            **about(given["device"]),
        }
    else:
        figures = card.run(given["system"], card.Load(**given["load"]), given["device"], given["settings"])
    Path(given["result"]).write_text(json.dumps(figures), encoding="utf-8")


def about(device: str) -> dict[str, Any]:
    """The card, its limits, and the versions of what computes."""
    import torch

    versions = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "peft"):
        versions[name] = importlib.metadata.version(name)
    is_cuda = device.startswith("cuda")
    name = torch.cuda.get_device_name(device) if is_cuda else "a processor"
    peak = next((flops for part, flops in PEAKS.items() if part in name), None)
    total = torch.cuda.get_device_properties(device).total_memory if is_cuda else 0
    return {"card": name, "peak_flops": peak, "gemm_flops": gemm_flops(device, 8192 if is_cuda else 256),
            "memory_bytes": total, "versions": versions}  # fmt: skip


def gemm_flops(device: str, side: int) -> float:
    """FLOP/s of a square product in bfloat16: the best of ten."""
    import torch

    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        left @ right
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


class Campaign:
    """Runs what is missing in the JSON file, and keeps each result there at once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.path = options, Path(options.json)
        self.until = time.monotonic() + options.seconds
        self.longest = 0.0 if options.tiny else SECONDS_OF_A_RUN
        self.results: dict[str, Any] = {"gate": None, "runs": {}, "settings": {}}
        if self.path.exists():
            self.results = json.loads(self.path.read_text(encoding="utf-8"))

    def do(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """The figures of one process; None where time would not suffice."""
        if time.monotonic() + self.longest > self.until:
            return None
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            figures = child({**given, "device": self.options.device}, Path(folder))
        self.longest = max(time.monotonic() - started, 0 if self.options.tiny else 20)
        return figures

    def keep(self) -> None:
        """Write the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".tmp")
        fresh.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self.path)

    def gate(self) -> bool:
        """Parity of both ways of attention with the oracle."""
        if self.results["gate"] is None:
            from side_by_side.card import GATED

            families = ["llama", "gemma2"] if self.options.tiny else list(GATED)
            figures = self.do({"kind": "gate", "attentions": ["groups", "varlen"], "families": families})
            if figures is None or "failed" in figures:
                print(f"gate: {'no time left' if figures is None else figures['failed']}")
                return False
            self.results["gate"] = figures
            self.keep()
        wrong = [one for one in self.results["gate"]["checks"] if not one["passed"]]
        for one in wrong:
            print("not equal to the oracle:", json.dumps(one))
        return True

    def passes(self, system: str) -> bool:
        """Whether no check of hone's way of attention has failed; the peer's own runs are compared with hone's."""
        way = "varlen" if system == "hone/varlen" else "groups"
        return system == PEER or all(one["passed"] for one in self.results["gate"]["checks"] if one["attention"] == way)

    def part(self, name: str) -> bool:
        """All rounds of one load; False where time ran out."""
        from side_by_side.card import SHAPES

        load = loads(self.options.tiny)[name]
        layers = SHAPES[load.shape]["num_hidden_layers"]
        for number in range(self.options.rounds):
            order = self.options.systems if number % 2 == 0 else self.options.systems[::-1]
            for system in order:
                key = f"{name}/{system}/{number}"
                if key in self.results["runs"] or not self.passes(system):
                    continue
                if not self._first_that_fits(key, system, load, layers):
                    print(f"{name}: no time left; give the same command again")
                    return False
        return True

    def _first_that_fits(self, key: str, system: str, load: Any, layers: int) -> bool:
        fits = f"{key.split('/', 1)[0]}/{system}"
        for place, settings in enumerate(candidates(system, layers)):
            if place < self.results["settings"].get(fits, 0):
                continue
            given = {"kind": "run", "system": system, "load": vars(load), "settings": settings}
            figures = self.do(given)
            if figures is None:
                return False
            if "out_of_memory" in figures:
                print(f"{key}: {json.dumps(settings)} does not fit")
                self.results["settings"][fits] = place + 1
                self.keep()
                continue
            break
        else:
            figures = {"failed": "no setting fits into the card's memory"}
        self.results["runs"][key] = figures
        self.keep()
        print(key, figures.get("failed") or f"{figures['tokens_per_second']:.0f} tokens/s")
        return True


def same_training(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Why two runs did not compute the same; an empty string where they did."""
    losses = max(abs(a - b) / abs(b) for a, b in zip(one["losses"], other["losses"], strict=True))
    norms = median(abs(a - b) / max(b, 1e-12) for a, b in zip(one["sketch"], other["sketch"], strict=True))
    if losses > LOSS_BOUND or norms > NORM_BOUND:
        return f"losses {losses:.2%} apart, gradient norms {norms:.2%}"
    return ""


def page(results: dict[str, Any]) -> str:
    """The tables in Markdown."""
    from side_by_side.roofline import flops_per_token

    gate = results["gate"]
    versions = ", ".join(f"{name} {version}" for name, version in gate["versions"].items())
    lines = [f"Card: {gate['card']}, {gate['memory_bytes'] / 2**30:.0f} GiB. Square products in bfloat16 reach "
             f"{gate['gemm_flops'] / 1e12:.0f} TFLOP/s. {versions}.", ""]  # fmt: skip
    for way in ("groups", "varlen"):
        checks = [one for one in gate["checks"] if one["attention"] == way]
        kernels = sorted({one["kernel"] for one in checks})
        lines.append(f"- Parity, `{way}` ({'; '.join(kernels)}): {sum(one['passed'] for one in checks)} of "
                     f"{len(checks)} checks hold; least cosine {min(c['cosine'] for c in checks):.5f}.")  # fmt: skip
    lines += ["", "| load | system | tokens/s (range) | hone is | of the card's peak | of measured products | "
              "peak memory | layers recomputed | runs |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name in ("8b", "1b"):
        for system in SYSTEMS:
            runs = {key.rsplit("/", 1)[1]: run for key, run in results["runs"].items()
                    if key.rsplit("/", 1)[0] == f"{name}/{system}"}  # fmt: skip
            if not runs:
                continue
            good = {number: run for number, run in runs.items() if "failed" not in run}
            peers = {number: results["runs"].get(f"{name}/{PEER}/{number}", {}) for number in good}
            pairs = {number: peer for number, peer in peers.items() if "tokens_per_second" in peer}
            wrong = [why for number, peer in pairs.items() if (why := same_training(good[number], peer))]
            if not good or wrong:
                reason = wrong[0] if wrong else next(iter(runs.values()))["failed"]
                lines.append(f"| {name} | {system} | not counted: {reason} | | | | | | {len(runs)} |")
                continue
            speeds = [run["tokens_per_second"] for run in good.values()]
            ratios = [good[number]["tokens_per_second"] / peer["tokens_per_second"] for number, peer in pairs.items()]
            first = next(iter(good.values()))
            most = max(run["peak_bytes"] for run in good.values())
            needed = median(speeds) * flops_per_token(first["facts"], first["facts"])
            share = f"{needed / gate['peak_flops']:.0%}" if gate["peak_flops"] else "not known"
            beside = f"{median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})" if ratios and system != PEER else ""
            lines.append(
                f"| {name} | {system} | {median(speeds):,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f}) | {beside} | "
                f"{share} | {needed / gate['gemm_flops']:.0%} | {most / 2**30:.1f} GiB | "
                f"{first['flags']['recompute_layers']} | {len(good)} |"
            )
    return "\n".join(lines)


def write_page(path: Path, text: str) -> None:
    """Put the tables between the two marks, at the end where there are none yet."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    block = f"{BEGIN}\n\n{text}\n\n{END}"
    before, found, rest = old.partition(BEGIN)
    after = rest.partition(END)[2] if found else "\n"
    path.write_text(f"{before if found else old.rstrip() + chr(10) * 2}{block}{after}", encoding="utf-8")


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="gpu.json", help="file of results; what it holds is not done again")
    parser.add_argument("--page", help="Markdown page that receives the tables")
    parser.add_argument("--parts", nargs="+", choices=["gate", "8b", "1b"], default=["gate", "8b", "1b"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=5, help="pairs of each load")
    parser.add_argument("--seconds", type=float, default=570, help="time of this command")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="see that everything works, with tiny models")
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        work(options.task)
        return
    campaign = Campaign(options)
    whole = campaign.gate() and all(campaign.part(part) for part in options.parts if part != "gate")
    if campaign.results["gate"] is not None:
        text = page(campaign.results)
        print(text)
        if options.page:
            write_page(Path(options.page), text)
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
