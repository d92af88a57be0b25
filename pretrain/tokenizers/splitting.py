"""Splitting text into the pieces that byte-pair encoding never merges across, by operations on arrays.

A splitting is a regular expression, which tokenizer.json holds, and the same rule written for arrays of code points,
which takes a tenth of the time. What a letter, a digit and white space are is asked of the library that runs the
expression, so that both always agree, whatever version of Unicode either knows.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers

OTHER, NUMBER, SPACE, UNKNOWN = 0, 1, 2, 255  # classes of characters; letters are LETTER or above
LETTER = 3
BLOCK = 256  # code points that are asked for at the same time
NEWLINES = (0x0A, 0x0D)
APOSTROPHE, BLANK = 0x27, 0x20
LONGEST_RUN = 1000  # characters; trainers take up to the square of its length for a piece
_LONG_RUN = re.compile(rf"(?<!\S)\S{{{LONGEST_RUN + 1},}}|(?<!\s)\s{{{LONGEST_RUN + 1},}}")

SplittingName = Literal["gpt2", "gpt4", "scripts"]


def with_short_runs(text: str) -> str:
    """`text` for a trainer: long runs without white space are cut by line feeds, and of white space shortened."""
    return _LONG_RUN.sub(_shortened, text)


def _shortened(run: re.Match[str]) -> str:
    whole = run[0]
    if whole.isspace():
        return whole[:LONGEST_RUN]
    return "\n".join(whole[start : start + LONGEST_RUN] for start in range(0, len(whole), LONGEST_RUN))


class CharacterClasses:
    """The class of each code point, looked up in blocks when one of them is met for the first time.

    Args:
        letters: expressions for the kinds of letters, classes LETTER, LETTER + 1, ...; a later one wins.
    """

    def __init__(self, letters: tuple[str, ...]) -> None:
        kinds = {NUMBER: r"\p{N}", SPACE: r"\s", **{LETTER + n: kind for n, kind in enumerate(letters)}}
        self._kinds = {
            number: pre_tokenizers.Split(Regex(kind), "removed", invert=True) for number, kind in kinds.items()
        }
        self._table = np.full(0x110000, UNKNOWN, np.uint8)

    def of(self, points: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """(C,) the classes of (C,) code points."""
        classes: NDArray[np.uint8] = self._table[points]
        unknown = points[classes == UNKNOWN]
        if len(unknown):
            for block in np.flatnonzero(np.bincount(unknown // BLOCK)).tolist():
                self._ask(block * BLOCK)
            classes = self._table[points]
        return classes

    def _ask(self, start: int) -> None:
        block = [point for point in range(start, start + BLOCK) if not 0xD800 <= point < 0xE000]
        characters = "".join(map(chr, block))
        self._table[block] = OTHER
        for number, kind in self._kinds.items():
            for text, _ in kind.pre_tokenize_str(characters):
                self._table[[ord(character) for character in text]] = number


Cut = Callable[[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.bool_]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Splitting:
    """One way to split.

    Attributes:
        pattern: the regular expression whose matches are the pieces.
        classes: of characters, as the pattern tells them apart.
        cut: from code points, their classes and whether a text begins there, whether a piece begins there.
    """

    pattern: str
    classes: CharacterClasses
    cut: Cut

    def starts(self, points: NDArray[np.uint32], borders: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the pieces begin.

        Args:
            points: (C,) the code points of some texts, joined.
            borders: (N + 1,) where each text begins, and last C.
        """
        if not len(points):
            return np.zeros(0, np.int64)
        fresh = np.zeros(len(points) + 1, bool)
        fresh[borders] = True
        return np.flatnonzero(self.cut(points, self.classes.of(points), fresh)[:-1])


@dataclass(frozen=True)
class _Runs:
    """Characters of one class in a row: where each run begins and ends, its class, and whether its text ends there."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    classes: NDArray[np.uint8]
    last: NDArray[np.bool_]

    @classmethod
    def of(cls, classes: NDArray[np.uint8], fresh: NDArray[np.bool_]) -> "_Runs":
        change = fresh.copy()
        change[1:-1] |= classes[1:] != classes[:-1]
        borders = np.flatnonzero(change)
        starts, ends = borders[:-1], borders[1:]
        return cls(starts, ends, classes[starts], fresh[ends])


def _cut_like_gpt2(
    points: NDArray[np.uint32], classes: NDArray[np.uint8], fresh: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Runs of one class; a blank before one belongs to it; of more white space before it, the last stands alone."""
    runs = _Runs.of(classes, fresh)
    cut = np.zeros(len(points) + 1, bool)
    cut[runs.starts] = True
    before = np.flatnonzero((runs.classes == SPACE) & ~runs.last)
    ends = runs.ends[before]
    cut[ends - 1] = True
    cut[ends[points[ends - 1] == BLANK]] = False
    _contract(points, runs, cut, points)
    return cut


