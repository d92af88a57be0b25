"""Finding repeated phrases in a batch of documents: bounds for all of them, exact counts for those that need them.

The bounds put every phrase of n words into one of many buckets by its hash. What a bucket holds is at least what any
phrase in it does, so a document whose buckets all hold too little for a rule does not break it, and one pass over
arrays is enough for most documents.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pretrain.data.words import WordTable
from pretrain.tokenizers.spans import mixed

_SEED = np.uint64(0xD6E8FEB86659FD93)  # parts the phrases of one document from those of another


class Phrases:
    """The phrases of the documents of a table; a phrase is n words in a row, a document its number."""

    def __init__(self, table: WordTable) -> None:
        self.table = table
        self.lengths = table.ends - table.starts
        self.characters = np.append(0, np.cumsum(self.lengths))  # of the words before each word
        self.first = np.searchsorted(table.text, np.arange(len(table.texts)))  # word of each document
        self.text_lengths = np.diff(table.texts) - 1
        self.bits = max(12, (4 * len(table.text)).bit_length())  # of the number of a bucket

    def maybe_frequent(self, n: int, threshold: float) -> list[int]:
        """Documents of which one phrase may make more than `threshold`."""
        starts = self._starts(n, None)
        if not len(starts):
            return []
        buckets = self._keys(n, starts) >> np.uint64(64 - self.bits)
        characters = self.characters[starts + n] - self.characters[starts] + (n - 1)
        held = np.bincount(buckets.astype(np.int64), characters, 1 << self.bits)[buckets]
        documents = self.table.text[starts]
        borders = np.flatnonzero(np.append(True, documents[1:] != documents[:-1]))
        likely = np.maximum.reduceat(held, borders) > threshold * self.text_lengths[documents[borders]] - 1
        found: list[int] = documents[borders][likely].tolist()
        return found

    def most_frequent(
        self, n: int, threshold: float, documents: Sequence[int], once: bool
    ) -> Iterator[tuple[int, int, int]]:
        """The most frequent phrase of each of some documents, the first of several.

        Args:
            threshold: of the characters, those that the phrase must make, with one space between two words.
            once: whether that may be a phrase that occurs once.
        Yields:
            the document, the word at which the phrase begins first, and how often it occurs.
        """
        starts = self._starts(n, documents)
        if not len(starts):
            return
        keys = self.table.text[starts].astype(np.uint64) * _SEED
        for step in range(n):
            keys = mixed(keys + self.table.hashes[starts + step])
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(np.append(True, keys[order][1:] != keys[order][:-1]))
        times = np.diff(np.append(borders, len(order)))
        first = starts[order[borders]]
        if not once:
            first, times = first[times > 1], times[times > 1]
        owner = self.table.text[first]
        order = np.lexsort((first, -times, owner))
        owner, first, times = owner[order], first[order], times[order]
        leads = np.flatnonzero(np.append(True, owner[1:] != owner[:-1])[: len(owner)])
        owner, first, times = owner[leads], first[leads], times[leads]
        characters = (self.characters[first + n] - self.characters[first] + (n - 1)) * times
        above = characters > threshold * self.text_lengths[owner] - 1  # a little less, for it is only about
        yield from zip(owner[above].tolist(), first[above].tolist(), times[above].tolist(), strict=True)

    def maybe_repeated(self, n: int, threshold: float, documents: Sequence[int]) -> list[int]:
        """Those of `documents` of which phrases that came before may make more than `threshold`."""
        starts = self._starts(n, None if len(documents) == len(self.text_lengths) else documents)
        again, _ = self._again(n, starts)
        places = starts[again]
        following = np.append(places[1:], len(self.lengths))
        covered = self.characters[np.minimum(places + n, following)] - self.characters[places]
        owner = self.table.text[places]
        total = np.bincount(owner, covered, len(self.text_lengths))
        found: list[int] = np.flatnonzero(total > threshold * self.text_lengths).tolist()
        return found

    def repeated_characters(self, n: int, document: int) -> int:
        """Characters in phrases that came before, by a walk from left to right that jumps over each one it finds."""
        starts = self._starts(n, [document])
        again, keys = self._again(n, starts)
        repeated = set(keys[again].tolist())
        position = 0
        seen: set[int] = set()
        repeats: list[int] = []
        for start, key in zip(starts.tolist(), keys.tolist(), strict=True):
            if start < position or key not in repeated:
                continue
            if key in seen:
                repeats.append(start)
                position = start + n
            seen.add(key)
        found = np.array(repeats, np.int64)
        return int((self.characters[found + n] - self.characters[found]).sum())

    def _again(self, n: int, starts: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        """Which phrases came before, and the keys of all.

        Each bucket remembers the first phrase in it. Those that share a bucket with another one, and so do all that are
        equal to them, are put into new buckets by other bits of their hashes.
        """
        keys = self._keys(n, starts)
        again = np.zeros(len(starts), bool)
        left, hashes = np.arange(len(starts)), keys
        while len(left):
            bits = max(8, (2 * len(left)).bit_length())
            buckets = hashes >> np.uint64(64 - bits)
            first = np.zeros(1 << bits, np.int32)
            first[buckets[::-1]] = np.arange(len(left) - 1, -1, -1, dtype=np.int32)
            earlier = first[buckets]
            alone = hashes[earlier] != hashes
            again[left] = ~alone & (earlier != np.arange(len(left)))
            left, hashes = left[alone], hashes[alone] * _SEED
        return again, keys

    def _starts(self, n: int, documents: Sequence[int] | None) -> NDArray[np.int64]:
        """Words at which a phrase of n words begins, in all documents or in some, ascending."""
        if documents is None:
            text = self.table.text
            return np.flatnonzero(text[n - 1 :] == text[: max(len(text) - n + 1, 0)])
        chosen = np.array(documents, np.int64)
        begin = self.first[chosen]
        number = np.maximum(self.first[chosen + 1] - begin - (n - 1), 0)
        skipped = np.cumsum(number) - number
        starts: NDArray[np.int64] = np.arange(int(number.sum())) + np.repeat(begin - skipped, number)
        return starts

    def _keys(self, n: int, starts: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Hashes of phrases, as strings without space, other ones in each document."""
        hashes = self.table.phrase_hashes(n, starts)
        return mixed(hashes + self.table.text[starts].astype(np.uint64) * _SEED)
