"""What the result of ``hone run`` is held to, wherever it is looked at."""

from __future__ import annotations

from typing import Any

from hone.types import JsonDict

# Issue 2, "Machine-readable result": the keys that are fixed. There may be more.
DOCUMENTED: JsonDict = {
    "schema": int,
    "version": str,
    "run_dir": str,
    "base": {"name": str, "hash": str},
    "data": {"rows": int, "kept": int, "cut": int, "dropped": int, "held_out": int},
    "training": {
        "method": str,
        "steps": int,
        "tokens": int,
        "supervised_tokens": int,
        "seconds": float,
        "tokens_per_second": float,
        "peak_memory_bytes": int,
    },
    "evaluation": {
        "metric": str,
        "arms": {
            "base": {"score": float, "interval": list, "metrics": dict},
            "tuned": {"score": float, "interval": list, "metrics": dict},
        },
        "differences": [{"arm": str, "against": str, "difference": float, "interval": list, "p_value": float}],
    },
    "verdict": {"decision": str, "reason": str},
    "proof": [{"number": int, "name": str, "holds": bool, "measured": (int, float), "bound": str, "remedy": str}],
    "report": str,
}


def missing(value: Any, documented: Any, at: str = "") -> list[str]:
    """Places where ``value`` lacks what is documented, or has it in another type."""
    if isinstance(documented, dict):
        lacking = [f"{at}.{key}" for key in documented if key not in value]
        present = (key for key in documented if key in value)
        return lacking + [place for key in present for place in missing(value[key], documented[key], f"{at}.{key}")]
    if isinstance(documented, list):
        return [f"{at}: empty"] if not value else [p for one in value for p in missing(one, documented[0], at)]
    return [] if isinstance(value, documented) else [f"{at}: {value!r}"]
