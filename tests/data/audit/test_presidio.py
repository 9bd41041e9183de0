"""What Presidio adds: its patterns, where it is installed; the line that installs it, where it is not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from hone.data.audit.audit import audit_source
from hone.data.audit.presidio import PresidioSearch
from hone.errors import MissingDependencyError

INSTALLED = importlib.util.find_spec("presidio_analyzer") is not None


@pytest.mark.skipif(INSTALLED, reason="presidio-analyzer is installed")
def test_without_it_the_remedy_is_a_line() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        PresidioSearch()
    assert caught.value.remedy == "pip install 'hone-llm[presidio]'"


@pytest.mark.skipif(not INSTALLED, reason="needs presidio-analyzer")
def test_its_patterns_add_to_those_of_hone(tmp_path: Path) -> None:
    search = PresidioSearch()
    # a medical licence number with its check digit; an address that hone's own patterns tell already
    assert [message for _, message in search("my DEA number is BB1388568")] == ["medical license (Presidio): BB***"]
    assert list(search("write to jane.roe@mail.org")) == []
    assert list(search("the lamp is on the table")) == []
    rows = [{"prompt": f"what is {n}?", "completion": "a lamp"} for n in range(10)]
    rows[4]["completion"] = "my DEA number is BB1388568"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert audit_source(str(path)).totals == {}
    report = audit_source(str(path), search=search)
    assert [(f.code, f.line, f.pointer) for f in report.faults] == [("personal_data", 5, "/completion")]


@pytest.mark.skipif(
    not INSTALLED or importlib.util.find_spec("en_core_web_sm") is None, reason="needs Presidio and a model of spaCy"
)
def test_a_model_of_spacy_finds_names() -> None:
    found = [message for _, message in PresidioSearch()("My name is John Smith and I live in Berlin.")]
    assert any(message.startswith("person") for message in found)
