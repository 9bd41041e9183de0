"""Prompts as arrays of trigram hashes, and their MinHash signatures: what ``near_search.py`` finds candidates by.

The trigrams are those of ``near.py``: across both ends, the nth occurrence of one being one of its own. Their hashes
do not change from one process to the next, so that neither does what is found.

Source: Broder: On the resemblance and containment of documents (SEQUENCES 1997); Leskovec, Rajaraman, Ullman: Mining of
massive datasets, section 3.4, for banding. The signatures are computed by rensa.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

__all__ = ["BANDS", "ROWS_A_BAND", "TokenHashes", "band_keys", "distances", "mixed", "signatures", "trigrams"]

Numbers = NDArray[np.uint64]

# Two prompts of Jaccard similarity s share a band with probability 1 - (1 - s^5)^16: 0.9999 at 0.85, 0.4 at 0.5.
BANDS = 16
ROWS_A_BAND = 5
_SEED = 2_026
_SKETCH_BITS = 64
_MOST_TOKENS = 1 << 20
# Odd numbers without pattern (the digits of pi, e, the golden ratio and the square root of two).
_FACTORS = (
    *(0x243F6A8885A308D3, 0xB7E151628AED2A6B, 0x9E3779B97F4A7C15),
    *(0x6A09E667F3BCC909, 0xBB67AE8584CAA73B),
)


class TokenHashes(dict[str, int]):
    """The 64-bit hash of each token, computed once while it is frequent."""

    def __missing__(self, token: str) -> int:
        if len(self) >= _MOST_TOKENS:
            self.clear()
        data = token.encode("utf-8", "surrogatepass")
        self[token] = value = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        return value


def mixed(values: Numbers) -> Numbers:
    """Each number replaced by one that depends on all its bits (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def trigrams(prompts: Sequence[Sequence[str]], hashes: TokenHashes) -> tuple[Numbers, NDArray[np.int64]]:
    """The hashes of the word trigrams of prompts, one prompt behind the other, and the prompt that each belongs to.

    Args:
        prompts: the tokens of each.
        hashes: of the tokens.
    """
    flat: list[int] = []
    for tokens in prompts:
        flat += [0, 0, *[hashes[token] for token in tokens], 0, 0]
    lengths = np.array([len(tokens) + 4 for tokens in prompts], dtype=np.int64)
    values = np.array(flat, dtype=np.uint64)
    owners = np.repeat(np.arange(len(prompts)), lengths)
    # a trigram begins at each place but the last two of its prompt
    ends = np.repeat(np.cumsum(lengths), lengths)
    starts = np.flatnonzero(np.arange(len(values)) < ends - 2)
    found = mixed(
        sum((values[starts + step] * np.uint64(_FACTORS[step]) for step in range(3)), np.zeros(len(starts), np.uint64))
    )
    owners = owners[starts]
    order = np.lexsort((found, owners))
    found, owners = found[order], owners[order]
    fresh = np.r_[True, (found[1:] != found[:-1]) | (owners[1:] != owners[:-1])]
    places = np.arange(len(found))
    occurrence = places - np.maximum.accumulate(np.where(fresh, places, 0))
    return mixed(found + occurrence.astype(np.uint64) * np.uint64(_FACTORS[3])), owners


def signatures(values: Numbers, owners: NDArray[np.int64], count: int) -> NDArray[np.uint32]:
    """MinHash signatures, a row for each of ``count`` prompts, of which each has at least one trigram."""
    offsets = np.searchsorted(owners, np.arange(count + 1)).astype(np.uint64)
    num_values = BANDS * ROWS_A_BAND
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(values, offsets, num_values, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(count, num_values)


def band_keys(signature: NDArray[np.uint32]) -> tuple[Numbers, Numbers]:
    """(keys, sketch) of signatures: a key for each band, equal where the band is; a bit of each of 64 values."""
    bands = signature.astype(np.uint64).reshape(len(signature), BANDS, ROWS_A_BAND)
    keys = np.broadcast_to(np.arange(1, BANDS + 1, dtype=np.uint64), bands.shape[:2]).copy()
    for place in range(ROWS_A_BAND):
        keys = mixed(keys * np.uint64(_FACTORS[4]) + bands[:, :, place])
    bits = (signature[:, :_SKETCH_BITS] & 1).astype(np.uint8)
    return keys, np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def distances(one: Numbers, other: Numbers) -> NDArray[np.int64]:
    """In how many of their 64 bits sketches differ: about 32 times one less the similarity."""
    differing = (one ^ other).view(np.uint8).reshape(-1, 8)
    count: NDArray[np.int64] = np.unpackbits(differing, axis=1).sum(axis=1, dtype=np.int64)
    return count
