"""``python -m hone`` is ``hone``."""

from __future__ import annotations

import sys

from hone.cli.app import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
