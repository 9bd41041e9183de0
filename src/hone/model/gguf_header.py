"""The header of a GGUF file, read strictly: what the file says it holds, checked against what it can hold.

transformers' own readers trust a file's counts: one flipped bit in a count makes them walk the whole file element by
element, or allocate what the number says. Here every count and offset is held against the bytes that are there before
it is followed, so that a damaged or hostile file ends in one message within a second.

Source: the GGUF specification, version 3 (ggml, ``docs/gguf.md``).
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from hone.errors import ModelError

__all__ = ["GgufHeader", "GgufTensor", "read_gguf_header", "read_gguf_values"]

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_LONGEST_KEY_BYTES = 65_535  # the specification's limit
_MOST_DIMENSIONS = 4  # ggml's GGML_MAX_DIMS
_DEFAULT_ALIGNMENT = 32
_KEPT_ARRAY_LENGTH = 256  # longer arrays (vocabularies, merges, scores) are walked over, and their length is kept


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of the file.

    Args:
        name: its name in llama.cpp's spelling, such as ``blk.0.attn_q.weight``.
        type_name: how its values are stored, such as ``Q4_1`` or ``F32``.
        num_values: how many values it holds.
        start: offset of its first byte in the file.
        num_bytes: how many bytes it takes.
        num_dimensions: 1 for a vector, 2 for a matrix, 3 for stacked experts.
    """

    name: str
    type_name: str
    num_values: int
    start: int
    num_bytes: int
    num_dimensions: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata and tensor table of a GGUF file.

    Args:
        metadata: key to value; an array of more than 256 elements, or of strings, stands as its length.
        tensors: the tensor table, in file order.
    """

    metadata: Mapping[str, object]
    tensors: tuple[GgufTensor, ...]

    @property
    def architecture(self) -> str:
        """``general.architecture``, such as ``llama``; empty where the file does not say."""
        return self.text("general.architecture")

    @property
    def num_values(self) -> int:
        """Weights of the file, all tensors together."""
        return sum(tensor.num_values for tensor in self.tensors)

    def text(self, key: str) -> str:
        """The value of ``key`` where it is text, else an empty string."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """The value of ``key`` where it is an integer, else None."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


class _Damaged(Exception):
    """The bytes contradict each other; the message says where."""


class _Cursor:
    """A place in the file that never leaves it."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def skip(self, num_bytes: int) -> None:
        if num_bytes > len(self.data) - self.at:
            raise _Damaged(f"byte {self.at} announces {num_bytes} bytes, and {len(self.data) - self.at} are left")
        self.at += num_bytes

    def unpack(self, layout: str) -> tuple[int | float | bool, ...]:
        start = self.at
        self.skip(struct.calcsize("<" + layout))
        return struct.unpack_from("<" + layout, self.data, start)

    def integer(self, layout: str) -> int:
        return int(self.unpack(layout)[0])

    def string(self, longest: int | None = None) -> str:
        start = self.at
        length = self.integer("Q")
        if longest is not None and length > longest:
            raise _Damaged(f"a name of {length} bytes at byte {start}")
        text_start = self.at
        self.skip(length)
        try:
            return self.data[text_start : self.at].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Damaged(f"text that is not UTF-8 at byte {text_start}") from error

    def value(self, kind: int) -> object:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise _Damaged(f"a value of unknown type {kind} at byte {self.at}")
        return self.unpack(_SCALARS[kind])[0]

    def array(self) -> object:
        kind, length = self.integer("I"), self.integer("Q")
        if kind == _STRING:
            if length * 8 > len(self.data) - self.at:
                raise _Damaged(f"a list of {length} texts at byte {self.at}")
            for _ in range(length):
                self.skip(self.integer("Q"))
            return length
        if kind not in _SCALARS:
            raise _Damaged(f"a list of unknown type {kind} at byte {self.at}")
        if length <= _KEPT_ARRAY_LENGTH:
            return self.unpack(f"{length}{_SCALARS[kind]}")
        self.skip(length * struct.calcsize(_SCALARS[kind]))
        return length


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; no weight is read.

    Raises:
        ModelError: the file cannot be read, is not GGUF, is of another version or byte order, is cut short, or
            contradicts itself.
    """
    remedy = "fetch the file again and compare its size, or its checksum, with the source's"
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
            if start[:4] != _MAGIC:
                raise _not_gguf(path, start)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Cursor(data))
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror or error}", where=str(path), remedy="check that it is there and readable"
        ) from error
    except _Damaged as error:
        raise ModelError(f"is damaged or cut short: {error}", where=str(path), remedy=remedy) from error


