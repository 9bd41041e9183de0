"""From clock readings to the figures of the page: rates, ratios of pairs, shares of the roofline."""

from __future__ import annotations

from statistics import median
from typing import Any

from side_by_side.campaign import Outcome
from side_by_side.roofline import flops_per_token
from side_by_side.spec import Workload


def tokens_per_second(run: dict[str, Any], workload: Workload) -> float:
    """Real tokens of the timed steps over the time from the end of the warm-up to the end of the last step."""
    ends, warmup = run["step_ends_seconds"], workload.warmup_steps
    tokens = sum(workload.tokens(step) for step in range(warmup, workload.steps))
    return float(tokens / (ends[-1] - ends[warmup - 1]))


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least and greatest, and how many."""
    return {"median": median(values), "least": min(values), "greatest": max(values), "runs": len(values)}


def summarize(outcome: Outcome, model: dict[str, Any], dtype: str) -> dict[str, Any]:
    """All figures of one workload as a plain object; a system that fails the gate has its reason and no speed."""
    workload = outcome.workload
    timed = range(workload.warmup_steps, workload.steps)
    supervised_share = sum(map(workload.supervised, timed)) / sum(map(workload.tokens, timed))
    needed = flops_per_token(model, workload.facts)
    rates = {dt: median(one[dt]["roofline"] for one in outcome.rooflines) for dt in ("bfloat16", "float32")}
    passed = {name: runs for name, runs in outcome.runs.items() if _counts(outcome, name)}
    hone = {number: tokens_per_second(run, workload) for number, run in passed.get("hone", {}).items()}
    systems: dict[str, Any] = {}
    for name, runs in passed.items():
        speeds = {number: tokens_per_second(run, workload) for number, run in runs.items()}
        systems[name] = {
            "tokens_per_second": spread(list(speeds.values())),
            "supervised_tokens_per_second": spread([speed * supervised_share for speed in speeds.values()]),
            "first_step_seconds": spread([run["step_ends_seconds"][0] for run in runs.values()]),
            "peak_rss_bytes": spread([run["peak_rss_bytes"] for run in runs.values()]),
            "share_of_roofline": median(speeds.values()) * needed / rates[dtype],
            "hone_is_times": _ratio(hone, speeds) if name != "hone" else None,
            "gate": outcome.verdicts[name].to_json(),
            "losses": next(iter(runs.values()))["losses"],
            "flags": next(iter(runs.values()))["flags"],
            "notes": next(iter(runs.values()))["notes"],
            "versions": next(iter(runs.values()))["versions"],
        }
    others = [run["others_share"] for runs in outcome.runs.values() for run in runs.values()]
    return {
        "facts": {**workload.facts, "rows_per_step": workload.rows_per_step, "steps": workload.steps,
                  "warmup_steps": workload.warmup_steps},
        "flops_per_token": needed,
        "roofline_flops": rates,
        "oracle_losses": outcome.oracles,
        "systems": systems,
        "not_counted": _not_counted(outcome),
        "others_share": max((share for share in others if share is not None), default=None),
        "headline": _headline(systems),
    }  # fmt: skip


def _counts(outcome: Outcome, name: str) -> bool:
    return name in outcome.verdicts and outcome.verdicts[name].passed and name not in outcome.absent


def _ratio(hone: dict[int, float], speeds: dict[int, float]) -> dict[str, Any] | None:
    pairs = [hone[number] / speed for number, speed in speeds.items() if number in hone]
    return spread(pairs) if pairs else None


def _not_counted(outcome: Outcome) -> dict[str, str]:
    """Why a system has no figures: absent, failed, or not computing the same."""
    reasons = dict(outcome.absent)
    for name, verdict in outcome.verdicts.items():
        if not verdict.passed and name not in reasons:
            reasons[name] = "fails the gate: " + "; ".join(verdict.problems)
    return reasons


def _headline(systems: dict[str, Any]) -> dict[str, Any] | None:
    """Hone beside the fastest peer, and beside the leanest, of those whose figures count."""
    peers = [name for name in systems if "/" in name]
    if "hone" not in systems or not peers:
        return None
    fastest = max(peers, key=lambda name: systems[name]["tokens_per_second"]["median"])
    leanest = min(peers, key=lambda name: systems[name]["peak_rss_bytes"]["median"])
    return {
        "fastest_peer": fastest,
        "hone_is_times": systems[fastest]["hone_is_times"],
        "leanest_peer": leanest,
        "leanest_peak_rss_bytes": systems[leanest]["peak_rss_bytes"]["median"],
        "peak_rss_bytes": systems["hone"]["peak_rss_bytes"]["median"],
        "share_of_roofline": systems["hone"]["share_of_roofline"],
    }
