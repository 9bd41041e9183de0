"""Loss curves that change only with a stated reason."""

from __future__ import annotations

import json

import pytest

from tests.golden.write_curves import GOLDEN, curve
from tests.tiny import FAMILIES

_STORED = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_curve_is_the_stored_one(family: str) -> None:
    # other processors add in another order; what is larger than that is a change of the numbers
    found, stored = curve(family), _STORED["curves"][family]
    assert found["losses"] == pytest.approx(stored["losses"], rel=1e-5)
    assert found["gradient_norms"] == pytest.approx(stored["gradient_norms"], rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_path_gives_the_same_curve(family: str) -> None:
    stored = _STORED["curves"][family]
    assert curve(family, reference=True)["losses"] == pytest.approx(stored["losses"], abs=1e-4)


def test_every_change_has_its_reason() -> None:
    assert _STORED["reasons"]
    assert all(len(reason.split()) >= 3 for reason in _STORED["reasons"])
    assert set(_STORED["curves"]) == set(FAMILIES)
    for stored in _STORED["curves"].values():
        assert len(stored["losses"]) == len(stored["gradient_norms"]) == 6
        assert min(stored["losses"]) < stored["losses"][0], "it learns"
