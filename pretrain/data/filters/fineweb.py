"""The rules that FineWeb adds: lists, menus and pages of which the lines are no sentences.

Penedo et al. 2024, https://arxiv.org/abs/2406.17557, section 3.5. Read as in datatrove 0.10.1.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from annotated_types import Ge, Interval

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.filters.english_words import WordRule, check_words, libraries_of
from pretrain.data.filters.gopher_quality import count_words
from pretrain.data.filters.punctuation import SENTENCE_ENDS


class FineWeb:
    """Drops documents whose lines are no sentences, or repeat each other.

    Null switches a rule off. Lines of white space count for nothing. The rules, in the order in which they are tried:

    - empty: there is no line.
    - min_lines_with_end_mark: of the lines, those that end in a mark that ends a sentence in any script.
    - max_short_lines: of the lines, those of at most `short_line_length` characters.
    - max_duplicate_line_characters: of the characters, those in lines that repeat an earlier one.
    - max_newlines_per_word: line feeds over words and punctuation marks.

    Args:
        words: what a word is; see pretrain/data/filters/english_words.py.
        allow_no_end_mark: whether a document of which no line has an end mark passes min_lines_with_end_mark.
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        words: Literal["letters", "fast", "spacy"],
        min_lines_with_end_mark: Annotated[float, Interval(ge=0, le=1)] | None,
        allow_no_end_mark: bool,
        max_short_lines: Annotated[float, Interval(ge=0, le=1)] | None,
        short_line_length: Annotated[int, Ge(0)],
        max_duplicate_line_characters: Annotated[float, Interval(ge=0, le=1)] | None,
        max_newlines_per_word: Annotated[float, Ge(0)] | None,
    ) -> None:
        check_words(words)
        self.words: WordRule = words
        self.end_mark = min_lines_with_end_mark
        self.allow_no_end_mark = allow_no_end_mark
        self.short_lines = max_short_lines
        self.short_line_length = short_line_length
        self.duplicate = max_duplicate_line_characters
        self.newlines = max_newlines_per_word

    @property
    def libraries(self) -> tuple[str, ...]:
        return libraries_of(self.words)

    def __call__(self, documents: pa.Table) -> StageOutput:
        texts = documents["text"].to_pylist()
        drops = [next(self._broken(text), None) for text in texts]
        if self.newlines is not None:
            left = [place for place, drop in enumerate(drops) if drop is None and self._may_be_list(texts[place])]
            numbers = count_words([texts[place] for place in left], self.words, ()).words.tolist()
            for place, words in zip(left, numbers, strict=True):
                share = texts[place].count("\n") / max(words, 1)
                if share > self.newlines:
                    reason = f"{share:.3f} line feeds for each word; at most {self.newlines:g} may be"
                    drops[place] = Drop("max_newlines_per_word", share, self.newlines, reason)
        return partition(documents, drops)

    def _broken(self, text: str) -> Iterator[Drop]:
        """The rules on lines that a document breaks."""
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            yield Drop("empty", 0.0, 1.0, "there is no line of text")
            return
        if self.end_mark is not None:
            ended = sum(line[-1] in SENTENCE_ENDS for line in lines) / len(lines)
            if ended < self.end_mark and (ended or not self.allow_no_end_mark):
                reason = f"{ended:.2%} of the lines end in an end mark; at least {100 * self.end_mark:g}% must"
                yield Drop("min_lines_with_end_mark", ended, self.end_mark, reason)
        if self.short_lines is not None:
            length = self.short_line_length
            short = sum(len(line) <= length for line in lines) / len(lines)
            if short > self.short_lines:
                meaning = f"of the lines have at most {length} characters"
                reason = f"{short:.2%} {meaning}; at most {100 * self.short_lines:g}% may"
                yield Drop("max_short_lines", short, self.short_lines, reason)
        if self.duplicate is not None and len(distinct := set(lines)) < len(lines):
            repeated = sum(map(len, lines)) - sum(map(len, distinct))
            share = repeated / (len(text) - text.count("\n"))
            if share > self.duplicate:
                meaning = "of the characters are in lines that repeat an earlier one"
                reason = f"{share:.2%} {meaning}; at most {100 * self.duplicate:g}% may"
                yield Drop("max_duplicate_line_characters", share, self.duplicate, reason)

    def _may_be_list(self, text: str) -> bool:
        """Whether a text may break max_newlines_per_word: between two spaces there is at least one word, or a mark."""
        feeds = text.count("\n")
        return bool(feeds) and (self.words == "letters" or feeds > (self.newlines or 0) * len(text.split()))