def read_gguf_values(path: Path, tensor: GgufTensor) -> tuple[float, ...]:
    """The values of one F32 tensor, in file order; for the few small ones that describe the model."""
    with path.open("rb") as stream:
        stream.seek(tensor.start)
        return struct.unpack(f"<{tensor.num_values}f", stream.read(tensor.num_bytes))


def _read(cursor: _Cursor) -> GgufHeader:
    cursor.skip(len(_MAGIC))
    version = cursor.integer("I")
    if version not in (2, 3):
        order = " (big-endian, which is not supported)" if version & 0xFFFF == 0 else ""
        raise _Damaged(f"it claims to be GGUF version {version}{order}; 2 and 3 are known")
    num_tensors, num_keys = cursor.integer("Q"), cursor.integer("Q")
    metadata: dict[str, object] = {}
    for _ in range(num_keys):
        key = cursor.string(_LONGEST_KEY_BYTES)
        if key in metadata:
            raise _Damaged(f"the key {key!r} stands there twice")
        metadata[key] = cursor.value(cursor.integer("I"))
    tensors = [_read_tensor(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _Damaged(f"general.alignment is {alignment!r}, not a power of two")
    data_start = -(-cursor.at // alignment) * alignment
    placed = tuple(
        GgufTensor(t.name, t.type_name, t.num_values, data_start + t.start, t.num_bytes, t.num_dimensions)
        for t in tensors
    )
    _check_places(placed, len(cursor.data))
    return GgufHeader(metadata, placed)


def _read_tensor(cursor: _Cursor) -> GgufTensor:
    """One row of the tensor table; ``start`` still counts from the beginning of the data."""
    name = cursor.string(_LONGEST_KEY_BYTES)
    num_dimensions = cursor.integer("I")
    if not 1 <= num_dimensions <= _MOST_DIMENSIONS:
        raise _Damaged(f"tensor {name!r} has {num_dimensions} dimensions")
    shape = [int(size) for size in cursor.unpack(f"{num_dimensions}Q")]
    kind, offset = cursor.integer("I"), cursor.integer("Q")
    try:
        stored_as = GGMLQuantizationType(kind)
    except ValueError:
        raise _Damaged(f"tensor {name!r} is stored in a way ({kind}) that gguf does not know") from None
    block_values, block_bytes = GGML_QUANT_SIZES[stored_as]
    num_values = math.prod(shape)
    if num_values == 0 or shape[0] % block_values:
        raise _Damaged(f"tensor {name!r} of shape {shape} cannot be stored as {stored_as.name}")
    num_bytes = num_values // block_values * block_bytes
    return GgufTensor(name, stored_as.name, num_values, offset, num_bytes, num_dimensions)


def _check_places(tensors: tuple[GgufTensor, ...], file_bytes: int) -> None:
    if not tensors:
        raise _Damaged("it holds no weights")
    names = {tensor.name for tensor in tensors}
    if len(names) < len(tensors):
        raise _Damaged("two tensors have one name")
    before = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        if tensor.start < before:
            raise _Damaged(f"tensor {tensor.name!r} overlaps another")
        before = tensor.start + tensor.num_bytes
        if before > file_bytes:
            raise _Damaged(f"tensor {tensor.name!r} ends at byte {before}, and the file has {file_bytes}")


def _not_gguf(path: Path, start: bytes) -> ModelError:
    if start.startswith(b"version https://git-lfs"):
        return ModelError(
            "is a Git LFS pointer: the weights themselves were not fetched",
            where=str(path),
            remedy="run `git lfs pull` in that repository",
        )
    what = "is empty" if not start else "is not a GGUF file: it does not begin with the bytes GGUF"
    return ModelError(what, where=str(path), remedy="fetch the file again")