def _cut_like_gpt4(
    points: NDArray[np.uint32], classes: NDArray[np.uint8], fresh: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """As GPT-2, but numbers have three digits, marks take the line feeds behind them, and letters any one before."""
    runs = _Runs.of(classes, fresh)
    cut = np.zeros(len(points) + 1, bool)
    cut[runs.starts] = True
    newline = (points == NEWLINES[0]) | (points == NEWLINES[1])

    space = np.flatnonzero(runs.classes == SPACE)
    starts, ends = runs.starts[space].copy(), runs.ends[space]
    # Line feeds behind marks are theirs.
    behind = (space > 0) & (runs.classes[space - 1] == OTHER) & ~fresh[starts] & newline[starts]
    others = np.append(np.flatnonzero(~newline), len(points))
    first = np.minimum(others[np.searchsorted(others, starts[behind])], ends[behind])
    cut[starts[behind]] = False
    cut[first] = True
    starts[behind] = first
    # White space up to its last line feed is a piece.
    lines = np.flatnonzero(newline)
    final = np.searchsorted(lines, ends) - 1
    has = (final >= 0) & (lines[np.maximum(final, 0)] >= starts) if len(lines) else np.zeros(len(starts), bool)
    starts[has] = lines[final[has]] + 1
    cut[starts[has]] = True
    # Of what is left before something else, the last stands alone, or with what follows.
    left = (starts < ends) & ~runs.last[space]
    following, ends = runs.classes[np.minimum(space + 1, len(runs.classes) - 1)][left], ends[left]
    cut[ends - 1] = True
    taken = (following >= LETTER) | ((following == OTHER) & (points[ends - 1] == BLANK))
    cut[ends[taken]] = False

    _contract(points, runs, cut, _small(points))
    # One mark alone before letters is theirs; behind a contraction, its letters are no such thing.
    alone = np.flatnonzero((runs.classes == OTHER) & (runs.ends - runs.starts == 1) & ~runs.last & cut[runs.starts])
    ends = runs.ends[alone]
    cut[ends[runs.classes[np.minimum(alone + 1, len(runs.classes) - 1)] >= LETTER]] = False

    digits = np.flatnonzero((runs.classes == NUMBER) & (runs.ends - runs.starts > 3))
    for start, end in zip(runs.starts[digits].tolist(), runs.ends[digits].tolist(), strict=True):
        cut[start:end:3] = True
    return cut


def _contract(points: NDArray[np.uint32], runs: _Runs, cut: NDArray[np.bool_], small: NDArray[np.uint32]) -> None:
    """Make pieces of 's 't 'm 'd 're 've 'll where a piece begins with the apostrophe.

    Args:
        small: the code points as they are compared with these letters.
    """
    marks = np.flatnonzero(points[runs.starts] == APOSTROPHE)
    marks = marks[(runs.ends[marks] - runs.starts[marks] == 1) & ~runs.last[marks] & cut[runs.starts[marks]]]
    marks = marks[runs.classes[np.minimum(marks + 1, len(runs.classes) - 1)] >= LETTER]
    letters, ends = runs.ends[marks], runs.ends[np.minimum(marks + 1, len(runs.classes) - 1)]
    first, second = small[letters], small[np.minimum(letters + 1, len(points) - 1)]
    one = np.isin(first, [ord(letter) for letter in "stmd"])
    pair = np.zeros(len(marks), bool)
    for a, b in ("re", "ve", "ll"):
        pair |= (first == ord(a)) & (second == ord(b))
    two = ~one & pair & (ends - letters > 1)
    cut[letters[one | two]] = False
    cut[letters[one] + 1] = True
    cut[letters[two] + 2] = True


def _small(points: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """ASCII letters in lower case, and the long s as an s: what ignoring case means to the library."""
    capital = (points >= ord("A")) & (points <= ord("Z"))
    small: NDArray[np.uint32] = points + np.uint32(32) * capital
    small[points == 0x17F] = ord("s")
    return small


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Japanese has no spaces: a run of letters is a clause. Split where the script changes, pieces are near to words.
_SCRIPTS = (r"\p{Han}", r"\p{Hiragana}", r"[\p{Katakana}ー]")
_LETTER_RUN = (
    r"(?:(?=\p{L})\p{Han})+|(?:(?=\p{L})\p{Hiragana})+|(?:(?=\p{L})[\p{Katakana}ー])+"
    r"|(?:(?=\p{L})[^\p{Han}\p{Hiragana}\p{Katakana}ー])+"
)
_BY_SCRIPT = _GPT4.replace(r"\p{L}+", f"(?:{_LETTER_RUN})")

SPLITTINGS: dict[str, Splitting] = {
    # Radford et al. 2019, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
    "gpt2": Splitting(_GPT2, CharacterClasses((r"\p{L}",)), _cut_like_gpt2),
    # cl100k_base, https://github.com/openai/tiktoken
    "gpt4": Splitting(_GPT4, CharacterClasses((r"\p{L}",)), _cut_like_gpt4),
    "scripts": Splitting(
        _BY_SCRIPT, CharacterClasses((r"\p{L}", *(rf"(?=\p{{L}}){kind}" for kind in _SCRIPTS))), _cut_like_gpt4
    ),
}
