"""Texts as arrays of code points, and hashes of spans of them: the ground of everything that is fast with words."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 2**64)


def code_points(texts: Sequence[str], behind: str = "") -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The code points of all texts in one array, with those of `behind` after each text.

    Returns:
        (C,) the code points, and (N + 1,) where each text begins, and last where one more would.
    """
    points = np.frombuffer("".join([text + behind for text in texts]).encode("utf-32-le"), np.uint32)
    return points, np.cumsum([0, *(len(text) + len(behind) for text in texts)])


def span_hashes(points: NDArray[np.uint32], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash for each span [start, end) of an array of code points: equal for equal spans, with all bits mixed."""
    return mixed(span_polynomials(points, starts, ends))


def span_polynomials(
    points: NDArray[np.uint32], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """A polynomial modulo 2**64 of the code points of each span, from prefix sums: any number costs one pass."""
    rising, inverses = powers(len(points))
    sums = np.zeros(len(points) + 1, np.uint64)
    np.cumsum((points + np.uint32(1)) * rising[: len(points)], out=sums[1:])
    return (sums[ends] - sums[starts]) * inverses[starts]


def short_span_hashes(
    points: NDArray[np.uint32], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """The same as `span_hashes`, faster where the spans are few and short."""
    lengths = ends - starts
    sums, power = np.zeros(len(starts), np.uint64), 1
    for step in range(int(lengths.max(initial=0))):
        inside = np.flatnonzero(lengths > step)
        sums[inside] += (points[starts[inside] + step] + np.uint64(1)) * np.uint64(power)
        power = power * _BASE % 2**64
    return mixed(sums)


def mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The same hashes with the high bits mixed into the low ones and back."""
    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(_BASE)
    scattered: NDArray[np.uint64] = hashes ^ (hashes >> np.uint64(29))
    return scattered


def powers(length: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The powers of the polynomials' base and of its inverse from 0 on, at least `length` and one of each."""
    return _powers(1 << max(16, length.bit_length()))


@lru_cache(maxsize=1)
def _powers(length: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    both = []
    for base in (_BASE, _INVERSE):
        made = np.full(length, base, np.uint64)
        made[0] = 1
        both.append(np.cumprod(made))
    return both[0], both[1]
