"""Writes public_names.txt, the public names of every module of hone: ``python tests/house/freeze_public_names.py``.

A name that is there is a promise: the test beside it fails when one comes or goes, so that a change of what others
import is seen in the diff of the golden file and told in CHANGELOG.md.
"""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
GOLDEN = Path(__file__).with_name("public_names.txt")


def public_names() -> str:
    """One line a module that has public names, ``module: name name``, in order of the modules' names."""
    lines = []
    for path in sorted((SOURCE / "hone").rglob("*.py")):
        module = ".".join(part for part in path.relative_to(SOURCE).with_suffix("").parts if part != "__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
                lines.append(f"{module}: {' '.join(sorted(ast.literal_eval(node.value)))}".rstrip())
    return "\n".join(sorted(lines)) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(public_names(), encoding="utf-8")
    print(f"wrote {GOLDEN}")
