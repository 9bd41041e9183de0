"""The gate before a version goes out: only a proven one passes, or one that the user lets pass knowingly."""

from __future__ import annotations

from hone.errors import ProofError
from hone.registry.versions import Version

__all__ = ["require_proven"]


def require_proven(version: Version, *, accept_unproven: bool, action: str) -> list[str]:
    """Stop an action that sends a version out, unless its proof holds or the user accepts that it does not.

    Promoting and exporting ask here. Looking at a version (chat, generate, evaluate) does not.

    Args:
        version: the version.
        accept_unproven: whether ``--unproven`` was given.
        action: what is about to be done with it, as ``promote``.

    Returns:
        A sentence for each invariant that does not hold, to be said where it passes all the same.

    Raises:
        ProofError: it is unproven, and that is not accepted; each invariant that does not hold is named.
    """
    failed = [
        f"{one['number']}. {one['name']}: measured {one['measured']:g}, bound {one['bound']}"
        for one in version.proof or []
        if not one["holds"]
    ]
    if version.status == "proven":
        return []
    if not failed:
        failed = ["its proof was never measured" if not version.proof else "it was registered as unproven"]
    if accept_unproven:
        return failed
    raise ProofError(
        f"{version.reference} is unproven, so hone does not {action} it",
        why="it may give other answers than those that were measured",
        details=failed,
        remedy=f"look at it with `hone proof {version.reference}` and train again; or {action} it with --unproven",
    )
