"""Whose answers a session holds, which prompts are asked, and what a report keeps apart; nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import hone.recipe.rank as rank
from hone.config import RankConfig
from hone.engine.events import Event
from hone.errors import ConfigError, DataError
from hone.model.load import load_base
from hone.recipe.candidates import Contender, contenders_of, weights_of
from hone.recipe.rank import open_rankings, prompts_of, report_of, sessions_of
from hone.registry.rankings import NewAnswer, NewItem, RankingSession, create_session, list_sessions
from hone.registry.votes import cast_vote, next_item
from tests.tiny import save_tiny

TOOL = {"type": "function", "function": {"name": "far", "parameters": {"type": "object", "properties": {}}}}


class Listener:
    """Keeps the sentences for the user."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def record(self, event: Event) -> None:
        if event.kind == "note":
            self.notes.append(str(event.data["text"]))


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answers without a model; who was asked."""
    asked: list[str] = []

    def sample(contender: Contender, prompts: Sequence[object], count: int, *_: object, **__: object) -> Any:
        asked.append(contender.reference)
        texts = [f"{contender.arm} {number} in draw {len(asked)}" for number in range(count)]
        return [[NewAnswer(text, contender.name, {}) for text in texts] for _ in prompts]

    monkeypatch.setattr(rank, "sample_answers", sample)
    return asked


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Two prompts, one a line."""
    path = tmp_path / "prompts.txt"
    path.write_text("is it far?\nwho?\n", encoding="utf-8")
    return path


def run_folder(folder: Path, weights: str) -> Path:
    """A run's folder that nobody registered, with stand-ins for its weights."""
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text("{}", encoding="utf-8")
    (folder / "adapter" / "adapter_model.safetensors").write_text(weights, encoding="utf-8")
    notes = {"base_name": "tiny", "base_hash": "b" * 64, "template": {"template_hash": "t", "thinking": False}}
    (folder / "adapter" / "hone.json").write_text(json.dumps(notes), encoding="utf-8")
    return folder


def opened(home: Path, reference: Path | str, prompts: Path, **given: Any) -> RankingSession:
    config = RankConfig(version=str(reference), prompts=str(prompts), **given)
    return open_rankings(config, home=home, recorder=given.pop("recorder", Listener()))


def judged(home: Path, session: RankingSession, wins: str) -> None:
    """One rater, who prefers the answers of that arm."""
    while (shown := next_item(home, session.id, "anna")).item is not None:
        cast_vote(
            home, session.id, shown.item.id, "anna", [1 if one.text.startswith(wins) else 2 for one in shown.answers]
        )


def test_folders_of_one_name_have_their_own_sessions(
    hone_home: Path, tmp_path: Path, prompts: Path, drawn: list[str]
) -> None:
    one, other = run_folder(tmp_path / "a" / "out", "one"), run_folder(tmp_path / "b" / "out", "two")
    first, second = opened(hone_home, one, prompts), opened(hone_home, other, prompts)
    assert first.id != second.id
    assert drawn == [str(one), str(one), str(other), str(other)]
    assert opened(hone_home, one, prompts) == first
    assert len(drawn) == 4, "the same weights are found again without a model"
    assert [sorted(weights) for weights in first.spec["weights"]] == [["adapter", "base"]] * 2
    assert first.spec["weights"][1] == {"base": "b" * 64, "adapter": None}

    run_folder(one, "trained anew")
    assert opened(hone_home, one, prompts).id not in (first.id, second.id)


def test_a_base_whose_files_changed_has_another_session(hone_home: Path, tmp_path: Path, prompts: Path) -> None:
    base = save_tiny(tmp_path / "tiny", max_position_embeddings=64)
    session = opened(hone_home, base, prompts)
    loaded = load_base(str(base), home=hone_home, device="cpu", dtype="float32", note=print)
    assert session.spec["weights"] == [{"base": loaded.base_hash, "adapter": None}]
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}), encoding="utf-8")
    assert opened(hone_home, base, prompts).id != session.id


def test_a_gguf_has_the_hash_that_it_is_loaded_with(hone_home: Path) -> None:
    from hone.model.catalog import DEFAULT_MODEL, embedded_gguf
    from hone.model.gguf import conversion_identity
    from hone.model.hashing import cached_sha256

    [contender] = contenders_of(RankConfig(version=DEFAULT_MODEL), home=hone_home, note=print)
    expected = conversion_identity(cached_sha256(embedded_gguf(), home=hone_home))
    assert weights_of(contender, home=hone_home) == {"base": expected, "adapter": None}


def test_a_report_is_of_the_weights_that_are_there_now(hone_home: Path, tmp_path: Path, prompts: Path) -> None:
    one, other = run_folder(tmp_path / "a" / "out", "one"), run_folder(tmp_path / "b" / "out", "two")
    first, second = opened(hone_home, one, prompts), opened(hone_home, other, prompts)
    judged(hone_home, first, "tuned")
    judged(hone_home, second, "base")
    notes: list[str] = []
    found = sessions_of(RankConfig(version=str(one)), home=hone_home, note=notes.append)
    assert [session.id for session in found] == [first.id]
    assert notes == [f"left out, as other weights of the name out answered there: {second.id}; "
                     "`hone rankings show` shows each"]  # fmt: skip
    assert report_of(hone_home, found).against[0].wins == 2

    # asked about both at once, as `hone rankings show out` does, the report keeps them apart
    digits = [session.spec["weights"][0]["adapter"][:8] for session in (first, second)]
    both = {
        (one.contender, one.against): (one.wins, one.losses) for one in report_of(hone_home, [first, second]).against
    }
    assert both[f"out ({digits[0]})", "tiny"] == (2, 0)
    assert both["tiny", f"out ({digits[1]})"] == (2, 0)

    run_folder(one, "trained anew")
    with pytest.raises(ConfigError, match="nobody has compared"):
        sessions_of(RankConfig(version=str(one)), home=hone_home, note=notes.append)


