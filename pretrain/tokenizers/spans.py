"""Texts as arrays of code points, and hashes of spans of them: the ground of everything that is fast with words."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 2**64)


def code_points(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The code points of all texts in one array, and where in it each text begins, and last where one more would."""
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    return points, np.cumsum([0, *map(len, texts)])


def span_hashes(points: NDArray[np.uint32], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash for each span [start, end) of an array of code points: equal for equal spans, with all bits mixed.

    It is a polynomial modulo 2**64 of the code points, taken from prefix sums: any number of spans costs one pass.
    """
    powers, inverses = _powers(1 << max(16, len(points).bit_length()))
    sums = np.zeros(len(points) + 1, np.uint64)
    np.cumsum((points + np.uint32(1)) * powers[: len(points)], out=sums[1:])
    return mixed((sums[ends] - sums[starts]) * inverses[starts])


def mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The same hashes with the high bits mixed into the low ones and back."""
    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(_BASE)
    scattered: NDArray[np.uint64] = hashes ^ (hashes >> np.uint64(29))
    return scattered


@lru_cache(maxsize=1)
def _powers(length: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The powers of _BASE and of its inverse, from 0 on."""
    both = []
    for base in (_BASE, _INVERSE):
        powers = np.full(length, base, np.uint64)
        powers[0] = 1
        both.append(np.cumprod(powers))
    return both[0], both[1]
