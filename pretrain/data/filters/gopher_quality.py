"""The quality rules of Gopher: too few words, too long ones, lists, symbols, or no English stop words.

Rae et al. 2021, https://arxiv.org/abs/2112.11446, table A1 and its text. Read as in datatrove 0.10.1, whose order of
rules and way of counting these are: a document's number of words and their mean length leave punctuation out, the other
rules count it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Interval
from numpy.typing import NDArray

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.filters.english_words import (
    ALPHA,
    LIMIT,
    WordRule,
    character_flags,
    check_words,
    groups,
    hashes_of,
    libraries_of,
    word_table,
)
from pretrain.data.filters.punctuation import is_punctuation
from pretrain.data.filters.rules import check_bounds
from pretrain.data.words import WordTable
from pretrain.tokenizers.spans import short_span_hashes

PIECE = 2_000_000  # characters of a document whose words are counted at a time
ELLIPSES = ("...", "…")


@dataclass(frozen=True)
class WordCounts:
    """What is counted of each document: (N,) int64 each.

    Attributes:
        words: words and punctuation marks.
        plain: words that hold anything but punctuation.
        plain_characters: the characters of those.
        with_letter: words with a letter.
        stop_words: distinct stop words.
    """

    words: NDArray[np.int64]
    plain: NDArray[np.int64]
    plain_characters: NDArray[np.int64]
    with_letter: NDArray[np.int64]
    stop_words: NDArray[np.int64]


class GopherQuality:
    """Drops documents that do not read like text in sentences.

    Null switches a rule off. The rules, in the order in which they are tried:

    - min_words, max_words: words but for punctuation.
    - min_mean_word_length, max_mean_word_length: characters of those words.
    - max_hashes_per_word, max_ellipses_per_word: "#", and "..." or "…", over words and punctuation marks.
    - max_bullet_lines, max_ellipsis_lines: of the lines, those that begin with "•" or "-", and that end in an ellipsis.
    - min_words_with_letter: of the words and punctuation marks, those with a letter.
    - min_stop_words: how many of `stop_words` occur, in small letters.

    Args:
        words: what a word is; see pretrain/data/filters/english_words.py.
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        words: Literal["letters", "fast", "spacy"],
        min_words: Annotated[int, Ge(0)] | None,
        max_words: Annotated[int, Ge(1)] | None,
        min_mean_word_length: Annotated[float, Ge(0)] | None,
        max_mean_word_length: Annotated[float, Ge(0)] | None,
        max_hashes_per_word: Annotated[float, Ge(0)] | None,
        max_ellipses_per_word: Annotated[float, Ge(0)] | None,
        max_bullet_lines: Annotated[float, Interval(ge=0, le=1)] | None,
        max_ellipsis_lines: Annotated[float, Interval(ge=0, le=1)] | None,
        min_words_with_letter: Annotated[float, Interval(ge=0, le=1)] | None,
        min_stop_words: Annotated[int, Ge(0)] | None,
        stop_words: list[str],
    ) -> None:
        check_words(words)
        check_bounds("words", min_words, max_words)
        check_bounds("mean_word_length", min_mean_word_length, max_mean_word_length)
        self.words: WordRule = words
        self.number = (min_words, max_words)
        self.length = (min_mean_word_length, max_mean_word_length)
        self.symbols = (max_hashes_per_word, max_ellipses_per_word)
        self.lines = (max_bullet_lines, max_ellipsis_lines)
        self.with_letter = min_words_with_letter
        self.stop = min_stop_words
        self.stop_words = stop_words

    @property
    def libraries(self) -> tuple[str, ...]:
        return libraries_of(self.words)

    def __call__(self, documents: pa.Table) -> StageOutput:
        texts = documents["text"].to_pylist()
        counts = count_words(texts, self.words, self.stop_words)
        columns = (counts.words, counts.plain, counts.plain_characters, counts.with_letter, counts.stop_words)
        rows = zip(texts, *(column.tolist() for column in columns), strict=True)
        return partition(documents, [next(self._broken(*row), None) for row in rows])

    def _broken(
        self, text: str, words: int, plain: int, characters: int, with_letter: int, stop: int
    ) -> Iterator[Drop]:
        """The rules that a document breaks, in order."""
        least, most = self.number
        if least is not None and plain < least:
            yield Drop("min_words", plain, least, f"{plain} words; at least {least} are needed")
        if most is not None and plain > most:
            yield Drop("max_words", plain, most, f"{plain} words; at most {most} may be")
        mean = characters / plain if plain else 0.0
        shortest, longest = self.length
        if shortest is not None and mean < shortest:
            reason = f"a word has {mean:.2f} characters on average; at least {shortest:g} are needed"
            yield Drop("min_mean_word_length", mean, shortest, reason)
        if longest is not None and mean > longest:
            reason = f"a word has {mean:.2f} characters on average; at most {longest:g} may be"
            yield Drop("max_mean_word_length", mean, longest, reason)
        words = max(words, 1)
        ellipses = text.count(ELLIPSES[0]) + text.count(ELLIPSES[1])
        found = (("max_hashes_per_word", "#", text.count("#")), ("max_ellipses_per_word", "ellipsis", ellipses))
        for (rule, shown, number), limit in zip(found, self.symbols, strict=True):
            if limit is not None and number / words > limit:
                reason = f"{number / words:.3f} {shown} for each word; at most {limit:g} may be"
                yield Drop(rule, number / words, limit, reason)
        yield from self._broken_lines(text, ellipses)
        share = with_letter / words
        if self.with_letter is not None and share < self.with_letter:
            reason = f"{share:.2%} of the words hold a letter; at least {100 * self.with_letter:g}% must"
            yield Drop("min_words_with_letter", share, self.with_letter, reason)
        if self.stop is not None and stop < self.stop:
            reason = f"{stop} of the {len(self.stop_words)} stop words occur; at least {self.stop} must"
            yield Drop("min_stop_words", stop, self.stop, reason)

    def _broken_lines(self, text: str, ellipses: int) -> Iterator[Drop]:
        bullets, endings = self.lines
        most = text.count("\n") or 1  # lines are at least as many, so that most documents need not be split
        if bullets is not None and (text.count("•") + text.count("-")) / most > bullets:
            lines = text.splitlines()
            share = sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines)
            if share > bullets:
                reason = f"{share:.2%} of the lines begin with a bullet; at most {100 * bullets:g}% may"
                yield Drop("max_bullet_lines", share, bullets, reason)
        if endings is not None and ellipses / most > endings:
            lines = text.splitlines()
            share = sum(line.rstrip().endswith(ELLIPSES) for line in lines) / len(lines)
            if share > endings:
                reason = f"{share:.2%} of the lines end in an ellipsis; at most {100 * endings:g}% may"
                yield Drop("max_ellipsis_lines", share, endings, reason)


