"""``python -m hone`` is ``hone``."""

from __future__ import annotations

import sys

from hone.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