def older(home: Path, session: RankingSession, *texts: str) -> RankingSession:
    """A session of the same options as a hone made it that did not write down weights."""
    answers = [NewAnswer(text, name, {}) for text, name in zip(texts, session.contenders, strict=True)]
    spec = {key: value for key, value in session.spec.items() if key != "weights"}
    items = [NewItem([{"role": "user", "content": "who?"}], answers)]
    return create_session(home, session.version, session.contenders, items, spec=spec, seed=0)


def test_a_session_of_an_older_hone_stays_readable_and_is_taken_for_nobody(
    hone_home: Path, tmp_path: Path, prompts: Path
) -> None:
    folder, listener = run_folder(tmp_path / "out", "one"), Listener()
    before = older(hone_home, opened(tmp_path / "other home", folder, prompts), "tuned", "base")
    judged(hone_home, before, "tuned")
    config = RankConfig(version=str(folder), prompts=str(prompts))
    session = open_rankings(config, home=hone_home, recorder=listener)
    assert session.id != before.id
    assert any(before.id in note and "does not say of which weights" in note for note in listener.notes)
    found = sessions_of(RankConfig(version=str(folder)), home=hone_home, note=listener.notes.append)
    assert [one.id for one in found] == [before.id, session.id]
    [against] = report_of(hone_home, found).against
    assert (against.contender, against.wins) == ("out", 1)


def test_a_version_goes_on_with_its_older_session(
    hone_home: Path, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[str]
) -> None:
    """A version's name is never given to other weights, so a session by its name alone is its own."""
    folder = run_folder(tmp_path / "out", "one")
    named = Contender("orders@1", str(folder), "tuned", None, registered=True)
    monkeypatch.setattr(rank, "contenders_of", lambda *_, **__: [named])
    session = opened(tmp_path / "other home", folder, prompts)
    old = older(hone_home, session, "tuned")
    drawn.clear()
    assert opened(hone_home, folder, prompts).id == old.id
    assert drawn == []
    assert len(list_sessions(hone_home)) == 1


Asked = Callable[..., list[str]]


@pytest.fixture
def asked(hone_home: Path, tmp_path: Path) -> Asked:
    """The texts that are asked of a file of that content."""

    def ask(name: str, content: str, notes: list[str] | None = None, **given: Any) -> list[str]:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        config = RankConfig(version="tiny", prompts=str(path), **given)
        contenders = [Contender("tiny", "tiny", "base", None)]
        told = [] if notes is None else notes
        found = prompts_of(config, contenders, home=hone_home, note=told.append)
        return [prompt[-1]["content"] for prompt in found]

    return ask


def lines_of(*rows: object) -> str:
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows)


def test_rows_that_are_not_asked_are_told(asked: Asked) -> None:
    notes: list[str] = []
    good = {"prompt": "is it far?", "completion": "no"}
    found = asked(
        "rows.jsonl", lines_of(good, "no json", {"prompt": "who?", "completion": "me"}, {**good, "prompt": ""}), notes
    )
    assert found == ["is it far?", "who?"]
    [note] = notes
    assert note.startswith("2 of 4 rows of ")
    assert "cannot be used and are not asked" in note
    assert "not_json 1" in note
    assert "the first, line 2:" in note


def test_rows_with_tools_are_refused(asked: Asked) -> None:
    turns = [{"role": "user", "content": "is it far?"}, {"role": "assistant", "content": "no"}]
    chat, plain = {"messages": turns, "tools": [TOOL]}, {"messages": turns}
    for content in (lines_of(plain, chat), lines_of({"prompt": "who?"}, {"prompt": "is it far?", "tools": [TOOL]}),
                    lines_of({"prompt": "who?"}, {"prompt": "is it far?", "functions": [TOOL]})):  # fmt: skip
        with pytest.raises(DataError, match="1 of its rows offer tools") as told:
            asked("rows.jsonl", content)
        assert told.value.details[0].endswith("rows.jsonl:2")
    assert asked("rows.jsonl", lines_of(plain, chat), limit=1) == ["is it far?"]
    assert asked("rows.jsonl", lines_of({"prompt": "who?", "tools": []})) == ["who?"]


def test_a_row_that_is_no_json_is_told_as_that(asked: Asked) -> None:
    with pytest.raises(DataError, match="JSON") as told:
        asked("rows.jsonl", lines_of({"prompt": "who?"}, "no json"))
    assert str(told.value.where).endswith("rows.jsonl:2")


def test_a_prompt_may_hold_the_line_ends_of_unicode(asked: Asked) -> None:
    texts = ["one\u2028two", "three\u2029four", "five\u0085six", "seven\x0ceight"]
    assert asked("prompts.txt", "\r\n".join(texts) + "\r\n\n") == texts
    assert asked("prompts.txt", "\n".join(texts), limit=2) == texts[:2]
