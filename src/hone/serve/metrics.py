"""Counters for ``/metrics`` in Prometheus' text format.

Source: Prometheus, Exposition formats, text-based format 0.0.4.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

Labels = tuple[tuple[str, str], ...]
Gauge = Callable[[], Mapping[Labels, float]]


class Metrics:
    """Counters, histograms of seconds, and gauges that are read when they are asked for; safe among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._help: dict[str, tuple[str, str]] = {}
        self._counters: dict[str, dict[Labels, float]] = {}
        self._seconds: dict[str, dict[Labels, list[float]]] = {}
        self._gauges: dict[str, Gauge] = {}

    def count(self, name: str, description: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter.

        Args:
            name: as ``hone_requests_total``.
            description: one sentence.
            amount: not negative.
            labels: of the series.
        """
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._help[name] = ("counter", description)
            series = self._counters.setdefault(name, {})
            series[key] = series.get(key, 0.0) + amount

    def time(self, name: str, description: str, seconds: float, **labels: str) -> None:
        """Add a duration to a histogram.

        Args:
            name: as ``hone_request_seconds``.
            description: one sentence.
            seconds: the duration.
            labels: of the series.
        """
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._help[name] = ("histogram", description)
            # a count for each bound, then the count and the sum of all
            sums = self._seconds.setdefault(name, {}).setdefault(key, [0.0] * (len(_SECONDS) + 2))
            for place, bound in enumerate(_SECONDS):
                sums[place] += seconds <= bound
            sums[-2] += 1
            sums[-1] += seconds

    def gauge(self, name: str, description: str, read: Gauge) -> None:
        """Have a gauge read whenever the text is asked for.

        Args:
            name: as ``hone_jobs``.
            description: one sentence.
            read: gives values by labels.
        """
        with self._lock:
            self._help[name] = ("gauge", description)
            self._gauges[name] = read

    def text(self) -> str:
        """Everything in Prometheus' format."""
        gauges = {name: dict(read()) for name, read in self._gauges.items()}
        with self._lock:
            lines: list[str] = []
            for name, (kind, description) in sorted(self._help.items()):
                lines += [f"# HELP {name} {description}", f"# TYPE {name} {kind}"]
                values = {**self._counters.get(name, {}), **gauges.get(name, {})}
                lines += [f"{name}{_labels(key)} {value:g}" for key, value in sorted(values.items())]
                for key, sums in sorted(self._seconds.get(name, {}).items()):
                    lines += _histogram(name, key, sums)
        return "\n".join(lines) + "\n"


def _histogram(name: str, key: Labels, sums: Sequence[float]) -> list[str]:
    bounds = [*(f"{bound:g}" for bound in _SECONDS), "+Inf"]
    lines = [f"{name}_bucket{_labels((*key, ('le', bound)))} {sums[place]:g}" for place, bound in enumerate(bounds)]
    return [*lines, f"{name}_count{_labels(key)} {sums[-2]:g}", f"{name}_sum{_labels(key)} {sums[-1]:.6f}"]


def _labels(key: Labels) -> str:
    if not key:
        return ""
    quoted = ((name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in key)
    return "{" + ",".join(f'{name}="{value}"' for name, value in quoted) + "}"
