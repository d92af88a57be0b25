"""The repetition rules of Gopher: too many repeated paragraphs, lines or phrases make a document a poor text.

Rae et al. 2021, https://arxiv.org/abs/2112.11446, table A1. Read as in datatrove, whose splitting into paragraphs and
lines, counting of n-grams and order of rules these are, but for two things. A phrase that occurs only once repeats
nothing, so a text of three words is not dropped for its most frequent pair of words. And punctuation is no word: with
datatrove's words, a third of Python's standard library repeats itself, with ours a tenth.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from annotated_types import Interval
from numpy.typing import NDArray

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.manifests import UNICODE
from pretrain.data.words import joined, numbered, words

EXCERPT = 4_000_000  # characters of a document whose phrases are counted; what comes behind them is not looked at
SHOWN_CHARACTERS = 60  # of a repeated phrase, in a reason


class GopherRepetition:
    """Drops documents that repeat themselves.

    Every rule compares a fraction with the largest that is allowed; null switches the rule off. The rules, in the order
    in which they are tried:

    - duplicate_paragraph_fraction, duplicate_line_fraction: of the paragraphs (lines), those equal to an earlier one;
      empty lines separate paragraphs and do not count as lines.
    - duplicate_paragraph_character_fraction, duplicate_line_character_fraction: of the characters, those in them.
    - top_2_gram to top_4_gram: of the characters, those in the most frequent sequence of n words, one space between
      two; its occurrences may overlap, so this can exceed 1.
    - duplicate_5_gram to duplicate_10_gram: of the characters, those in sequences of n words that came before, read
      from left to right without overlap.
    """

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = (UNICODE,)

    def __init__(
        self,
        *,
        duplicate_paragraph_fraction: Annotated[float, Interval(ge=0, le=1)] | None,
        duplicate_paragraph_character_fraction: Annotated[float, Interval(ge=0, le=1)] | None,
        duplicate_line_fraction: Annotated[float, Interval(ge=0, le=1)] | None,
        duplicate_line_character_fraction: Annotated[float, Interval(ge=0, le=1)] | None,
        top_2_gram: Annotated[float, Interval(ge=0, le=1)] | None,
        top_3_gram: Annotated[float, Interval(ge=0, le=1)] | None,
        top_4_gram: Annotated[float, Interval(ge=0, le=1)] | None,
        duplicate_5_gram: Annotated[float, Interval(ge=0, le=1)] | None,
        duplicate_6_gram: Annotated[float, Interval(ge=0, le=1)] | None,
        duplicate_7_gram: Annotated[float, Interval(ge=0, le=1)] | None,
        duplicate_8_gram: Annotated[float, Interval(ge=0, le=1)] | None,
        duplicate_9_gram: Annotated[float, Interval(ge=0, le=1)] | None,
        duplicate_10_gram: Annotated[float, Interval(ge=0, le=1)] | None,
    ) -> None:
        self.paragraphs = (duplicate_paragraph_fraction, duplicate_paragraph_character_fraction)
        self.lines = (duplicate_line_fraction, duplicate_line_character_fraction)
        self.top = {2: top_2_gram, 3: top_3_gram, 4: top_4_gram}
        self.duplicate = {
            5: duplicate_5_gram,
            6: duplicate_6_gram,
            7: duplicate_7_gram,
            8: duplicate_8_gram,
            9: duplicate_9_gram,
            10: duplicate_10_gram,
        }

    def __call__(self, documents: pa.Table) -> StageOutput:
        return partition(documents, [self._judge(text) for text in documents["text"].to_pylist()])

    def _judge(self, text: str) -> Drop | None:
        """The first rule that `text` breaks, if any."""
        drops = (drop for rules in (self._repeated_blocks, self._repeated_phrases) for drop in rules(text))
        return next((drop for drop in drops if drop.value > drop.threshold), None)

    def _repeated_blocks(self, text: str) -> Iterator[Drop]:
        blocks = (
            ("paragraph", _paragraphs(text), self.paragraphs),
            ("line", [line for line in text.split("\n") if line], self.lines),
        )
        for kind, found, (of_number, of_characters) in blocks:
            distinct = set(found)
            if of_number is not None and found:
                yield _drop(
                    f"duplicate_{kind}_fraction",
                    (len(found) - len(distinct)) / len(found),
                    of_number,
                    f"of the {kind}s repeat an earlier one",
                )
            if of_characters is not None and found:
                yield _drop(
                    f"duplicate_{kind}_character_fraction",
                    (_characters(found) - _characters(distinct)) / len(text),
                    of_characters,
                    f"of the characters are in {kind}s that repeat an earlier one",
                )

    def _repeated_phrases(self, text: str) -> Iterator[Drop]:
        text = text[:EXCERPT]
        vocabulary, tokens = numbered(words(text))
        lengths = np.fromiter(map(len, vocabulary), np.int64, len(vocabulary))[tokens]
        ends = np.concatenate([[0], np.cumsum(lengths)])  # characters of the words before position i
        for n, starts, grams in repeated_ngrams(tokens, longest=max(self.duplicate)):
            if (threshold := self.top.get(n)) is not None:
                counts = np.bincount(grams)
                top = starts[np.argmax(counts[grams])]  # the first of the most frequent
                phrase = joined([vocabulary[token] for token in tokens[top : top + n]])
                value = len(phrase) * int(counts.max()) / len(text)
                yield _drop(
                    f"top_{n}_gram", value, threshold, f"of the characters are in the phrase {_shown(phrase)!r}"
                )
            if (threshold := self.duplicate.get(n)) is not None:
                if duplicate_characters_bound(starts, grams, n, ends) / len(text) <= threshold:
                    continue
                value = duplicate_characters(starts, grams, n, ends) / len(text)
                yield _drop(f"duplicate_{n}_gram", value, threshold, f"of the characters repeat {n} words in a row")


def repeated_ngrams(
    tokens: NDArray[np.int64], longest: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """For n = 2, 3, ... `longest`, every occurrence of the n-grams that occur at least twice.

    Both halves of a repeated n-gram, its first and its last n - 1 words, are repeated too. So each n has to look only
    at what n - 1 left, and pairs of numbers stand for n words: exact, and soon over where little is repeated.

    Args:
        tokens: (W,) the words as numbers from 0.
    Yields:
        n, the positions where such n-grams start, ascending, and at each the n-gram's number, from 0.
    """
    starts, grams = np.arange(len(tokens)), tokens
    for n in range(2, longest + 1):
        here = np.flatnonzero(np.diff(starts) == 1)
        if not len(here):
            return
        pairs = grams[here] * (grams.max() + 1) + grams[here + 1]
        _, numbers, counts = np.unique(pairs, return_inverse=True, return_counts=True)
        repeated = counts > 1
        kept = repeated[numbers]
        starts, grams = starts[here[kept]], (np.cumsum(repeated) - 1)[numbers[kept]]
        if not len(starts):
            return
        yield n, starts, grams


def duplicate_characters(starts: NDArray[np.int64], grams: NDArray[np.int64], n: int, ends: NDArray[np.int64]) -> int:
    """Characters in n-grams seen before, by a walk from left to right that jumps over each one that it finds."""
    position = 0
    seen: set[int] = set()
    repeats: list[int] = []
    for start, gram in zip(starts.tolist(), grams.tolist(), strict=True):
        if start < position:
            continue
        if gram in seen:
            repeats.append(start)
            position = start + n
        seen.add(gram)
    found = np.array(repeats, np.int64)
    return int((ends[found + n] - ends[found]).sum())


def duplicate_characters_bound(
    starts: NDArray[np.int64], grams: NDArray[np.int64], n: int, ends: NDArray[np.int64]
) -> int:
    """At least as much as `duplicate_characters` finds: the characters in any n-gram that occurred before."""
    again = np.ones(len(starts), bool)
    again[np.unique(grams, return_index=True)[1]] = False
    starts = starts[again]
    following = np.append(starts[1:], ends.size - 1)
    return int((ends[np.minimum(starts + n, following)] - ends[starts]).sum())


def _paragraphs(text: str) -> list[str]:
    return [paragraph for part in text.strip().split("\n\n") if (paragraph := part.strip("\n"))]


def _characters(texts: list[str] | set[str]) -> int:
    return sum(map(len, texts))


def _shown(phrase: str) -> str:
    return phrase if len(phrase) <= SHOWN_CHARACTERS else f"{phrase[:SHOWN_CHARACTERS]}..."


def _drop(rule: str, value: float, threshold: float, meaning: str) -> Drop:
    return Drop(rule, value, threshold, f"{value:.2%} {meaning}; at most {100 * threshold:g}% may")
