"""The lines, paragraphs and sentences of texts, each with the white space behind it: together they are the text."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.data.dedup.shingles import CHARACTERS_AT_ONCE, MULTIPLIER
from pretrain.data.words import WordTable
from pretrain.tokenizers.spans import mixed

Unit = Literal["line", "paragraph", "sentence"]

_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
# It begins with one of a few characters, which are found fast, and what follows is decided at once: no text takes long.
_SENTENCE_ENDS = re.compile(r"(?:[.!?…。！？][\"'”’)\]」』）]?\s|\n)\s*|[。！？][」』）”]?(?![。！？」』）”\s])")


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _paragraphs(text: str) -> list[str]:
    return _cut_behind(_BLANK_LINES, text)


def _sentences(text: str) -> list[str]:
    return _cut_behind(_SENTENCE_ENDS, text)


# How a text is cut into units. A sentence ends behind an end mark, and what closes a quotation or a bracket after it,
# where white space follows, or nothing need follow in Japanese and Chinese; and at the end of a line.
CUTS: Mapping[Unit, Callable[[str], list[str]]] = {
    "line": _lines,
    "paragraph": _paragraphs,
    "sentence": _sentences,
}


def _cut_behind(pattern: re.Pattern[str], text: str) -> list[str]:
    """`text` cut behind every match of a pattern."""
    edges = [0, *(found.end() for found in pattern.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(edges) if start < end]


def unit_hashes(units: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(U,) a hash of the words of each unit, and (U,) how many UTF-8 bytes they have; both 0 where there is no word."""
    portions = [_hashes(some) for some in _portions(units)]
    hashes = np.concatenate([np.zeros(0, np.uint64), *(hashes for hashes, _ in portions)])
    return hashes, np.concatenate([np.zeros(0, np.int64), *(sizes for _, sizes in portions)])


def _portions(units: Sequence[str]) -> Iterator[Sequence[str]]:
    """The units, about CHARACTERS_AT_ONCE characters at a time."""
    start, size = 0, 0
    for number, unit in enumerate(units):
        size += len(unit)
        if size >= CHARACTERS_AT_ONCE:
            yield units[start : number + 1]
            start, size = number + 1, 0
    if start < len(units):
        yield units[start:]


def _hashes(units: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    table = WordTable.of([unit.lower() for unit in units])
    points = table.points
    widths = np.ones(len(points), np.int64)
    for border in (0x80, 0x800, 0x10000):
        widths += points >= border
    ends = np.concatenate([[0], np.cumsum(widths)])
    firsts = np.searchsorted(table.text, np.arange(len(units)))
    powers = np.full(1 + int(np.bincount(table.text, minlength=1).max()), MULTIPLIER, np.uint64)
    powers[0] = 1
    terms = table.hashes * np.cumprod(powers)[np.arange(len(table.text)) - firsts[table.text]]
    hashes, sizes = np.zeros(len(units), np.uint64), np.zeros(len(units), np.int64)
    if len(table.text):
        worded = table.text[np.append(True, table.text[1:] != table.text[:-1])]
        hashes[worded] = mixed(np.add.reduceat(terms, firsts[worded]))
        sizes[worded] = np.add.reduceat(ends[table.ends] - ends[table.starts], firsts[worded])
    return hashes, sizes
