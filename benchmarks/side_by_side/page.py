"""The part of docs/performance.md that the benchmark writes; whatever else stands on the page stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from side_by_side.systems import SWITCHES, SYSTEMS

_FILE = "performance.json"
_GIB = 2**30
_AND = " and those in the same environment"
_EQUAL = (
    "Held equal: base weights, adapter and its first numbers, token ids and labels, rows of each optimizer step, loss "
    "summed and divided by the step's supervised tokens, AdamW (0.9, 0.999, 1e-8, no decay), linear schedule without "
    "warm-up, clipping at 1, threads. Numbers of rows follow from the workload; shown are those of the first."
)


def write_page(path: Path, results: dict[str, Any], file: Path | None = None) -> None:
    """Put the results between the marks of the page, or make the page.

    Args:
        path: the page.
        results: all figures.
        file: where they are kept; a page has marks for each such file, of one machine and dtype.
    """
    name = "" if file is None or file.name == _FILE else f" to {file.name}"
    begin, end = (f"<!-- written by benchmarks/speed.py{name}: {word} -->" for word in ("begin", "end"))
    if not path.exists():
        path.write_text(f"# Performance\n\n{begin}\n{end}\n", encoding="utf-8")
    write_between(path, begin, end, section(results))


def write_between(path: Path, begin: str, end: str, text: str) -> None:
    """Put ``text`` between two marks of a page; what stood there goes, whatever else stands on it stays."""
    page = path.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise SystemExit(f"{path} has no place for the figures: put these two lines where they belong:\n{begin}\n{end}")
    before, rest = page.split(begin, 1)
    path.write_text(f"{before}{begin}\n\n{text}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def section(results: dict[str, Any]) -> str:
    """Everything between the marks."""
    parts = [_machine(results), _headlines(results)]
    parts += [_workload(name, one) for name, one in results["workloads"].items()]
    parts += [_ablation(results), _settings(results), _repeat(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(results: dict[str, Any]) -> str:
    machine, model, threads = results["machine"], results["model"], results["threads"]
    features = ", ".join(machine["features"]) or "none of those that matter here"
    rates = [one["roofline_flops"] for one in results["workloads"].values()]
    low, high = (f(rate["bfloat16"] for rate in rates) / 1e12 for f in (min, max))
    low32, high32 = (f(rate["float32"] for rate in rates) / 1e12 for f in (min, max))
    shares = [one["others_share"] for one in results["workloads"].values() if one["others_share"] is not None]
    told = f" Other processes took at most {max(shares):.0%} of the cores during a measurement." if shares else ""
    return (
        f"Machine: {machine['architecture']} with {machine['cores']} cores ({features}), "
        f"{machine['memory_bytes'] / _GIB:.0f} GiB, {threads} threads.{told} Matrix products measured in the same run: "
        f"{low:.2f}-{high:.2f} TFLOP/s in bfloat16, {low32:.2f}-{high32:.2f} in float32.\n\n"
        f"Model: {model['name']}, {model['parameters'] / 1e6:.0f}M parameters, computed in {results['dtype']}; "
        f"LoRA of rank 16 on all linear layers but the head."
    )


def _headlines(results: dict[str, Any]) -> str:
    lines = [
        "| workload | hone, real tokens/s | fastest peer | real tokens/s | hone is | peak memory: hone, leanest peer "
        "| of the roofline |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in results["workloads"].items():
        head = one["headline"]
        if head is None:
            lines.append(f"| {name} | not measured | | | | | |")
            continue
        systems = one["systems"]
        lines.append(
            f"| {name} | **{_rate(systems['hone'])}** | {head['fastest_peer']} "
            f"| {_rate(systems[head['fastest_peer']])} | **{_times(head['hone_is_times'])}** "
            f"| {head['peak_rss_bytes'] / _GIB:.1f} GiB, {head['leanest_peak_rss_bytes'] / _GIB:.1f} GiB "
            f"({head['leanest_peer']}) | {head['share_of_roofline']:.0%} |"
        )
    return "\n".join(lines)


def _workload(name: str, one: dict[str, Any]) -> str:
    facts = one["facts"]
    lines = [
        f"### {name}",
        "",
        f"{facts['says'][0].upper()}{facts['says'][1:]}: {facts['rows']} rows of "
        f"{facts['shortest']}-{facts['longest']} tokens "
        f"({facts['mean_length']:.0f} on average, {facts['supervised_share']:.0%} supervised), "
        f"{facts['rows_per_step']} a step; {facts['steps']} steps, the first {facts['warmup_steps']} not timed. "
        f"{one['flops_per_token'] / 1e9:.2f} GFLOP a token.",
        "",
        "| system | real tokens/s (range) | supervised tokens/s | first step | peak memory | hone is (range) | runs "
        "| cosine | first loss | losses against float32 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for system, found in one["systems"].items():
        if system.startswith("hone without"):
            continue
        gate, speed = found["gate"], found["tokens_per_second"]
        lines.append(
            f"| {system} | {speed['median']:.0f} ({speed['least']:.0f}-{speed['greatest']:.0f}) "
            f"| {_rate(found, 'supervised_tokens_per_second')} | {found['first_step_seconds']['median']:.0f} s "
            f"| {found['peak_rss_bytes']['median'] / _GIB:.1f} GiB "
            f"| {'' if system == 'hone' else _times(found['hone_is_times'])} | {speed['runs']} "
            f"| {gate['cosine']:.4f} | {gate['first_loss']:.2%} | {gate['against_float32']:+.2%} |"
        )
    shown = {system: why for system, why in one["not_counted"].items() if not system.startswith("hone without")}
    lines += ["", *(f"- {system}: not measured ({why})" for system, why in shown.items())]
    return "\n".join(lines).rstrip()


def _ablation(results: dict[str, Any]) -> str:
    lines = []
    for name, one in results["workloads"].items():
        for switch in SWITCHES:
            system = f"hone without {switch}"
            if system in one["systems"]:
                found = one["systems"][system]
                ratio = found["hone_is_times"]
                lines.append(
                    f"| {name} | {switch} | {SWITCHES[switch].says} | {_rate(found)} | {_times(ratio)} "
                    f"| {found['peak_rss_bytes']['median'] / _GIB:.1f} GiB |"
                )
            elif system in one["not_counted"]:
                lines.append(f"| {name} | {switch} | {one['not_counted'][system]} | not measured | | |")
    if not lines:
        return ""
    head = ["### Ablation: hone with one switch off", ""]
    head += ["| workload | off | then | real tokens/s | hone whole is | peak memory |", "|---|---|---|---|---|---|"]
    return "\n".join(head + lines)


def _settings(results: dict[str, Any]) -> str:
    """What each system made of its settings, in the first workload in which it ran."""
    lines = ["### Settings", "", _EQUAL, ""]
    first_of: dict[str, str] = {}
    measured = list(results["workloads"].values())
    for system in SYSTEMS:
        found = next((one["systems"][system] for one in measured if system in one["systems"]), None)
        if found is not None:
            flags = json.dumps(found["flags"], ensure_ascii=False, sort_keys=True)
            lines.append(f"- **{system}**: {SYSTEMS[system].says}. `{flags}`")
            libraries = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
            first_of.setdefault(libraries, system)
    lines += ["", *(f"Libraries of {system}{_AND}: {libraries}." for libraries, system in first_of.items())]
    return "\n".join(lines)


def _repeat(results: dict[str, Any]) -> str:
    commands = dict.fromkeys(one["command"] for one in results["workloads"].values())
    lines = "\n".join(f"$ {command}" for command in commands)
    return (
        f"### How to repeat\n\n<!-- not run: takes hours -->\n```console\n{lines}\n```\n\n"
        "An interrupted run goes on where it was when the same command is given again."
    )


def _rate(found: dict[str, Any], what: str = "tokens_per_second") -> str:
    return f"{found[what]['median']:.0f}"


def _times(ratio: dict[str, Any] | None) -> str:
    if ratio is None:
        return "not paired"
    return f"{ratio['median']:.2f}x ({ratio['least']:.2f}-{ratio['greatest']:.2f})"
