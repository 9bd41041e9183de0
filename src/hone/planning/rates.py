"""How fast this machine trains: measured once in a few seconds, and kept under a key of machine and libraries.

What is measured is hone's own path (packed rows, fused adapters, chunked head) on random layers of two widths, not a
bare matrix product: what a pass costs besides its products is in the figures. The least of some repetitions counts,
since other work on the machine only ever adds.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from hone import __version__
from hone.data.pack import pack
from hone.errors import StorageError
from hone.files import sha256_file, write_atomically, write_json
from hone.model.attention import packed_attention_enabled
from hone.model.attention_groups import BLOCK_QUERIES
from hone.model.fast_layers import fast_layers_enabled
from hone.model.forward import packed_logprobs
from hone.model.head import OutputHead, token_logprobs
from hone.model.lora import adapter_parameters, attach_adapter
from hone.model.machine import machine_identity
from hone.model.sampling import choose_tokens, row_generator
from hone.types import TokenSequence

__all__ = ["Rates", "machine_key", "measured_rates", "rough_rates"]

_SCHEMA = 2
_REPETITIONS = 3
_NARROW, _WIDE = 512, 1536
_HEAD = (192, 512, 24_576)  # supervised tokens, width, vocabulary
_OPTIMIZER_VALUES = 1 << 22
_STORED_BYTES = 1 << 24
_COPIED_VALUES = 1 << 24
_DRAWN_ROWS = 8


@dataclass(frozen=True, slots=True)
class Rates:
    """Speeds of a device in a dtype.

    Args:
        narrow_per_second: operations of linear layers of width 512, forwards and backwards.
        wide_per_second: the same of width 1,536.
        head_per_second: operations of the head, with its softmax.
        attention_per_second: operations of attention's products, with their softmax.
        bytes_per_second: read and written by a plain copy.
        seconds_a_layer: what a decoder layer's forward and backward pass takes besides, however few the tokens.
        seconds_a_trained_value: the optimizer's.
        stored_bytes_per_second: written, synchronised and hashed.
        seconds_a_drawn_value: of drawing a token, for each of the vocabulary's.
        bytes_per_value: of the dtype.
        source: where the figures come from.
    """

    narrow_per_second: float
    wide_per_second: float
    head_per_second: float
    attention_per_second: float
    bytes_per_second: float
    seconds_a_layer: float
    seconds_a_trained_value: float
    stored_bytes_per_second: float
    seconds_a_drawn_value: float
    bytes_per_value: int
    source: str = "measured on this machine"

    def linear_per_second(self, width: float) -> float:
        """Operations a second of linear layers of ``width``: between the two that were measured, by its logarithm."""
        low, high, at = (math.log(one) for one in (_NARROW, _WIDE, max(1.0, width)))
        share = min(1.0, max(0.0, (at - low) / (high - low)))
        return self.narrow_per_second + share * (self.wide_per_second - self.narrow_per_second)


def machine_key(device: str, dtype: torch.dtype) -> str:
    """A short name of everything that the rates depend on: processor or card, threads, libraries, dtype."""
    parts = {**machine_identity(device), "dtype": str(dtype), "hone": __version__, "schema": _SCHEMA}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def measured_rates(*, home: Path, device: str, dtype: torch.dtype, note: Callable[[str], None]) -> Rates:
    """The rates of this machine, from the home folder where they were measured before.

    Args:
        home: hone's home folder.
        device: such as ``cpu``.
        dtype: of the weights.
        note: told before a measurement begins.
    """
    path = home / "plan" / f"rates-{machine_key(device, dtype)}.json"
    try:
        return Rates(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        pass  # not there, or of another form: measured again
    note("measuring this machine for the plan, once; a few seconds")
    rates = _measure(device, dtype)
    write_json(path, asdict(rates))
    return rates


def rough_rates(device: str, dtype: torch.dtype) -> Rates:
    """Rates from one matrix product, in milliseconds: for models so small that a plan is not worth a measurement."""
    square = torch.ones(_NARROW, _NARROW, device=device, dtype=dtype)
    product = 2 * _NARROW**3 / _least(lambda: square @ square, device)
    return Rates(
        narrow_per_second=0.4 * product,
        wide_per_second=0.6 * product,
        head_per_second=0.4 * product,
        attention_per_second=0.2 * product,
        bytes_per_second=5e9,
        seconds_a_layer=3e-3,
        seconds_a_trained_value=5e-9,
        stored_bytes_per_second=1e8,
        seconds_a_drawn_value=1e-8,
        bytes_per_value=dtype.itemsize,
        source="guessed from one matrix product on this machine",
    )


def _measure(device: str, dtype: torch.dtype) -> Rates:
    few = _seconds_of_layers(_NARROW, 2, [16], device, dtype)
    narrow = _seconds_of_layers(_NARROW, 2, [128] * 6, device, dtype)
    long = _seconds_of_layers(_NARROW, 2, [768], device, dtype)
    wide = _seconds_of_layers(_WIDE, 1, [128] * 4, device, dtype)
    copied = torch.ones(_COPIED_VALUES, device=device, dtype=torch.float32)
    copy_seconds = _least(lambda: copied.clone(), device)
    bytes_per_second = 2 * copied.numel() * 4 / copy_seconds
    read = 2 * 2 * _linear_values(_NARROW) * dtype.itemsize / bytes_per_second
    a_layer = max(1e-6, (few - read) / 2)
    # what more pairs of the same number of tokens cost
    heads = _NARROW // 64
    pairs = _pairs(768) - 6 * _pairs(128)
    attention = 12 * pairs * heads * 64 * 2 / max(long - narrow, 0.02 * long)
    inner = 12 * 6 * _pairs(128) * heads * 64 * 2 / attention
    wide_inner = 12 * 4 * _pairs(128) * _WIDE / attention
    wide_read = 2 * _linear_values(_WIDE) * dtype.itemsize / bytes_per_second
    narrow_left = max(narrow - inner - read - 2 * a_layer, 0.2 * narrow)
    wide_left = max(wide - wide_inner - wide_read - a_layer, 0.2 * wide)
    return Rates(
        narrow_per_second=_layer_operations(_NARROW, 2, 768) / narrow_left,
        wide_per_second=_layer_operations(_WIDE, 1, 512) / wide_left,
        head_per_second=_head_per_second(device, dtype),
        attention_per_second=attention,
        bytes_per_second=bytes_per_second,
        seconds_a_layer=a_layer,
        seconds_a_trained_value=_seconds_a_trained_value(device),
        stored_bytes_per_second=_stored_bytes_per_second(),
        seconds_a_drawn_value=_seconds_a_drawn_value(device),
        bytes_per_value=dtype.itemsize,
    )


def _pairs(length: int, block: int = BLOCK_QUERIES) -> int:
    return sum((min(start + block, length) - start) * min(start + block, length) for start in range(0, length, block))


def _linear_values(width: int) -> int:
    return 4 * width * width + 3 * width * _inner(width)


def _inner(width: int) -> int:
    return width * 8 // 3 // 64 * 64


def _layer_operations(width: int, layers: int, tokens: int) -> float:
    adapter = 16 * (4 * 2 * width + 3 * (width + _inner(width)))
    return layers * tokens * (4 * _linear_values(width) + 6 * adapter)


@contextmanager
def _layers(width: int, layers: int, device: str, dtype: torch.dtype) -> Iterator[PreTrainedModel]:
    """Random decoder layers with an adapter, on the path that training takes."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=width, intermediate_size=_inner(width), num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=2048,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).to(device=device, dtype=dtype)
    model.eval().requires_grad_(False)
    attach_adapter(model, rank=16, alpha=32.0, seed=0)
    with fast_layers_enabled(model), packed_attention_enabled(model):
        yield model


