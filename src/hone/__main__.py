"""``python -m hone`` is ``hone``."""

from __future__ import annotations

import sys

__all__ = ["start"]


def start() -> int:
    """Run the command line; Ctrl-C also counts while its modules are still being imported."""
    try:
        from hone.cli.app import main
    except KeyboardInterrupt:
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(start())
