"""Texts in an alphabet of 256 characters, at the same places, in which private data is looked for.

Japanese texts write digits, hyphens and at signs in full width too, and there are twenty kinds of hyphens and spaces.
Folded, each character is one byte: ASCII is itself, what looks like an ASCII digit, letter, hyphen or space is that,
and all others are one of a few classes. So the searches are operations on bytes, and what they find lies at the same
place in the text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pretrain.data.redaction.kinds import Kind

LETTER, JAPANESE, POSTAL_MARK, OTHER = 0xFE, 0xFD, 0xFB, 0xFF  # classes of characters beyond ASCII
_LONG_VOWEL = 0xFC  # the mark of a long vowel is a hyphen between digits
_LAST = 0x10000  # characters from here on are of class OTHER, but for rare Han
_PIECE = 1 << 15  # characters folded at a time: their indices, of eight bytes each, should fit into the cache
CONTEXT = 96  # characters before a place that a search may look at
BORDER = "\0" * CONTEXT  # between texts, so that no search sees another text; no pattern matches a NUL

# At the left edge a placeholder may be cut off.
_PLACEHOLDER = re.compile(rf"(?:<|\A)(?:{'|'.join(kind.name for kind in Kind)})>|\A[A-Z_]{{0,10}}>")
_HYPHENS = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2500\ufe58\ufe63\uff70"
_SPACES = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"


@dataclass(frozen=True)
class Folded:
    """A batch of texts, joined and folded.

    Attributes:
        text: the texts, each with BORDER before and behind it.
        starts: (N,) where each text begins in it.
        codes: (C,) uint8, the folded characters of `text`.
    """

    text: str
    starts: NDArray[np.int64]
    codes: NDArray[np.uint8]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Folded":
        lengths = np.fromiter(map(len, texts), np.int64, len(texts)) + CONTEXT
        text = BORDER + "".join([part for text in texts for part in (text, BORDER)])
        return cls(text, np.cumsum(lengths) - lengths + CONTEXT, _folded(text))

    @cached_property
    def bytes(self) -> bytes:
        return self.codes.tobytes()

    def before(self, place: int, characters: int = 48) -> str:
        """The text before `place`, of this document alone, from the last placeholder on; at most CONTEXT characters.

        Words before a placeholder spoke of what it stands for. Were they to reach further once it has become short, a
        row of numbers would be replaced one by one, each in a pass of its own.
        """
        text = self.text[place - characters : place]
        return _PLACEHOLDER.split(text)[-1] if ">" in text else text


def _folded(text: str) -> NDArray[np.uint8]:
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    table, codes = _table(), np.empty(len(text), np.uint8)
    for start in range(0, len(text), _PIECE):
        piece = text[start : start + _PIECE]
        if piece.isascii():
            codes[start : start + _PIECE] = np.frombuffer(piece.encode(), np.uint8)
            continue
        # A lone surrogate cannot be encoded otherwise; it is of class OTHER.
        points = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), np.uint32)
        table.take(points.astype(np.intp), mode="clip", out=codes[start : start + _PIECE])
    long = np.flatnonzero(codes == _LONG_VOWEL)
    between = _digit(codes[long - 1]) & _digit(codes[long + 1])
    codes[long] = np.where(between, ord("-"), JAPANESE)
    return codes


def _digit(codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return codes - np.uint8(ord("0")) < 10


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint8]:
    """(_LAST + 1,) what each character folds to."""
    table = np.full(_LAST + 1, OTHER, np.uint8)
    table[:0x80] = np.arange(0x80)
    for point in range(0x80, _LAST):
        if chr(point).isalpha():
            table[point] = LETTER if point < 0x2E80 else JAPANESE
    table[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)  # full width
    table[[ord(hyphen) for hyphen in _HYPHENS]] = ord("-")
    table[[ord(space) for space in _SPACES]] = ord(" ")
    table[0x3012] = POSTAL_MARK
    table[0x30FC] = _LONG_VOWEL
    return table