def _seconds_of_layers(width: int, layers: int, lengths: list[int], device: str, dtype: torch.dtype) -> float:
    rows = [
        TokenSequence(tuple((3 + number + 7 * place) % 64 for place in range(length)), (False, True) * (length // 2), 1)
        for number, length in enumerate(lengths)
    ]
    batch = pack(rows, share_prefixes=False)
    with _layers(width, layers, device, dtype) as model:
        parameters = list(adapter_parameters(model).values())

        def once() -> None:
            torch.autograd.grad(packed_logprobs(model, batch).sum(), parameters)

        return _least(once, device)


def _head_per_second(device: str, dtype: torch.dtype) -> float:
    supervised, width, vocabulary = _HEAD
    layer = torch.nn.Linear(width, vocabulary, bias=False, device=device, dtype=dtype).requires_grad_(False)
    hidden_SD = torch.zeros(supervised, width, device=device, dtype=dtype, requires_grad=True)
    targets_S = torch.zeros(supervised, dtype=torch.long, device=device)

    def once() -> Tensor:
        return torch.autograd.grad(token_logprobs(hidden_SD, OutputHead(layer), targets_S).sum(), hidden_SD)[0]

    return 4 * supervised * width * vocabulary / _least(once, device)


def _seconds_a_trained_value(device: str) -> float:
    parameter = torch.nn.Parameter(torch.zeros(_OPTIMIZER_VALUES, device=device))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    return _least(lambda: optimizer.step(), device) / _OPTIMIZER_VALUES


def _seconds_a_drawn_value(device: str) -> float:
    *_, vocabulary = _HEAD
    logits_BV = torch.zeros(_DRAWN_ROWS, vocabulary, device=device)
    generators = [row_generator(0, row) for row in range(_DRAWN_ROWS)]

    def once() -> Tensor:
        return choose_tokens(logits_BV, temperature=1.0, top_p=1.0, generators=generators)

    return _least(once, device) / logits_BV.numel()


def _stored_bytes_per_second() -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written"
        started = time.perf_counter()
        try:
            write_atomically(path, bytes(_STORED_BYTES))
        except StorageError:
            return 1e8  # a full disk is told of where something has to be stored
        sha256_file(path)
        return _STORED_BYTES / (time.perf_counter() - started)


def _least(work: Callable[[], object], device: str) -> float:
    """Seconds of ``work``, the least of some repetitions after one that is not counted."""
    found = []
    for _ in range(_REPETITIONS + 1):
        started = time.perf_counter()
        work()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return max(1e-9, min(found[1:]))
