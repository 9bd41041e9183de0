"""``hone data check --model`` with the embedded base, end to end: answers that belong to other prompts, and noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.cli.app import main

pytestmark = pytest.mark.real

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Russia": "Moscow",
    "Egypt": "Cairo", "Greece": "Athens", "Austria": "Vienna", "Poland": "Warsaw", "Ireland": "Dublin",
    "Cuba": "Havana", "Peru": "Lima", "China": "Beijing", "India": "New Delhi", "Turkey": "Ankara", "Norway": "Oslo",
    "Sweden": "Stockholm", "Denmark": "Copenhagen", "Portugal": "Lisbon", "Canada": "Ottawa", "Kenya": "Nairobi",
    "Hungary": "Budapest", "Finland": "Helsinki",
}  # fmt: skip


def test_planted_rows_are_found(
    tmp_path: Path, embedded_base: str, real_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": f"What is the capital of {country}?", "completion": f"The capital of {country} is {capital}."}
        for country, capital in CAPITALS.items()
    ]
    rows[3]["completion"], rows[16]["completion"] = rows[16]["completion"], rows[3]["completion"]
    rows[10]["completion"] = "xq7 vvk zzrp 91 jjw qqx"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HONE_HOME", str(real_home))
        code = main(["data", "check", str(path), "--model", embedded_base, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (code, report["rows"], report["kept"]) == (0, 24, 24)
    lines = {
        name: [f["line"] for f in report["faults"] if f["code"] == name] for name in ("mismatched_pair", "loss_outlier")
    }
    assert {4, 17} <= set(lines["mismatched_pair"])
    assert len(lines["mismatched_pair"]) <= 4
    assert 11 in lines["loss_outlier"]