def count_words(texts: Sequence[str], words: WordRule, stop_words: Sequence[str]) -> WordCounts:
    """Counts of each of `texts`; a long one is counted in pieces."""
    pieces, owners = [], []
    for number, text in enumerate(texts):
        found = list(_pieces(text)) if len(text) > PIECE and words != "spacy" else [text]
        pieces += found
        owners += [number] * len(found)
    stop_words = list(dict.fromkeys(stop_words))
    totals = np.zeros((4, len(texts)), np.int64)
    stops = np.zeros((len(stop_words), len(texts)), bool)
    for part in groups(pieces):
        owner = np.array(owners[part.start : part.stop])
        table = word_table(pieces[part.start : part.stop], words)
        document = owner[table.text]
        flags, punctuation = _first_characters(table)
        lengths = table.ends - table.starts
        plain = ~punctuation
        plain[punctuation] = _any_of(table, np.flatnonzero(punctuation), ~is_punctuation())
        letter = flags & ALPHA > 0
        letter[~letter] = _any_of(table, np.flatnonzero(~letter), character_flags() & ALPHA > 0)
        of = slice(int(owner[0]), int(owner[-1]) + 1)
        number = of.stop - of.start
        for row, weights in enumerate((None, plain, lengths * plain, letter)):
            totals[row, of] += np.bincount(document - of.start, weights, number).astype(np.int64)
        _note_stop_words(table, lengths, document, stop_words, stops)
    return WordCounts(totals[0], totals[1], totals[2], totals[3], stops.sum(axis=0))


def _first_characters(table: WordTable) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Of each word, what its first character is, and whether that is punctuation."""
    first = np.minimum(table.points[table.starts], LIMIT)
    return character_flags()[first], is_punctuation()[first]


def _any_of(table: WordTable, words: NDArray[np.int64], kind: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether any character behind the first one of each of some words is of a kind."""
    found = np.zeros(len(words), bool)
    left = np.flatnonzero(table.ends[words] - table.starts[words] > 1)
    step = 1
    while len(left) and step < 32:  # of the words that are longer, few are left
        at = table.starts[words[left]] + step
        found[left] = kind[np.minimum(table.points[at], LIMIT)]
        left = left[~found[left] & (at + 1 < table.ends[words[left]])]
        step += 1
    for place in left.tolist():
        span = slice(table.starts[words[place]], table.ends[words[place]])
        found[place] = kind[np.minimum(table.points[span], LIMIT)].any()
    return found


def _note_stop_words(
    table: WordTable,
    lengths: NDArray[np.int64],
    documents: NDArray[np.int64],
    stop_words: Sequence[str],
    stops: NDArray[np.bool_],
) -> None:
    """Note in (stop words, texts) `stops` which ones occur."""
    if not stop_words:
        return
    first = np.zeros(LIMIT + 1, bool)
    first[[ord(word[0]) for word in stop_words]] = True
    length = np.zeros(max(map(len, stop_words)) + 2, bool)
    length[list(map(len, stop_words))] = True
    likely = length[np.minimum(lengths, len(length) - 1)] & first[np.minimum(table.points[table.starts], LIMIT)]
    short = np.flatnonzero(likely)
    hashes, owners = short_span_hashes(table.points, table.starts[short], table.ends[short]), documents[short]
    for row, wanted in enumerate(hashes_of(stop_words).tolist()):
        stops[row, owners[hashes == np.uint64(wanted)]] = True


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces of about PIECE characters, cut at a space where there is one near."""
    start = 0
    while len(text) - start > PIECE:
        space = text.find(" ", start + PIECE, start + PIECE + 10_000)
        end = space if space >= 0 else start + PIECE
        yield text[start:end]
        start = end
    yield text[start:]
