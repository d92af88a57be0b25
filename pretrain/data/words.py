"""Splitting text into words in any script, without a dictionary: fast, and the same on every machine.

A word is a run of letters, digits and underscores, with the marks that belong to them. Punctuation is no word: counted
as one, as some splitters do, it would make half of the words of source code, and most of its five-word phrases alike.
Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without spaces, so there each character is a word.

`words` gives those of one text as strings. `WordTable` gives those of a whole batch of texts as numbers, by operations
on arrays of code points that take a tenth of the time.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pretrain.tokenizers.spans import code_points, powers, span_hashes, span_polynomials

PIECE = 1_000_000  # characters whose words are strings at the same time, where that is enough

_SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u2e80-\u2fdf\u3005-\u30ff\u3105-\u312f\u31a0-\u31ff"  # radicals, kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"  # Han, half-width kana
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # old kana, rare Han
)
_MARKS = (
    "\u0300-\u036f\u0483-\u0489"  # accents
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew points
    "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"  # Arabic vowels
    "\u0900-\u0963\u0966-\u0dff"  # the scripts of India, all but their full stop
)
_LETTERS = rf"[^\W{_SPACELESS}]"
_WORD = re.compile(rf"{_LETTERS}+(?:[{_MARKS}]+{_LETTERS}*)*|[{_SPACELESS}]")
_BORDER = re.compile(rf"\s|(?<=[{_SPACELESS}])(?=[{_SPACELESS}])")
_LETTER, _MARK, _ALONE = 1, 2, 3  # classes of characters; all others are 0
_CLASSES = (
    (_MARK, re.compile(rf"[{_MARKS}]+")),
    (_LETTER, re.compile(rf"{_LETTERS}+")),
    (_ALONE, re.compile(rf"[{_SPACELESS}]+")),
)
_LAST = 0x40000  # no letter has this code point or a higher one, but for a few marks that belong to no word
# Where kinds of characters that are words begin, each kind's number, and how many of a kind make about a word.
_BORDERS = np.array([0x2E80, 0x3041, 0x30A0, 0x3105, 0xFF66, 0xFFA0])
_KINDS = np.array([0, 1, 2, 3, 1, 3, 1])  # others, Han, hiragana, katakana with the long vowel mark
_TOGETHER = np.array([4, 2, 16, 16])
_NO_SPACE = re.compile(rf"(?<=[{_SPACELESS}]) (?=[{_SPACELESS}])")


def words(text: str) -> list[str]:
    """The words of `text`, in order."""
    return _WORD.findall(text)


@dataclass(frozen=True)
class WordTable:
    """The words of a batch of texts, in order.

    Attributes:
        points: (C,) uint32, the code points of all texts, with a line feed behind each.
        texts: (N + 1,) where in `points` each text begins, and last where one more would.
        starts, ends: (W,) int64, where in `points` each word begins and ends.
        text: (W,) int64, the number of the text that each word is in.
    """

    points: NDArray[np.uint32]
    texts: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    text: NDArray[np.int64]

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """(W,) uint64, equal for equal words; all bits are mixed."""
        return span_hashes(self.points, self.starts, self.ends)

    @classmethod
    def of(cls, texts: Sequence[str]) -> "WordTable":
        """The words of `texts`, the same as `words` gives for each."""
        points, borders = code_points(texts, behind="\n")
        return cls.of_spans(points, borders, *word_spans(points))

    @classmethod
    def of_spans(
        cls,
        points: NDArray[np.uint32],
        texts: NDArray[np.int64],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> "WordTable":
        """A table of words that were found by other rules."""
        owner = np.repeat(np.arange(len(texts) - 1), np.diff(np.searchsorted(starts, texts)))
        return cls(points, texts, starts, ends, owner)

    def phrase_hashes(self, n: int, at: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Hashes of the `n` words from each word in `at` on, equal for equal strings of them without space, unmixed."""
        sums, characters = self._joined
        _, inverses = powers(len(self.points))
        return (sums[at + n] - sums[at]) * inverses[characters[at]]

    @cached_property
    def _joined(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Sums of the polynomials, and of the characters, of the words before each word."""
        rising, _ = powers(len(self.points))
        lengths = self.ends - self.starts
        characters = np.append(0, np.cumsum(lengths))
        sums = np.zeros(len(lengths) + 1, np.uint64)
        np.cumsum(span_polynomials(self.points, self.starts, self.ends) * rising[characters[:-1]], out=sums[1:])
        return sums, characters


def grouped_characters(table: WordTable) -> WordTable:
    """The same words, but characters of scripts without spaces are taken together, about as long as words there are.

    A run of kana is one; of Han two characters, from the left, of the other scripts four. A phrase of five words then
    has as much to say as one of English.
    """
    first = table.points[table.starts]
    kind = _KINDS[np.searchsorted(_BORDERS, first, side="right")]
    alone = (table.ends - table.starts == 1) & (_class_table()[np.minimum(first, _LAST)] == _ALONE)
    fresh = np.ones(len(first), bool)
    fresh[1:] = ~(alone[1:] & alone[:-1] & (table.starts[1:] == table.ends[:-1]) & (kind[1:] == kind[:-1]))
    places = np.arange(len(first))
    behind = places - np.maximum.accumulate(np.where(fresh, places, 0))  # words of the run before this one
    begins = np.flatnonzero(behind % _TOGETHER[kind] == 0)
    stops = np.append(begins[1:], len(first))[: len(begins)] - 1
    return WordTable.of_spans(table.points, table.texts, table.starts[begins], table.ends[stops])


def word_spans(points: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the words in an array of code points begin and end."""
    classes = _class_table()[np.minimum(points, _LAST)]
    padded = np.concatenate([[0], classes, [0]]).astype(np.uint8)
    letter = (padded == _LETTER) | (padded == _MARK)
    change = np.flatnonzero(letter[1:] != letter[:-1])
    starts, ends = change[::2], change[1::2]
    marked = np.flatnonzero(classes[starts] == _MARK)  # marks without a letter before them belong to no word
    if len(marked):
        letters = np.append(np.flatnonzero(classes == _LETTER), len(points))
        starts = starts.copy()
        starts[marked] = letters[np.searchsorted(letters, starts[marked])]
        real = starts < ends
        starts, ends = starts[real], ends[real]
    alone = np.flatnonzero(classes == _ALONE)
    if not len(alone):
        return starts, ends
    starts, ends = np.concatenate([starts, alone]), np.concatenate([ends, alone + 1])
    order = np.argsort(starts, kind="stable")
    return starts[order], ends[order]


@lru_cache(maxsize=1)
def _class_table() -> NDArray[np.uint8]:
    """(_LAST + 1,) the class of each code point."""
    characters = "".join(map(chr, range(_LAST)))
    table = np.zeros(_LAST + 1, np.uint8)
    for kind, pattern in _CLASSES:
        for found in pattern.finditer(characters):
            table[found.start() : found.end()] = kind
    return table


def pieces(text: str) -> Iterator[str]:
    """`text` in pieces of PIECE characters or a little more, cut where no word is."""
    start = 0
    while len(text) - start > PIECE:
        border = _BORDER.search(text, start + PIECE)
        if not border:
            break
        yield text[start : border.start()]
        start = border.start()
    yield text[start:] if start else text


def portions(
    texts: Sequence[str], change: Callable[[str], str], characters: int
) -> Iterator[tuple[list[int], list[str]]]:
    """All texts, changed, in order, about `characters` at a time, with their numbers; cut where no word is."""
    numbers: list[int] = []
    some: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in pieces(text):
            numbers.append(number)
            some.append(change(piece))
            size += len(piece)
            if size >= characters:
                yield numbers, some
                numbers, some, size = [], [], 0
    if some:
        yield numbers, some


def joined(items: list[str]) -> str:
    """Words as they would stand in a text: a space between two, but for scripts that have none."""
    return _NO_SPACE.sub("", " ".join(items))
