"""The rows of a further training: new ones, a sample of the old ones, and held-out rows of both.

    new rows    all but copies of old ones and rows that were forgotten; some are held out
    old rows    a sample drawn by hash and seed, so that the same command draws the same rows; or, where rows are to be
                forgotten, all but these, for a training from the base
    held out    those of the version, and the new ones; none of them is a near copy of a row that was ever trained on

They are written below the home, named by their content, with the lineage that the next version will have.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hone.config.continuing import ContinueConfig
from hone.data.formats import example_to_openai
from hone.data.loader import LoadedData, load_examples
from hone.data.manifest import example_hash
from hone.data.split import near_copies, split_examples
from hone.errors import ConfigError, DataError
from hone.files import atomic_folder, write_atomically, write_json
from hone.planning.choose import choose_held_out_rows
from hone.recipe.old_rows import forgotten_hashes, rows_judged_on, rows_trained_on, unique
from hone.registry.leftovers import COMPOSED_FOLDER
from hone.registry.versions import Version
from hone.types import Example, JsonDict

__all__ = ["Composition", "compose"]

Note = Callable[[str], None]

_FEWEST_TO_SPLIT = 6


@dataclass(frozen=True, slots=True)
class Composition:
    """Rows that were put together, as files.

    Args:
        folder: where they lie.
        lineage: of the version that will be trained on them.
    """

    folder: Path
    lineage: JsonDict

    @property
    def rows(self) -> Path:
        """Training rows."""
        return self.folder / "rows.jsonl"

    @property
    def held_out(self) -> Path:
        """Held-out rows, the old ones first."""
        return self.folder / "held_out.jsonl"

    def held_out_part(self, part: str) -> Path | None:
        """The ``old`` or the ``new`` held-out rows alone; None where there is none."""
        path = self.folder / f"held_out_{part}.jsonl"
        return path if path.exists() else None


@dataclass(frozen=True, slots=True)
class _Parts:
    """Rows by what becomes of them."""

    replayed: list[Example]
    new: list[Example]
    old_held_out: list[Example]
    new_held_out: list[Example]


def compose(config: ContinueConfig, version: Version, *, home: Path, note: Note) -> Composition:
    """Put the rows of a further training together and write them.

    Args:
        config: which rows.
        version: that goes on.
        home: hone's home folder.
        note: receives sentences for the user.

    Raises:
        ConfigError: neither new rows nor rows to forget are given.
        DataError: a file cannot be used, or no row is left.
    """
    if config.data is None and config.without is None:
        raise ConfigError(
            "there is nothing to train on",
            where="DATA",
            remedy="name a file of new rows, or rows to forget (--without)",
        )
    old, old_held_out = rows_trained_on(version, home=home, note=note), rows_judged_on(version)
    forgotten = forgotten_hashes(version)
    if config.without is not None:
        forgotten |= _rows_to_forget(config.without, version, [*old, *old_held_out], note)
    old, old_held_out = _without(old, forgotten), _without(old_held_out, forgotten)
    loaded = None if config.data is None else load_examples(config.data, mapping=config.mapping)
    new = [] if loaded is None else _new_rows(loaded, [*old, *old_held_out], forgotten, note)
    new, new_held_out = _set_aside(new, old, config, note)
    replayed = old if config.without is not None else _sample(old, config.replay, len(new), seed=config.seed)
    parts = _Parts(replayed, new, old_held_out, new_held_out)
    if not replayed and not new:
        raise DataError("no row is left to train on", where=config.data or version.reference)
    if not old_held_out and not new_held_out:
        raise DataError("no held-out row is left to compare with", where=version.reference, remedy="give more new rows")
    lineage = _lineage(config, version, parts, num_old=len(old), forgotten=forgotten, loaded=loaded)
    return _write(parts, lineage, home, seed=config.seed)


def _without(examples: Sequence[Example], forgotten: set[str]) -> list[Example]:
    return [one for one in examples if example_hash(one) not in forgotten]


def _rows_to_forget(given: str, version: Version, known: Sequence[Example], note: Note) -> set[str]:
    """Hashes of the rows that ``--without`` names: a file of rows, or numbers of rows of the version's own data.

    Raises:
        ConfigError: a number is none of a row, or no row of the file is a row of the version.
    """
    hashes = {example_hash(one) for one in known}
    numbers = [part.strip() for part in given.split(",")]
    if all(part.isdigit() for part in numbers):
        rows = [row for part in ("train", "validation") for row in version.data_manifest[part]]
        by_number = {row["row"]: row["sha256"] for row in rows}
        unknown = [part for part in numbers if int(part) not in by_number]
        if unknown:
            raise ConfigError(
                f"{version.reference} was not trained on row {', '.join(unknown)} of its data",
                where="--without",
                remedy=f"`hone models show {version.reference} --json` lists the rows under data",
            )
        return {by_number[int(part)] for part in numbers}
    wanted = {example_hash(one) for one in load_examples(given).examples}
    found = wanted & hashes
    if not found:
        raise ConfigError(
            f"none of its {len(wanted)} rows is a row of {version.reference}",
            where=f"--without {given}",
            why="a row is found by its whole content: prompt, answer and tools",
            remedy="give the rows as they stand in the data",
        )
    if len(found) < len(wanted):
        note(f"{len(wanted) - len(found)} of {len(wanted)} rows to forget are none of {version.reference}")
    near = near_copies(
        [one for one in known if example_hash(one) in found], [one for one in known if example_hash(one) not in found]
    )
    if near:
        note(f"{len(near)} rows that stay ask nearly the same as a forgotten one; name them too if they must go")
    return found


def _new_rows(loaded: LoadedData, old: Sequence[Example], forgotten: set[str], note: Note) -> list[Example]:
    """The new rows without those that are old, or that were forgotten."""
    known = {example_hash(one) for one in old}
    rows = unique(loaded.examples)
    fresh = [one for one in rows if example_hash(one) not in known | forgotten]
    barred = sum(example_hash(one) in forgotten for one in rows)
    if barred:
        note(f"{barred} of the new rows are left out, because they were to be forgotten")
    if len(rows) - barred > len(fresh):
        note(f"{len(rows) - barred - len(fresh)} of the new rows are old ones, word for word, and count as those")
    return fresh


def _set_aside(
    new: list[Example], old: Sequence[Example], config: ContinueConfig, note: Note
) -> tuple[list[Example], list[Example]]:
    """New rows to train on and new held-out rows; none of the latter is a near copy of an old training row."""
    copies = {index for _, index, _ in near_copies(old, new)} if old and new else set()
    free = [one for index, one in enumerate(new) if index not in copies]
    if len(free) < _FEWEST_TO_SPLIT:
        if new:
            note(f"{len(free)} new rows are too few to hold any out: what the version learnt of them is not measured")
        return new, []
    wanted: float | int = config.held_out or round(choose_held_out_rows(len(free)).value or 0)
    split = split_examples(free, held_out=wanted, seed=config.seed)
    held_out = {example_hash(one) for one in split.held_out}
    return [one for one in new if example_hash(one) not in held_out], split.held_out


def _sample(old: Sequence[Example], replay: float | int | None, num_new: int, *, seed: int) -> list[Example]:
    """Old rows drawn by hash and seed; as many as there are new ones where no share is given."""
    wanted = num_new if replay is None else round(replay * len(old)) if isinstance(replay, float) else replay
    return sorted(old, key=lambda one: hashlib.sha256(f"{seed}:{example_hash(one)}".encode()).hexdigest())[:wanted]


def _lineage(
    config: ContinueConfig,
    version: Version,
    parts: _Parts,
    *,
    num_old: int,
    forgotten: set[str],
    loaded: LoadedData | None,
) -> JsonDict:
    retrained = config.without is not None
    return {
        "parent": version.reference,
        "relation": "retrained" if retrained else "continued",
        "starts_from": version.base_name if retrained else version.reference,
        "rows": {
            "old": num_old,
            "replayed": len(parts.replayed),
            "new": len(parts.new),
            "held_out_old": len(parts.old_held_out),
            "held_out_new": len(parts.new_held_out),
        },
        "replay_share": round(len(parts.replayed) / num_old, 6) if num_old else 0.0,
        "seed": config.seed,
        "new_data": None if loaded is None else {"name": Path(loaded.source).name, "sha256": loaded.sha256},
        "forgotten": sorted(forgotten),
    }


def _write(parts: _Parts, lineage: JsonDict, home: Path, *, seed: int) -> Composition:
    """Write the rows under the hash of what is in them; the same composition is written once."""
    files = {
        "rows.jsonl": [*parts.new, *parts.replayed],
        "held_out.jsonl": [*parts.old_held_out, *parts.new_held_out],
        "held_out_old.jsonl": parts.old_held_out,
        "held_out_new.jsonl": parts.new_held_out,
    }
    texts = {name: "".join(f"{_line(one)}\n" for one in rows) for name, rows in files.items() if rows}
    content = json.dumps([texts, lineage], ensure_ascii=False, sort_keys=True)
    name = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    folder = home.absolute() / COMPOSED_FOLDER / name
    if folder.exists():
        os.utime(folder)  # `hone models gc` takes it for new, until a run refers to it
    else:
        with atomic_folder(folder) as temporary:
            for file_name, text in texts.items():
                write_atomically(temporary / file_name, text)
            write_json(temporary / "lineage.json", lineage)
    return Composition(folder, lineage)


def _line(example: Example) -> str:
    return json.dumps(example_to_openai(example), ensure_ascii=False)
