"""Splitting text into words in any script, without a dictionary: fast, and the same on every machine.

A word is a run of letters, digits and underscores, with the marks that belong to them. Punctuation is no word: counted
as one, as some splitters do, it would make half of the words of source code, and most of its five-word phrases alike.
Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without spaces, so there each character is a word.
"""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

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
_NO_SPACE = re.compile(rf"(?<=[{_SPACELESS}]) (?=[{_SPACELESS}])")


def words(text: str) -> list[str]:
    """The words of `text`, in order."""
    return _WORD.findall(text)


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


def joined(items: list[str]) -> str:
    """Words as they would stand in a text: a space between two, but for scripts that have none."""
    return _NO_SPACE.sub("", " ".join(items))


def numbered(items: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct `items` in order of appearance, and for each item its index among them."""
    index = {item: number for number, item in enumerate(dict.fromkeys(items))}
    return list(index), np.fromiter(map(index.__getitem__, items), np.int64, len(items))
