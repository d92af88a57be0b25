"""Word lists: read from a file or from those that come with the package, and found in a batch of texts.

A word is found wherever its characters stand, as Japanese has no spaces, and all words are looked for at once.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from pretrain.data.filters.characters import CharacterTable
from pretrain.errors import ConfigError

FOLDER = Path(__file__).parent
COMMENT = "# "
_BASE = np.uint64(0x9E3779B97F4A7C15)  # of hashes, which are polynomials modulo 2**64
_PAIRS = 1 << 16  # sums of two neighbours that are told apart before anything is looked at


def word_list(file: str) -> list[str]:
    """The words in `file`, one a line, or of a list that comes with the package, by its name.

    Raises:
        ConfigError: there is no such file, it is no text in UTF-8, or no word is in it.
    """
    shipped = {path.stem: path for path in sorted(FOLDER.glob("*.txt"))}
    path = shipped.get(file, Path(file))
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        near = difflib.get_close_matches(file, shipped, n=1)
        hint = f"did you mean {near[0]}?" if near else f"name a file, a word a line, or one of {', '.join(shipped)}"
        raise ConfigError(f"the word list {file} cannot be read ({why}); {hint}") from None
    words = [word for line in lines if (word := line.strip()) and not line.startswith(COMMENT)]
    if not words:
        raise ConfigError(f"the word list {file} holds no word; write one a line")
    return list(dict.fromkeys(words))


def digest(words: Sequence[str]) -> str:
    """What stands for a list of words in the key of a stage, wherever its file lies."""
    return xxhash.xxh3_128_hexdigest("\n".join(words).encode())


@dataclass(frozen=True)
class _Prefixes:
    """The first so many characters of all words.

    Attributes:
        hashes: (P,) of each, ascending.
        lists: (P,) uint64, a bit for each list that has a word which ends there.
        shift: what is left of a hash, shifted by it, is its bucket.
        first: (buckets,) where in `hashes` a bucket begins.
        largest: hashes in a bucket, at most.
    """

    hashes: NDArray[np.uint64]
    lists: NDArray[np.uint64]
    shift: np.uint64
    first: NDArray[np.int64]
    largest: int

    @classmethod
    def of(cls, words: dict[str, int], length: int) -> "_Prefixes":
        lists: dict[int, int] = {}
        for word, bits in words.items():
            if len(word) >= length:
                key = _hash(word[:length])
                lists[key] = lists.get(key, 0) | (bits if len(word) == length else 0)
        hashes = np.array(sorted(lists), np.uint64)
        bits = (8 * len(hashes)).bit_length()
        shift = np.uint64(64 - bits)
        first = np.searchsorted(hashes, np.arange(1 << bits, dtype=np.uint64) << shift)
        largest = int(np.bincount((hashes >> shift).astype(np.int64)).max())
        return cls(hashes, np.array([lists[key] for key in sorted(lists)], np.uint64), shift, first, largest)

    def find(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Which of `hashes` are those of a prefix, and the lists of the words that end there."""
        place = self.first.take((hashes >> self.shift).astype(np.int64))
        same = self.hashes.take(place, mode="clip") == hashes
        for _ in range(1, self.largest):
            other = np.flatnonzero(~same)
            place[other] += 1
            same[other] = self.hashes.take(place[other], mode="clip") == hashes[other]
        which = np.flatnonzero(same)
        return which, self.lists.take(np.minimum(place[which], len(self.hashes) - 1))


class Keywords:
    """Several word lists, 64 at most, that are looked for at once.

    Args:
        lists: the words of each.
    """

    def __init__(self, lists: Sequence[Sequence[str]]) -> None:
        words: dict[str, int] = {}
        for number, some in enumerate(lists):
            for word in some:
                words[word] = words.get(word, 0) | 1 << number
        self.lists = len(lists)
        self._prefixes = [_Prefixes.of(words, length) for length in range(1, 1 + max(map(len, words), default=0))]
        self._pairs = np.zeros(_PAIRS, bool)
        self._alone = np.array(sorted(ord(word) for word in words if len(word) == 1), np.uint32)
        for word in words:
            if len(word) > 1:
                points = np.array([ord(word[0]), ord(word[1])], np.uint32)
                self._pairs[_pair(points[:1], points[1:])] = True

    def covered(self, table: CharacterTable) -> NDArray[np.int64]:
        """(N, lists) how many characters of each text are inside a word of each list; one in two words counts once."""
        covered = np.zeros((len(table.borders) - 1, self.lists), np.int64)
        starts, ends, lists = self._spans(table)
        texts = table.owner[starts]
        for number in range(self.lists):
            mine = (lists >> np.uint64(number) & np.uint64(1)).astype(bool)
            if mine.any():
                reached = np.maximum.accumulate(ends[mine])
                new = ends[mine] - np.maximum(starts[mine], np.append(np.int64(0), reached[:-1]))
                covered[:, number] = np.bincount(texts[mine], np.maximum(new, 0), minlength=len(covered))
        return covered

    def _spans(self, table: CharacterTable) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
        """Where words begin and end in `table.points`, by their beginnings, and a bit for each list of the word."""
        points = table.points
        maybe = np.zeros(len(points), bool)
        maybe[:-1] = self._pairs.take(_pair(points[:-1], points[1:]))
        for letter in self._alone:
            maybe |= points == letter
        at = np.flatnonzero(maybe)
        hashes = np.zeros(len(at), np.uint64)
        found = [(at[:0], at[:0], hashes[:0])]
        for length, known in enumerate(self._prefixes, 1):
            inside = at + length <= len(points)
            if not inside.all():
                at, hashes = at[inside], hashes[inside]
            hashes = (hashes + points[at + length - 1]) * _BASE
            if length == 1 and not len(self._alone):
                continue  # the pair of the first two characters told as much
            which, lists = known.find(hashes)
            at, hashes = at[which], hashes[which]
            ending = np.flatnonzero(lists)
            found.append((at[ending], at[ending] + length, lists[ending]))
        starts, ends, lists = (np.concatenate(columns) for columns in zip(*found, strict=True))
        order = np.argsort(starts, kind="stable")
        return starts[order], ends[order], lists[order]


def _hash(word: str) -> int:
    value = 0
    for letter in word:
        value = (value + ord(letter)) * int(_BASE) % 2**64
    return value


def _pair(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> NDArray[np.int64]:
    mixed: NDArray[np.int64] = (first * np.uint32(40503) + second & np.uint32(_PAIRS - 1)).astype(np.int64)
    return mixed
