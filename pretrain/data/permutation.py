"""Permutations of any size that need no table: where each place goes is computed from a key."""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 4
GOLDEN = 0x9E3779B97F4A7C15

Key = int | NDArray[np.uint64]  # one for all, or one each


def permuted(places: NDArray[np.int64], size: int, key: Key) -> NDArray[np.int64]:
    """Where a permutation of range(size), chosen by `key`, puts each of `places` (N,); int64.

    A Feistel network permutes the next power of four; what falls outside `size` is sent through again until it falls
    inside (cycle walking, Black & Rogaway 2002, https://web.cs.ucdavis.edu/~rogaway/papers/subset.pdf).

    Args:
        key: of the permutation, or (N,) of each place's own one.
    """
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    result = places.astype(np.uint64)
    keys = np.broadcast_to(np.stack([mixed(key, turn) for turn in range(ROUNDS)]), (ROUNDS, len(result)))
    outside = np.arange(len(result))
    while len(outside):
        left, right = result[outside] >> half, result[outside] & mask
        for turn in keys:
            left, right = right, left ^ (_scrambled(right + turn[outside]) & mask)
        result[outside] = (left << half) | right
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _scrambled(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A well mixed 64-bit number for each value (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed


def mixed(first: Key, second: Key | NDArray[np.int64]) -> NDArray[np.uint64]:
    """One 64-bit key from two numbers, or from each pair of them; (1,) or (N,) uint64."""
    golden = np.uint64(GOLDEN)
    pairs: NDArray[np.uint64] = _as_keys(first) * golden + _as_keys(second) + np.uint64(1)
    return _scrambled(pairs * golden)


def _as_keys(numbers: Key | NDArray[np.int64]) -> NDArray[np.uint64]:
    return np.array([numbers % 2**64], np.uint64) if isinstance(numbers, int) else numbers.astype(np.uint64)
