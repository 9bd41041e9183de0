"""One measurement in a process of its own: ``python -m side_by_side.worker SPEC.json``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from side_by_side.meter import Meter
from side_by_side.spec import Spec, Workload


def main() -> None:
    """Run what the spec says and write its figures."""
    spec = Spec.read(Path(sys.argv[1]))
    meter = Meter(spec)
    driver = importlib.import_module(f"side_by_side.{spec.driver}")
    driver.run(spec, Workload.read(spec.rows), meter)
    meter.write()


if __name__ == "__main__":
    main()
