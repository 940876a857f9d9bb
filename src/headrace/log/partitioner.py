"""Which partition a key belongs to: murmur2, as Kafka's Java client counts it.

- Every record of a key lands in one partition, whichever client wrote it; joins and tables rest on this.
- Without compiled code keys are hashed together, four bytes of all of them at a time; a few long keys are finished one
  by one.
- A null key has no partition: -1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.log.columns import binary_data, binary_offsets, binary_sizes
from headrace.log.port import Int32Column
from headrace.native import native

NO_PARTITION = -1

_SEED = 0x9747B28C
_FACTOR = 0x5BD1E995
_MASK = 0xFFFFFFFF
_FACTOR_32 = np.uint32(_FACTOR)

_FEW_KEYS = 8
"""Below this many keys a step over all of them costs more than finishing each one by itself."""

_Words = npt.NDArray[np.uint32]


def partition_for(keys: pa.LargeBinaryArray, partitions: int) -> Int32Column:
    """The partition of each key; -1 for a null key."""
    assert partitions > 0
    chosen = ((murmur2(keys) & np.int32(0x7FFFFFFF)) % np.int32(partitions)).astype(np.int32)
    if keys.null_count:
        chosen[keys.is_null().to_numpy(zero_copy_only=False)] = NO_PARTITION
    return chosen


def murmur2(keys: pa.LargeBinaryArray) -> Int32Column:
    """The hash of each key; a null key counts as empty."""
    if len(keys) == 0:
        return np.zeros(0, dtype=np.int32)
    if native is not None:
        validity = keys.buffers()[0] if keys.null_count else None
        hashes = native.murmur2(binary_offsets(keys), binary_data(keys), validity, keys.offset)
        return np.frombuffer(hashes, np.int32)
    return _murmur2(keys)


def _murmur2(keys: pa.LargeBinaryArray) -> Int32Column:
    sizes, data = binary_sizes(keys), binary_data(keys)
    # Longest first, so that the keys that still have bytes are always a prefix.
    order = np.argsort(-sizes, kind="stable")
    sizes, starts = sizes[order], binary_offsets(keys)[:-1][order]
    hashes = np.uint32(_SEED) ^ sizes.astype(np.uint32)
    done = _mix_blocks(hashes, data, starts, sizes)
    _mix_tails(hashes[done:], data, starts[done:], sizes[done:])
    _finish(hashes[done:])
    result = np.empty(len(hashes), dtype=np.uint32)
    result[order] = hashes
    return result.view(np.int32)


def _mix_blocks(
    hashes: _Words, data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> int:
    """Mix all whole blocks into `hashes`; returns how many of the longest keys were finished completely."""
    blocks = sizes // 4
    # How many keys have more than n blocks, for every n.
    left = len(blocks) - np.searchsorted(blocks[::-1], np.arange(int(blocks[0])), side="right")
    for number, count in enumerate(left.tolist()):
        if count < _FEW_KEYS:
            for row in range(count):
                hashes[row] = murmur2_of(data[starts[row] : starts[row] + sizes[row]].tobytes()) & _MASK
            return int(count)
        at = starts[:count] + number * 4
        word = data[at].astype(np.uint32)
        for shift in (1, 2, 3):
            word |= data[at + shift].astype(np.uint32) << np.uint32(8 * shift)
        word *= _FACTOR_32
        word ^= word >> np.uint32(24)
        word *= _FACTOR_32
        hashes[:count] *= _FACTOR_32
        hashes[:count] ^= word
    return 0


def _mix_tails(
    hashes: _Words, data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> None:
    rest, at = sizes % 4, starts + sizes // 4 * 4
    for shift in (2, 1, 0):
        rows = np.flatnonzero(rest > shift)
        hashes[rows] ^= data[at[rows] + shift].astype(np.uint32) << np.uint32(8 * shift)
    hashes[rest > 0] *= _FACTOR_32


def _finish(hashes: _Words) -> None:
    hashes ^= hashes >> np.uint32(13)
    hashes *= _FACTOR_32
    hashes ^= hashes >> np.uint32(15)


def murmur2_of(key: bytes) -> int:
    """The hash of one key, as Java's signed int."""
    result = _SEED ^ len(key)
    whole = len(key) // 4 * 4
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * _FACTOR & _MASK
        word = (word ^ word >> 24) * _FACTOR & _MASK
        result = (result * _FACTOR & _MASK) ^ word
    if whole < len(key):
        result = (result ^ int.from_bytes(key[whole:], "little")) * _FACTOR & _MASK
    result = (result ^ result >> 13) * _FACTOR & _MASK
    result ^= result >> 15
    return result - (1 << 32) if result & 0x80000000 else result
