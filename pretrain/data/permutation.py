"""Permutations of any size that need no table: where each place goes is computed from a key."""

import numpy as np

ROUNDS = 4


def permuted(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a permutation of range(size), chosen by `key`, puts each of `places`.

    A Feistel network permutes the next power of four; what falls outside `size` is sent through again until it falls
    inside (cycle walking, Black & Rogaway 2002, https://web.cs.ucdavis.edu/~rogaway/papers/subset.pdf).
    """
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.uint64(mixed(key, turn)) for turn in range(ROUNDS)]
    result = places.astype(np.uint64)
    outside = np.ones(len(result), bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for turn in keys:
            left, right = right, left ^ (_scrambled(right + turn) & mask)
        result[outside] = (left << half) | right
        outside = result >= size
    return result.astype(np.int64)


def _scrambled(values: np.ndarray) -> np.ndarray:
    """A well mixed 64-bit number for each value (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def mixed(first: int, second: int) -> int:
    """One 64-bit key from two numbers."""
    golden = 0x9E3779B97F4A7C15
    value = np.array([(first * golden + second + 1) % 2**64], np.uint64)
    return int(_scrambled(value * np.uint64(golden))[0])
