"""The characters of a batch of texts as numbers, so that a rule measures all of them by a few operations on arrays."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a character is. Han with what is written like it (々〆〇), kana with the mark of a long vowel.
SPACE, HIRAGANA, KATAKANA, HAN, LETTER, DIGIT, SYMBOL = range(7)
KINDS = 7

_LAST = 0x40000  # no letter has this code point or a higher one
_KATAKANA = ("\u30a1\u30fa", "\u30fc\u30ff", "\u31f0\u31ff", "\uff66\uff9d")
_HIRAGANA = ("\u3041\u3096", "\u3099\u309f")
_HAN = ("\u2e80\u2fdf", "\u3005\u3007", "\u3021\u3029", "\u3038\u303b", "\u3400\u4dbf", "\u4e00\u9fff", "\uf900\ufaff")
_RARE_HAN = ("\U00020000\U0003ffff",)
_RARE = 0x20000  # where it begins: no other letters stand there
_BASE = np.uint64(0x9E3779B97F4A7C15)  # of hashes, which are polynomials modulo 2**64


@dataclass(frozen=True)
class CharacterTable:
    """The characters of a batch of texts.

    Attributes:
        points: (C,) uint32, the code points of all texts, with a line feed behind each.
        borders: (N + 1,) int64, where in `points` each text begins, and last where one more would.
    """

    points: NDArray[np.uint32]
    borders: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "CharacterTable":
        points = np.frombuffer("".join(f"{text}\n" for text in texts).encode("utf-32-le"), np.uint32)
        return cls(points, np.cumsum([0, *(len(text) + 1 for text in texts)]))

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """(C,) the number of the text that each character is in."""
        return np.repeat(np.arange(len(self.borders) - 1), np.diff(self.borders))

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:
        """(C,) what each character is."""
        return kind_table()[np.minimum(self.points, np.uint32(_LAST))]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(N, KINDS) how many characters of each kind are in each text; the line feed behind it is none of them."""
        found = np.bincount(self.owner * KINDS + self.kinds, minlength=KINDS * (len(self.borders) - 1))
        counts: NDArray[np.int64] = found.reshape(-1, KINDS)
        counts[:, SPACE] -= 1
        return counts

    @cached_property
    def visible(self) -> NDArray[np.int64]:
        """(N,) characters that are not white space."""
        visible: NDArray[np.int64] = self.counts.sum(axis=1) - self.counts[:, SPACE]
        return visible

    def per_text(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """(N,) the sum of `values` (C,) over the characters of each text."""
        sums: NDArray[np.int64] = np.add.reduceat(values, self.borders[:-1], dtype=np.int64)
        return sums

    def where(self, *characters: str) -> NDArray[np.bool_]:
        """(C,) which characters are one of `characters`."""
        found = np.zeros(len(self.points), bool)
        for character in characters:
            found |= self.points == np.uint32(ord(character))
        return found

    @cached_property
    def seen(self) -> "CharacterTable":
        """The same texts without white space, but for the line feed behind each."""
        kept = self.kinds != SPACE
        kept[self.borders[1:] - 1] = True
        return CharacterTable(self.points[kept], np.cumsum([0, *(self.visible + 1)]))

    def hashes(self, n: int) -> NDArray[np.uint64]:
        """(C - n + 1,) a hash of every n characters in a row, with all bits mixed; some run into the next text."""
        size = max(0, len(self.points) - n + 1)
        hashes = self.points[:size].astype(np.uint64)
        for offset in range(1, n):
            hashes *= _BASE
            hashes += self.points[offset : offset + size]
        hashes ^= hashes >> np.uint64(32)
        hashes *= _BASE
        hashes ^= hashes >> np.uint64(29)
        hashes *= _BASE
        return hashes

    def grams(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The distinct sequences of n characters in each text: of each, the text, and how often it occurs there."""
        bits = max(1, (len(self.borders) - 1).bit_length())
        hashes = self.hashes(n)
        hashes >>= np.uint64(bits)
        hashes |= self.owner[: len(hashes)].astype(np.uint64) << np.uint64(64 - bits)
        inside = np.ones(len(self.points), bool)  # where n characters begin that do not run into the next text
        for offset in range(n):
            inside[np.maximum(self.borders[1:] - 1 - offset, self.borders[:-1])] = False
        hashes = np.sort(hashes[inside[: len(hashes)]])
        first = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
        counts = np.diff(first, append=len(hashes))
        return (hashes[first] >> np.uint64(64 - bits)).astype(np.int64), counts


@lru_cache(maxsize=1)
def kind_table() -> NDArray[np.uint8]:
    """(_LAST + 1,) the kind of each code point."""
    table = np.full(_LAST + 1, SYMBOL, np.uint8)
    for code in range(_RARE):
        category = unicodedata.category(chr(code))
        if category[0] in "LM":
            table[code] = LETTER
        elif category[0] == "N":
            table[code] = DIGIT
        elif chr(code).isspace():
            table[code] = SPACE
    for kind, ranges in ((HAN, _HAN + _RARE_HAN), (HIRAGANA, _HIRAGANA), (KATAKANA, _KATAKANA)):
        for ends in ranges:
            table[ord(ends[0]) : ord(ends[1]) + 1] = kind
    return table
