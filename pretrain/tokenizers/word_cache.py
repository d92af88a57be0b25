"""A table from pieces of text to their token ids, which whole arrays of pieces are looked up in at once.

Text repeats its words: once the ids of each are known, encoding is looking them up. A piece is known by a 64-bit hash
of its code points; among a million pieces in a table, one looked up meets another's hash once in 2**44 times.
"""

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pretrain.tokenizers.spans import code_points, span_hashes
from pretrain.tokenizers.splitting import Splitting

MOST = 1 << 20  # pieces that are remembered; then all are forgotten, so that memory stays bounded
LONGEST = 64  # code points of a piece that is remembered: longer ones are rarely met again
FREE = np.uint64(0)  # no piece's hash, for that one is taken as 1


class WordCache:
    """Encodes texts piece by piece, and each piece once.

    Args:
        splitting: how the encoder splits a text before it encodes each piece by itself.
        encode: the ids of each of some pieces.
        dtype: of the ids.
    """

    def __init__(
        self, splitting: Splitting, encode: Callable[[Sequence[str]], list[list[int]]], dtype: type[np.unsignedinteger]
    ) -> None:
        self._splitting = splitting
        self._encode = encode
        self._dtype = dtype
        self._forget()

    def _forget(self) -> None:
        self._hashes = np.zeros(1 << 14, np.uint64)  # open addressing, linear probing, never more than half full
        self._pieces = np.zeros(1 << 14, np.int64)  # the number of the piece in each slot
        self._ids = np.zeros(0, self._dtype)  # of all pieces, in order
        self._begins = np.zeros(1, np.int64)  # where in them each piece's ids begin, and last where the next would

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """The ids of each text, (length,)."""
        if len(self._begins) > MOST:
            self._forget()
        points, borders = code_points(texts)
        starts = self._splitting.starts(points, borders)
        ends = np.append(starts[1:], len(points))[: len(starts)]
        hashes = np.maximum(span_hashes(points, starts, ends), np.uint64(1))
        pieces = self._find(hashes)
        missing = np.flatnonzero(pieces < 0)
        long = missing[ends[missing] - starts[missing] > LONGEST]
        short = missing[ends[missing] - starts[missing] <= LONGEST]
        joined = "".join(texts) if len(missing) else ""
        if len(short):
            order = short[np.argsort(hashes[short])]
            new = order[np.append(True, hashes[order][1:] != hashes[order][:-1])]
            self._learn(hashes[new], self._encoded(joined, starts[new], ends[new]))
            pieces[short] = self._find(hashes[short])
        ids, begins = self._ids, self._begins
        if len(long):  # they stand behind the remembered ones, for this once
            ids, begins = _appended(ids, begins, self._encoded(joined, starts[long], ends[long]), self._dtype)
            pieces[long] = len(self._begins) - 1 + np.arange(len(long))
        lengths = begins[pieces + 1] - begins[pieces]
        stops = np.append(0, np.cumsum(lengths))
        shifts = np.repeat(begins[pieces] - stops[:-1], lengths)
        return np.split(ids[shifts + np.arange(stops[-1])], stops[np.searchsorted(starts, borders[1:-1])])[: len(texts)]

    def _encoded(self, joined: str, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[list[int]]:
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        return self._encode([joined[start:end] for start, end in spans])

    def _find(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """(W,) the number of the piece with each hash, or -1."""
        last = len(self._hashes) - 1
        slots = (hashes & np.uint64(last)).astype(np.int64)
        there = self._hashes[slots]
        found = np.where(there == hashes, self._pieces[slots], -1)
        left = np.flatnonzero((there != hashes) & (there != FREE))
        while len(left):
            slots[left] = (slots[left] + 1) & last
            there = self._hashes[slots[left]]
            hit = there == hashes[left]
            found[left[hit]] = self._pieces[slots[left[hit]]]
            left = left[~hit & (there != FREE)]
        return found

    def _learn(self, hashes: NDArray[np.uint64], encoded: list[list[int]]) -> None:
        """Remember the ids of pieces that are not known yet, each with its own hash."""
        numbers = len(self._begins) - 1 + np.arange(len(hashes))
        self._ids, self._begins = _appended(self._ids, self._begins, encoded, self._dtype)
        if len(self._begins) * 2 > len(self._hashes):
            taken = self._hashes != FREE
            hashes = np.concatenate([self._hashes[taken], hashes])
            numbers = np.concatenate([self._pieces[taken], numbers])
            size = 1 << (4 * len(self._begins)).bit_length()
            self._hashes, self._pieces = np.zeros(size, np.uint64), np.zeros(size, np.int64)
        last = len(self._hashes) - 1
        slots = (hashes & np.uint64(last)).astype(np.int64)
        left = np.arange(len(hashes))
        while len(left):  # whoever's hash stands in a free slot after all have written there has won it
            wanted = slots[left]
            free = self._hashes[wanted] == FREE
            self._hashes[wanted[free]] = hashes[left[free]]
            won = self._hashes[wanted] == hashes[left]
            self._pieces[wanted[won]] = numbers[left[won]]
            left = left[~won]
            slots[left] = (slots[left] + 1) & last


def _appended(
    ids: NDArray[np.unsignedinteger],
    begins: NDArray[np.int64],
    encoded: list[list[int]],
    dtype: type[np.unsignedinteger],
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """The ids of pieces, and where each begins, with those of more pieces behind them."""
    ends = begins[-1] + np.cumsum(list(map(len, encoded)))
    more: NDArray[np.unsignedinteger] = np.fromiter(chain.from_iterable(encoded), dtype)
    return np.concatenate([ids, more]), np.concatenate([begins, ends])
