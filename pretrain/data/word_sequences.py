"""The words of many texts as one array, simplified, and sequences of them by their length in words.

Words are those of `words.py` without the difference of upper and lower case, and of letters and digits that stand for
the same. A character of a script without spaces is half a word: 13 Japanese characters are some six words.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pretrain.data.words import WordTable, pieces, portions, word_spans, words

LAST = 0x40000  # no script without spaces has this code point or a higher one
WORD, CHARACTER = 2, 1  # units of length: a character of a script without spaces is half a word
CHARACTERS_AT_ONCE = 1 << 20  # characters whose words are found at the same time
WORDS_AT_ONCE = 1 << 18  # words for which powers are kept
BLOCK = 128  # code points that are looked at together
CROWDED = 16  # characters of a text for each that NFKC may change, below which all of it is normalised
JAMO = (0x1160, 0x11FF), (0xD7B0, 0xD7FF)  # vowels and finals of Hangul, which join what stands before them
BASE = 0xD6E8FEB86659FD93  # of the hashes of sequences, polynomials modulo 2**64; odd, so that it has an inverse


@dataclass(frozen=True)
class Words:
    """The words of some texts, simplified, one text behind the other.

    Attributes:
        hashes: (W,) of each word.
        text: (W,) the number of the text that it is in.
        units: (W + 1,) how long the words before it are, all together.
    """

    hashes: NDArray[np.uint64]
    text: NDArray[np.int64]
    units: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Words":
        hashes: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
        text: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        units: list[NDArray[np.uint8]] = [np.zeros(1, np.uint8)]
        for numbers, some in portions(texts, simplified, CHARACTERS_AT_ONCE):
            table = WordTable.of(some)
            hashes.append(table.hashes)
            text.append(np.array(numbers, np.int64)[table.text])
            units.append(_units()[np.minimum(table.points[table.starts], LAST)])
        return cls(np.concatenate(hashes), np.concatenate(text), np.cumsum(np.concatenate(units), dtype=np.int64))

    def part(self, start: int, stop: int) -> "Words":
        return Words(self.hashes[start:stop], self.text[start:stop], self.units[start : stop + 1] - self.units[start])

    def ends(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Behind which word `length` units or one more end; of `starts`, ascending, only those that have so many."""
        goals = self.units[starts] + length
        starts = starts[: np.searchsorted(goals, self.units[-1], side="right")]
        if self.units[-1] == WORD * len(self.hashes):
            return starts + -(-length // WORD)
        return self._behind[goals[: len(starts)] - 1]

    def lengths(self, texts: int) -> NDArray[np.int64]:
        """(texts,) units of length of each."""
        return np.diff(self.units[np.searchsorted(self.text, np.arange(texts + 1))])

    @cached_property
    def _behind(self) -> NDArray[np.int64]:
        """For each unit the word behind the one that it belongs to."""
        return np.repeat(np.arange(1, len(self.hashes) + 1), np.diff(self.units))

    def sequences(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The hash of the words from each start to each end."""
        _, inverses = _powers(_table_size(len(self.hashes)))
        hashes: NDArray[np.uint64] = (self._sums[ends] - self._sums[starts]) * inverses[starts]
        return hashes

    @cached_property
    def _sums(self) -> NDArray[np.uint64]:
        powers, _ = _powers(_table_size(len(self.hashes)))
        sums = np.zeros(len(self.hashes) + 1, np.uint64)
        np.cumsum(self.hashes * powers[: len(self.hashes)], out=sums[1:])
        return sums


def words_of(text: str) -> Iterator[str]:
    """The words of `text`, simplified, in order."""
    return chain.from_iterable(words(simplified(piece)) for piece in pieces(text))


def simplified(text: str) -> str:
    """`text` without the difference of upper and lower case, and of letters and digits that stand for the same (NFKC).

    Punctuation stays as it is, and with it most of what NFKC would change in Japanese.
    """
    if text.isascii():
        return text.lower()
    text = _compatible(text)
    folded = text.casefold()
    return folded if len(folded) == len(text) else _compatible(folded)


def _compatible(text: str) -> str:
    """NFKC of `text`, but perhaps for punctuation."""
    places = np.flatnonzero(_unstable()[np.frombuffer(text.encode("utf-32-le"), np.uint32)])
    if len(places) > len(text) / CROWDED:
        return unicodedata.normalize("NFKC", text)
    parts: list[str] = []
    start = 0
    for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else ():
        first, last = max(start, int(run[0]) - 1), int(run[-1])  # with what a mark belongs to
        parts += [text[start:first], unicodedata.normalize("NFKC", text[first : last + 1])]
        start = last + 1
    return "".join([*parts, text[start:]])


@lru_cache(maxsize=1)
def _unstable() -> NDArray[np.bool_]:
    """(0x110000,) whether NFKC may change a character, alone or behind another one, into what other words have."""
    unstable = np.zeros(0x110000, bool)
    for start in range(0x80, 0x110000, BLOCK):
        characters = [chr(point) for point in range(start, start + BLOCK)]
        marks = [unicodedata.category(character)[0] == "M" for character in characters]
        unstable[start : start + BLOCK] = marks
        if not unicodedata.is_normalized("NFKC", " ".join(characters)):
            for point, character in enumerate(characters, start):
                normal = unicodedata.normalize("NFKC", character)
                unstable[point] |= normal != character and any(map(str.isalnum, normal))
    for first, last in JAMO:
        unstable[first : last + 1] = True
    return unstable


@lru_cache(maxsize=1)
def _units() -> NDArray[np.uint8]:
    """(LAST + 1,) the length of a word that begins with each code point: short where two of them are two words."""
    points = np.full((LAST + 1, 3), ord(" "), np.uint32)
    points[:, :2] = np.arange(LAST + 1)[:, None]
    starts, _ = word_spans(points.ravel())
    return np.where(np.bincount(starts // 3, minlength=len(points)) == 2, CHARACTER, WORD).astype(np.uint8)


def _table_size(length: int) -> int:
    """The number of powers to make for `length` words: one of few sizes, so that they can be kept."""
    return 1 << max(WORDS_AT_ONCE.bit_length(), length.bit_length())


@lru_cache(maxsize=2)
def _powers(length: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The powers of BASE and of its inverse, from 0 on."""
    both = []
    for base in (BASE, pow(BASE, -1, 2**64)):
        powers = np.full(length, base, np.uint64)
        powers[0] = 1
        both.append(np.cumprod(powers))
    return both[0], both[1]
