"""The table of machines: packaged figures, the user's own before them, and what is wrong in them named together."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.errors import ConfigError
from hone.planning.machines import THIS_MACHINE, parse_rate, rates_of, read_machines


def test_every_packaged_machine_can_be_planned_for(tmp_path: Path) -> None:
    machines = read_machines(tmp_path)
    assert {"h100", "a100", THIS_MACHINE} <= set(machines)
    for name, machine in machines.items():
        if name != THIS_MACHINE:
            assert machine.title
            assert machine.source
            assert machine.price_per_hour
            assert machine.watts
            rates = rates_of(machine)
            assert rates.wide_per_second < (machine.bfloat16_tflops or 0) * 1e12
            assert "not measured" in rates.source


def test_the_users_figures_go_before_and_beside(tmp_path: Path) -> None:
    text = "this:\n  price_per_hour: 0.08\nh100:\n  price_per_hour: 1.9\nmine:\n  memory_gb: 24\n  currency: EUR\n"
    (tmp_path / "machines.yaml").write_text(text, encoding="utf-8")
    machines = read_machines(tmp_path)
    assert machines[THIS_MACHINE].price_per_hour == 0.08
    assert machines["h100"].price_per_hour == 1.9
    assert machines["h100"].bfloat16_tflops == 989
    assert machines["mine"].currency == "EUR"
    with pytest.raises(ConfigError, match="bfloat16_tflops, memory_gb_per_second"):
        rates_of(machines["mine"])


def test_all_faults_of_the_table_are_named(tmp_path: Path) -> None:
    path = tmp_path / "machines.yaml"
    path.write_text("h100:\n  price_per_hour: cheap\n  colour: red\na100:\n  watts: -1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="3 entries are wrong") as raised:
        read_machines(tmp_path)
    assert "'cheap'" in raised.value.details[0]
    assert "colour is not known" in raised.value.details[1]
    path.write_text("- h100\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no table"):
        read_machines(tmp_path)
    path.write_text("h100: [\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_machines(tmp_path)


@pytest.mark.parametrize(("text", "expected"), [("2.5/h", 2.5), (" 3 / h ", 3.0), ("0.04", 0.04), (".5/h", 0.5)])
def test_a_rate_is_money_for_an_hour(text: str, expected: float) -> None:
    assert parse_rate(text) == expected


@pytest.mark.parametrize("text", ["cheap", "-2/h", "2.5/day", "", "2,5/h"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no rate"):
        parse_rate(text)
