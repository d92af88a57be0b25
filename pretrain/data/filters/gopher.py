"""The repetition rules of Gopher: too many repeated paragraphs, lines or phrases make a document a poor text.

Rae et al. 2021, https://arxiv.org/abs/2112.11446, table A1. Read as in datatrove 0.10.1, whose splitting into
paragraphs and lines, counting of n-grams and order of rules these are. Two settings depart from it. With `words:
letters`, punctuation is no word: with datatrove's words, a third of Python's standard library repeats itself, without
punctuation a tenth. And a phrase that occurs only once repeats nothing: without `once`, a text of three words is not
dropped for its most frequent pair of words.

Most documents are judged by bounds that take one pass over a batch (`phrases.py`); only those that may break a rule are
walked through.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from annotated_types import Interval

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.filters.english_words import WordRule, check_words, groups, libraries_of, word_table
from pretrain.data.filters.phrases import Phrases
from pretrain.data.filters.rules import EXCERPT
from pretrain.data.words import WordTable, joined

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

    Args:
        words: what a word is; see pretrain/data/filters/english_words.py.
        once: whether a phrase that occurs once can be the most frequent one.
        blank_lines: whether lines of white space count as lines, so that a second one repeats the first.
    """

    version: ClassVar[int] = 3

    def __init__(
        self,
        *,
        words: Literal["letters", "fast", "spacy"] = "letters",
        once: bool = False,
        blank_lines: bool = True,
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
        check_words(words)
        self.words: WordRule = words
        self.once = once
        self.blank_lines = blank_lines
        self.paragraphs = (duplicate_paragraph_fraction, duplicate_paragraph_character_fraction)
        self.lines = (duplicate_line_fraction, duplicate_line_character_fraction)
        top = {2: top_2_gram, 3: top_3_gram, 4: top_4_gram}
        duplicate = {
            5: duplicate_5_gram,
            6: duplicate_6_gram,
            7: duplicate_7_gram,
            8: duplicate_8_gram,
            9: duplicate_9_gram,
            10: duplicate_10_gram,
        }
        self.top = {n: threshold for n, threshold in top.items() if threshold is not None}
        self.duplicate = {n: threshold for n, threshold in duplicate.items() if threshold is not None}

    @property
    def libraries(self) -> tuple[str, ...]:
        return libraries_of(self.words)

    def __call__(self, documents: pa.Table) -> StageOutput:
        texts = documents["text"].to_pylist()
        drops = [next(self._repeated_blocks(text), None) for text in texts]
        if self.top or self.duplicate:
            left = [place for place, drop in enumerate(drops) if drop is None]
            whole = self.words == "spacy"  # as datatrove, which looks at all of a document
            excerpts = [texts[place] if whole else texts[place][:EXCERPT] for place in left]
            for part in groups(excerpts):
                found = self._repeated_phrases(excerpts[part.start : part.stop])
                for place, drop in zip(left[part.start : part.stop], found, strict=True):
                    drops[place] = drop
        return partition(documents, drops)

    def _repeated_blocks(self, text: str) -> Iterator[Drop]:
        """The rules on paragraphs and lines that a document breaks."""
        if not text:
            yield Drop("empty", 0.0, 1.0, "there is no text")
        paragraphs = _paragraphs(text) if "\n\n" in text else [text.strip()]
        for kind, found, rules in (("paragraph", paragraphs, self.paragraphs), ("line", None, self.lines)):
            if found is None:
                found = _lines(text) if "\n" in text else [text]
                if not self.blank_lines:
                    found = [line for line in found if line and not line.isspace()]
            distinct = set(found)
            repeats = len(found) - len(distinct)
            if not repeats:
                continue
            characters = sum(map(len, found)) - sum(map(len, distinct))
            of_number, of_characters = rules
            if of_number is not None and repeats / len(found) > of_number:
                meaning = f"of the {kind}s repeat an earlier one"
                yield _drop(f"duplicate_{kind}_fraction", repeats / len(found), of_number, meaning)
            if of_characters is not None and characters / len(text) > of_characters:
                meaning = f"of the characters are in {kind}s that repeat an earlier one"
                yield _drop(f"duplicate_{kind}_character_fraction", characters / len(text), of_characters, meaning)

    def _repeated_phrases(self, texts: Sequence[str]) -> list[Drop | None]:
        """The first rule on phrases that each document breaks, if any."""
        table = word_table(texts, self.words)
        phrases = Phrases(table)
        drops: list[Drop | None] = [None] * len(texts)
        for n, threshold in self.top.items():
            likely = [d for d in phrases.maybe_frequent(n, threshold) if drops[d] is None]
            for document, start, times in phrases.most_frequent(n, threshold, likely, once=self.once):
                phrase = self._phrase(texts[document], table, start, n)
                value = len(phrase) * times / len(texts[document])
                if value > threshold:
                    meaning = f"of the characters are in the phrase {_shown(phrase)!r}"
                    drops[document] = _drop(f"top_{n}_gram", value, threshold, meaning)
        likely = [place for place, drop in enumerate(drops) if drop is None]
        if self.duplicate and self.words != "spacy":
            # What repeats more words repeats fewer, unless two words are another one's parts, as spaCy's may be.
            likely = phrases.maybe_repeated(min(self.duplicate), min(self.duplicate.values()), likely)
        for n, threshold in self.duplicate.items():
            for document in phrases.maybe_repeated(n, threshold, likely):
                value = phrases.repeated_characters(n, document) / len(texts[document])
                if value > threshold:
                    meaning = f"of the characters repeat {n} words in a row"
                    drops[document] = _drop(f"duplicate_{n}_gram", value, threshold, meaning)
            likely = [place for place in likely if drops[place] is None]
        return drops

    def _phrase(self, text: str, table: WordTable, start: int, n: int) -> str:
        """The `n` words from one on as one string."""
        spans = zip(table.starts[start : start + n].tolist(), table.ends[start : start + n].tolist(), strict=True)
        origin = int(table.texts[table.text[start]])
        words = [text[first - origin : last - origin] for first, last in spans]
        return joined(words) if self.words == "letters" else " ".join(words)


def _paragraphs(text: str) -> list[str]:
    parts = text.strip().split("\n\n")
    return [paragraph for part in parts if (paragraph := part.strip("\n"))]


def _lines(text: str) -> list[str]:
    """The lines that are not empty, and an empty one where the text begins or ends with a line feed."""
    lines = [line for line in text.split("\n") if line]
    return [""] * text.startswith("\n") + lines + [""] * text.endswith("\n")


def _shown(phrase: str) -> str:
    return phrase if len(phrase) <= SHOWN_CHARACTERS else f"{phrase[:SHOWN_CHARACTERS]}..."


def _drop(rule: str, value: float, threshold: float, meaning: str) -> Drop:
    return Drop(rule, value, threshold, f"{value:.2%} {meaning}; at most {100 * threshold:g}% may")
