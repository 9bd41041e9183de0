"""Checkpoints: complete or absent, every flipped bit noticed, the one before the damaged one used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hone.engine import checkpoint as module
from hone.engine.checkpoint import (
    Checkpoint,
    Progress,
    checkpoint_bytes,
    checkpoint_folders,
    load_newest_checkpoint,
    save_checkpoint,
)
from hone.errors import StorageError
from tests.tiny import no_file_larger_than

FILES = ["adapter.safetensors", "best.safetensors", "manifest.json", "optimizer.safetensors", "progress.json"]


def _checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    weights = {f"layer.{index}.lora_A": torch.randn(4, 8, generator=generator) for index in range(3)}
    moments = {
        f"{name}.{key}": torch.randn(4, 8, generator=generator) for name in weights for key in ("exp_avg", "exp_avg_sq")
    }
    steps = {f"{name}.step": torch.tensor(float(step)) for name in weights}
    progress = Progress(
        step=step,
        tokens=100 * step,
        supervised_tokens=33 * step,
        seconds=1.25 * step,
        best_step=step - 1,
        best_loss=1 / 3,
        evaluations_without_gain=1,
        smallest_gradient_norm=0.1,
        largest_gradient_norm=2.7,
    )
    best = {name: tensor + 1 for name, tensor in weights.items()}
    return Checkpoint(weights, best, {**moments, **steps}, progress)


def _same(first: Checkpoint, second: Checkpoint) -> bool:
    def tensors(checkpoint: Checkpoint) -> list[tuple[str, bytes]]:
        groups = (checkpoint.adapter, checkpoint.best, checkpoint.optimizer)
        return [(name, tensor.numpy().tobytes()) for group in groups for name, tensor in sorted(group.items())]

    return tensors(first) == tensors(second) and first.progress == second.progress


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _checkpoint(7), keep=2)
    assert path == tmp_path / "step-000007"
    assert _names(path) == FILES
    found, damaged = load_newest_checkpoint(tmp_path)
    assert damaged == []
    assert found is not None
    assert _same(found, _checkpoint(7))


def test_a_checkpoint_before_any_validation(tmp_path: Path) -> None:
    first = replace(_checkpoint(1), best={}, progress=Progress(step=1))
    save_checkpoint(tmp_path, first, keep=0)
    found, _ = load_newest_checkpoint(tmp_path)
    assert found is not None
    assert _same(found, first)


def test_parameters_on_their_way_are_stored_as_they_are(tmp_path: Path) -> None:
    # views and trainable tensors, as the loop hands them over
    whole = torch.arange(12.0).view(3, 4)
    given = replace(_checkpoint(1), adapter={"w": torch.nn.Parameter(whole.T)}, best={"w": whole[:, 1:3]})
    save_checkpoint(tmp_path, given, keep=0)
    found, _ = load_newest_checkpoint(tmp_path)
    assert found is not None
    assert torch.equal(found.adapter["w"], whole.T)
    assert torch.equal(found.best["w"], whole[:, 1:3])


@pytest.mark.parametrize(("keep", "left"), [(1, [12]), (2, [9, 12]), (3, [5, 9, 12]), (0, [2, 5, 9, 12])])
def test_as_many_as_wanted_are_kept(tmp_path: Path, keep: int, left: list[int]) -> None:
    for step in (2, 5, 9, 12):
        save_checkpoint(tmp_path, _checkpoint(step), keep=keep)
    assert checkpoint_folders(tmp_path) == [tmp_path / f"step-{step:06d}" for step in left]
    assert _names(tmp_path) == [f"step-{step:06d}" for step in left]


def test_they_are_ordered_by_number_and_nothing_else_is_one(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 3):
        save_checkpoint(tmp_path, _checkpoint(step), keep=0)
    for name in ("step-12", "damaged-step-000004", ".step-000005.0123456789ab.tmp", "notes"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-000003", "step-999999", "step-1000000"]
    assert checkpoint_folders(tmp_path / "absent") == []


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert load_newest_checkpoint(tmp_path) == (None, [])
    assert load_newest_checkpoint(tmp_path / "absent") == (None, [])


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    path = save_checkpoint(source, _checkpoint(7), keep=0) / name
    content = path.read_bytes()
    places = sorted({0, len(content) - 1, *range(0, len(content), max(1, len(content) // 23))})
    for place in places:
        for bit in (0, 5, 7):
            path.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
            copy = tmp_path / f"copy-{place}-{bit}"
            shutil.copytree(source, copy)
            found, damaged = load_newest_checkpoint(copy)
            assert found is None, f"bit {bit} of byte {place} of {name}"
            assert damaged == [copy / "damaged-step-000007"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [_cut, _lengthen, Path.unlink], ids=["cut", "longer", "missing"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    tmp_path: Path, name: str, damage: object
) -> None:
    save_checkpoint(tmp_path, _checkpoint(4), keep=0)
    path = save_checkpoint(tmp_path, _checkpoint(8), keep=0)
    if (name, damage) == ("manifest.json", _lengthen):
        damage = _cut  # a further line break changes nothing that the manifest says
    damage(path / name)  # type: ignore[operator]

    found, damaged = load_newest_checkpoint(tmp_path)

    assert found is not None
    assert _same(found, _checkpoint(4))
    assert damaged == [tmp_path / "damaged-step-000008"]
    assert _names(tmp_path) == ["damaged-step-000008", "step-000004"]
    # the run goes on and comes to step 8 once more; a second damage replaces the first
    path = save_checkpoint(tmp_path, _checkpoint(8), keep=2)
    _cut(path / "progress.json")
    _, damaged = load_newest_checkpoint(tmp_path)
    assert damaged == [tmp_path / "damaged-step-000008"]
    assert _names(tmp_path) == ["damaged-step-000008", "step-000004"]


def test_all_damaged_means_none(tmp_path: Path) -> None:
    for step in (4, 8):
        _cut(save_checkpoint(tmp_path, _checkpoint(step), keep=0) / "adapter.safetensors")
    found, damaged = load_newest_checkpoint(tmp_path)
    assert found is None
    assert damaged == [tmp_path / "damaged-step-000008", tmp_path / "damaged-step-000004"]


@pytest.mark.parametrize("manifest", ["[]", "{}", "7", "null", '{"adapter.safetensors": "00"}', "[1, 2]"])
def test_a_manifest_that_vouches_for_nothing_is_damage(tmp_path: Path, manifest: str) -> None:
    (save_checkpoint(tmp_path, _checkpoint(4), keep=0) / "manifest.json").write_text(manifest, encoding="utf-8")
    assert load_newest_checkpoint(tmp_path)[0] is None


@pytest.mark.parametrize("keep", [0, 1])
def test_what_is_read_back_otherwise_than_written_ends_the_run_and_the_older_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    save_checkpoint(tmp_path, _checkpoint(4), keep=keep)
    with monkeypatch.context() as patch:
        patch.setattr(
            module, "sha256_file", lambda path: "0" * 64 if (path.parent / "manifest.json").exists() else "1" * 64
        )
        with pytest.raises(StorageError, match="read back otherwise") as caught:
            save_checkpoint(tmp_path, _checkpoint(8), keep=keep)
    assert caught.value.where == str(tmp_path / "step-000008")
    assert _names(tmp_path) == ["step-000004"]
    found, damaged = load_newest_checkpoint(tmp_path)
    assert found is not None
    assert _same(found, _checkpoint(4))
    assert damaged == []


@pytest.mark.parametrize("step", [4, 8], ids=["same-step", "later-step"])
def test_no_space_leaves_what_was_there(tmp_path: Path, step: int) -> None:
    save_checkpoint(tmp_path, _checkpoint(4), keep=1)
    large = replace(_checkpoint(step), optimizer={"w.exp_avg": torch.zeros(5000)})
    with pytest.raises(StorageError), no_file_larger_than(8192):
        save_checkpoint(tmp_path, large, keep=1)
    assert _names(tmp_path) == ["step-000004"]
    found, _ = load_newest_checkpoint(tmp_path)
    assert found is not None
    assert _same(found, _checkpoint(4))


def test_the_same_step_again_replaces_the_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _checkpoint(4), keep=2)
    other = replace(_checkpoint(9), progress=replace(_checkpoint(9).progress, step=4))
    save_checkpoint(tmp_path, other, keep=2)
    found, _ = load_newest_checkpoint(tmp_path)
    assert found is not None
    assert _same(found, other)


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _checkpoint(4), keep=2)
    for name in FILES:
        content = (path / name).read_bytes()
        if name.endswith(".json"):
            json.loads(content)
        else:
            # safetensors: the length of a JSON header, then that header
            length = int.from_bytes(content[:8], "little")
            names = set(json.loads(content[8 : 8 + length])) - {"__metadata__"}
            assert names == set(getattr(_checkpoint(4), name.removesuffix(".safetensors")))


def test_its_size_on_disk_is_foretold(tmp_path: Path) -> None:
    weights = {"w": torch.zeros(64, 64)}
    moments = {f"w.{key}": torch.zeros(64, 64) for key in ("exp_avg", "exp_avg_sq")}
    path = save_checkpoint(tmp_path, Checkpoint(weights, weights, moments, Progress(step=1)), keep=0)
    size = sum(file.stat().st_size for file in path.iterdir())
    assert checkpoint_bytes(weights) == 4 * 64 * 64 * 4
    assert 0 <= size - checkpoint_bytes(weights) < 2000
