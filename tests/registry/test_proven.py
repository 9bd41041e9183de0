"""The gate: what is unproven goes out only where that is accepted, and then it is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hone.errors import ProofError
from hone.registry import Version, require_proven
from hone.registry.versions import VersionStatus
from hone.types import JsonDict


def version(status: VersionStatus, proof: list[JsonDict] | None) -> Version:
    return Version(
        "support", 3, "run", Path("runs/x"), "tiny", "base", "adapter", {}, "template", {}, None, proof, status, "now"
    )  # fmt: skip


def invariant(number: int, *, holds: bool) -> JsonDict:
    return {
        "number": number, "name": f"name of {number}", "holds": holds, "measured": 0.5, "bound": ">= 0.9",
        "checked": "8 answers", "remedy": "train more", "found": "",
    }  # fmt: skip


PROVEN = version("proven", [invariant(9, holds=True), invariant(12, holds=True)])
UNPROVEN = version("unproven", [invariant(9, holds=True), invariant(12, holds=False)])


@pytest.mark.parametrize("accepted", [True, False])
def test_a_proven_version_passes(accepted: bool) -> None:
    assert require_proven(PROVEN, accept_unproven=accepted, action="promote") == []


@pytest.mark.parametrize("action", ["promote", "export"])
def test_an_unproven_version_is_held_with_what_does_not_hold(action: str) -> None:
    with pytest.raises(ProofError) as raised:
        require_proven(UNPROVEN, accept_unproven=False, action=action)
    error = raised.value
    assert f"hone does not {action} it" in error.what
    assert error.details == ("12. name of 12: measured 0.5, bound >= 0.9",)
    assert "--unproven" in str(error.remedy)
    assert error.exit_code == 1


def test_an_unproven_version_passes_where_that_is_accepted_and_it_is_said() -> None:
    assert require_proven(UNPROVEN, accept_unproven=True, action="export") == [
        "12. name of 12: measured 0.5, bound >= 0.9"
    ]


@pytest.mark.parametrize("proof", [None, []])
def test_a_version_without_a_proof_is_unproven(proof: list[JsonDict] | None) -> None:
    unknown = replace(UNPROVEN, proof=proof)
    with pytest.raises(ProofError) as raised:
        require_proven(unknown, accept_unproven=False, action="promote")
    assert raised.value.details == ("its proof was never measured",)
