"""Versions: numbered once each, found by every kind of reference, checked by hash."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from sqlalchemy import select

from hone.errors import ConfigError, StorageError, VersionError
from hone.registry import (
    RunFolder,
    Version,
    create_run,
    list_versions,
    register_version,
    resolve_version,
    set_alias,
    verify_version,
)
from hone.registry.store import alias_history, open_store


def trained_run(home: Path, name: str = "support", weights: bytes = b"weights") -> RunFolder:
    run = create_run(home, kind="run", name=name)
    add_adapter(run, weights)
    return run


def add_adapter(run: RunFolder, weights: bytes = b"weights") -> None:
    run.adapter.mkdir()
    (run.adapter / "adapter_config.json").write_text("{}")
    (run.adapter / "adapter_model.safetensors").write_bytes(weights)


def register(home: Path, run: RunFolder, name: str = "support") -> Version:
    return register_version(
        home,
        name=name,
        run=run,
        base_name="smollm2-135m-instruct",
        base_hash="b" * 64,
        template_hash="t" * 64,
        data_manifest={"rows": 3, "source": "Grüße.jsonl"},
        evaluation={"metric": "chrf"},
        proof=[{"number": 1, "holds": True}],
        status="proven",
    )


def test_what_was_registered_is_what_is_read(hone_home: Path) -> None:
    run = trained_run(hone_home)
    version = register(hone_home, run)
    assert version == resolve_version(hone_home, "support@1")
    assert version.reference == "support@1"
    assert version.adapter == run.adapter
    assert version.run_id == run.id
    assert version.data_manifest == {"rows": 3, "source": "Grüße.jsonl"}
    assert version.evaluation == {"metric": "chrf"}
    assert version.proof == [{"number": 1, "holds": True}]
    assert version.status == "proven"
    config_hash, weights_hash = hashlib.sha256(b"{}").hexdigest(), hashlib.sha256(b"weights").hexdigest()
    assert version.adapter_files == {"adapter_config.json": config_hash, "adapter_model.safetensors": weights_hash}
    listing = f"{config_hash}  adapter_config.json\n{weights_hash}  adapter_model.safetensors\n"
    assert version.adapter_sha256 == hashlib.sha256(listing.encode()).hexdigest()


def test_what_is_not_known_is_none(hone_home: Path) -> None:
    version = register_version(
        hone_home,
        name="support",
        run=trained_run(hone_home),
        base_name="m",
        base_hash="b",
        template_hash="t",
        data_manifest={},
    )
    assert (version.evaluation, version.proof, version.status) == (None, None, "unproven")


def test_numbers_count_per_name(hone_home: Path) -> None:
    references = [register(hone_home, trained_run(hone_home, name), name).reference for name in ("b", "a", "b", "b")]
    assert references == ["b@1", "a@1", "b@2", "b@3"]
    assert [version.reference for version in list_versions(hone_home)] == ["a@1", "b@1", "b@2", "b@3"]
    assert [version.reference for version in list_versions(hone_home, "b")] == ["b@1", "b@2", "b@3"]
    assert list_versions(hone_home, "c") == []


def test_registering_twice_gives_the_same_version(hone_home: Path) -> None:
    run = trained_run(hone_home)
    assert register(hone_home, run) == register(hone_home, run)
    (run.adapter / "adapter_model.safetensors").write_bytes(b"other")
    assert register(hone_home, run).reference == "support@2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts many processes")
def test_twenty_processes_at_once_get_twenty_numbers(tmp_path: Path) -> None:
    home = tmp_path / "home"  # not there yet: the processes also race to make and migrate the database
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(20), context.Queue()

    def work() -> None:
        barrier.wait(60)
        answers.put(register(home, trained_run(home)).number)

    processes = [context.Process(target=work) for _ in range(20)]
    for process in processes:
        process.start()
    numbers = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 20
    assert sorted(numbers) == list(range(1, 21))
    assert [version.number for version in list_versions(home, "support")] == list(range(1, 21))
    assert len({version.run_id for version in list_versions(home)}) == 20


def test_a_run_without_an_adapter_is_no_version(hone_home: Path) -> None:
    run = create_run(hone_home, kind="run", name="support")
    with pytest.raises(StorageError, match="no adapter"):
        register(hone_home, run)
    assert list_versions(hone_home) == []


def test_a_bad_name_is_refused(hone_home: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be a name"):
        register(hone_home, trained_run(hone_home), "Support")


def test_a_run_in_a_folder_of_the_users_own(hone_home: Path, tmp_path: Path) -> None:
    run = RunFolder.at(tmp_path / "out")
    add_adapter(run)
    with pytest.raises(VersionError, match="not registered"):
        resolve_version(hone_home, run.path)
    assert register(hone_home, run).run_folder == tmp_path / "out"
    assert resolve_version(hone_home, run.path).reference == "support@1"


def test_a_home_can_be_moved(hone_home: Path, tmp_path: Path) -> None:
    register(hone_home, trained_run(hone_home))
    moved = tmp_path / "moved"
    shutil.move(hone_home, moved)
    version = resolve_version(moved, "support")
    assert version.adapter.is_relative_to(moved)
    verify_version(version)
    hone_home.mkdir()


class TestResolve:
    @pytest.fixture
    def home(self, hone_home: Path) -> Path:
        for _ in range(3):
            register(hone_home, trained_run(hone_home))
        register(hone_home, trained_run(hone_home, "legal"), "legal")
        set_alias(hone_home, "support", "production", 2)
        return hone_home

    @pytest.mark.parametrize(
        ("reference", "expected"),
        [("support", 3), ("support@1", 1), ("support@3", 3), ("support@production", 2), ("legal", 1)],
    )
    def test_references(self, home: Path, reference: str, expected: int) -> None:
        version = resolve_version(home, reference)
        assert version.number == expected
        assert version.name == reference.partition("@")[0]

    def test_a_run_folder(self, home: Path) -> None:
        folder = resolve_version(home, "support@2").run_folder
        assert resolve_version(home, folder).reference == "support@2"
        assert resolve_version(home, str(folder)).reference == "support@2"

    def test_a_name_goes_before_a_folder(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "support").mkdir()
        monkeypatch.chdir(tmp_path)
        assert resolve_version(home, "support").number == 3

    @pytest.mark.parametrize(
        ("reference", "listed"),
        [
            ("suport", "there is: support"),
            ("zzz", "there is: legal, support"),
            ("support@4", "support@production, support@3, support@2, support@1"),
            ("support@prodution", "support@production"),
            ("support@", "support@production"),
            ("support@" + "9" * 5000, "support@3"),
            ("legal@production", "legal@1"),
            ("\udcff", "legal, support"),
            ("a\0b", "legal, support"),
            ("", "legal, support"),
        ],
    )
    def test_what_is_not_there(self, home: Path, reference: str, listed: str) -> None:
        with pytest.raises(VersionError, match="there is no version") as caught:
            resolve_version(home, reference)
        assert listed in caught.value.what
        assert caught.value.remedy == "hone models list"

    def test_an_empty_registry_says_how_to_begin(self, hone_home: Path) -> None:
        with pytest.raises(VersionError, match="none exists yet") as caught:
            resolve_version(hone_home, "support")
        assert "hone run" in str(caught.value.remedy)


class TestAlias:
    def test_every_move_is_in_the_history(self, hone_home: Path) -> None:
        for _ in range(2):
            register(hone_home, trained_run(hone_home))
        for number in (1, 2, 1):
            set_alias(hone_home, "support", "production", number)
            assert resolve_version(hone_home, "support@production").number == number
        with open_store(hone_home).read() as connection:
            history = connection.execute(select(alias_history.c.number).order_by(alias_history.c.id)).scalars().all()
        assert history == [1, 2, 1]

    def test_only_to_what_exists(self, hone_home: Path) -> None:
        with pytest.raises(VersionError, match="none exists yet"):
            set_alias(hone_home, "support", "production", 1)
        register(hone_home, trained_run(hone_home))
        with pytest.raises(VersionError, match="'support@2'; there is: support@1"):
            set_alias(hone_home, "support", "production", 2)
        with pytest.raises(ConfigError, match="version's number"):
            set_alias(hone_home, "support", "7", 1)


class TestVerify:
    def test_a_whole_adapter(self, hone_home: Path) -> None:
        version = register(hone_home, trained_run(hone_home))
        (version.adapter / "README.md").write_text("a file that was not registered does no harm")
        assert verify_version(version) is None

    def test_every_flipped_bit_is_found(self, hone_home: Path) -> None:
        version = register(hone_home, trained_run(hone_home))
        path = version.adapter / "adapter_model.safetensors"
        whole = path.read_bytes()
        for bit in range(8 * len(whole)):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(StorageError, match=r"support@1 is damaged") as caught:
                verify_version(version)
            assert caught.value.details == (f"{path}: differs from what was registered",)

    def test_a_missing_file_is_named(self, hone_home: Path) -> None:
        version = register(hone_home, trained_run(hone_home))
        shutil.rmtree(version.adapter)
        with pytest.raises(StorageError) as caught:
            verify_version(version)
        assert [detail.rpartition(": ")[2] for detail in caught.value.details] == ["missing", "missing"]
