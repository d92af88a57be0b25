"""The rules of C4: keep lines that are sentences, and documents that hold enough of them.

Raffel et al. 2020, https://jmlr.org/papers/v21/20-074.html, section 2.2, and the reference code,
https://github.com/tensorflow/datasets/blob/master/tensorflow_datasets/text/c4_utils.py. Read as in datatrove 0.10.1,
whose order of rules and way of counting these are. The list of bad words is not among them.
"""

import dataclasses
import re
from collections import Counter
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from annotated_types import Ge

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.filters.english_words import check_words, libraries_of
from pretrain.data.filters.sentences import count_sentences, sentences

CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
END_MARKS = (".", "?", "!", '"', "'")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class C4:
    """Removes lines that are no sentences, and drops documents of which too few are left.

    A line goes for long_word, no_end_mark, few_words, javascript or policy, tried in this order; those that are not
    blank are counted. A document goes for lorem_ipsum or curly_bracket in a line that would have stayed, and for
    min_sentences.

    Args:
        words: how sentences are found; see pretrain/data/filters/english_words.py.
        unit: what is removed, whole lines or single sentences.
        remove_citations: whether "[1]", "[edit]" and "[citation needed]" are taken out of lines.
        require_end_mark: whether a line must end in . ? ! or a quotation mark, and not in "...".
        min_sentences: fewest sentences that must be left; null needs none.
        min_words_per_line: fewest words, as white space parts them; null needs none.
        max_word_length: most characters of a word in a line; null allows any.
        drop_lorem_ipsum: whether a document with "lorem ipsum" is dropped.
        drop_curly_bracket: whether a document with "{" is dropped.
        remove_javascript: whether lines with "javascript" go.
        remove_policy: whether lines on cookies, terms of use and privacy policies go.
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        words: Literal["fast", "spacy"],
        unit: Literal["line", "sentence"],
        remove_citations: bool,
        require_end_mark: bool,
        min_sentences: Annotated[int, Ge(0)] | None,
        min_words_per_line: Annotated[int, Ge(0)] | None,
        max_word_length: Annotated[int, Ge(1)] | None,
        drop_lorem_ipsum: bool,
        drop_curly_bracket: bool,
        remove_javascript: bool,
        remove_policy: bool,
    ) -> None:
        check_words(words)
        self.words: Literal["fast", "spacy"] = words
        self.unit = unit
        self.remove_citations = remove_citations
        self.require_end_mark = require_end_mark
        self.min_sentences = min_sentences
        self.min_words = min_words_per_line or 0
        self.max_word_length = max_word_length
        self.drop_lorem_ipsum = drop_lorem_ipsum
        self.drop_curly_bracket = drop_curly_bracket
        self.phrases = ("javascript",) * remove_javascript + POLICY * remove_policy

    @property
    def libraries(self) -> tuple[str, ...]:
        return libraries_of(self.words)

    def __call__(self, documents: pa.Table) -> StageOutput:
        texts = documents["text"].to_pylist()
        removed = Counter[str]()
        cleaned = [self._cleaned(text, removed) for text in texts]
        drops = self._short([item if isinstance(item, list) else None for item in cleaned])
        for place, item in enumerate(cleaned):
            if isinstance(item, Drop):
                drops[place] = item
        output = partition(documents, drops, dict(sorted(removed.items())))
        gap = "\n" if self.unit == "line" else " "
        left = [
            gap.join(lines).strip()
            for lines, drop in zip(cleaned, drops, strict=True)
            if drop is None and isinstance(lines, list)
        ]
        column = output.kept.schema.get_field_index("text")
        return dataclasses.replace(output, kept=output.kept.set_column(column, "text", pa.array(left, pa.string())))

    def _cleaned(self, text: str, removed: Counter[str]) -> list[str] | Drop:
        """The lines of `text` that stay, or why it goes."""
        lines = text.splitlines() if self.unit == "line" else sentences(text, self.words)
        # Most texts hold nothing that these look for, and then their lines need not be searched one by one.
        cited = self.remove_citations and "[" in text and CITATION.search(text) is not None
        lower = text.lower()
        phrases = self.phrases if cited else tuple(phrase for phrase in self.phrases if phrase in lower)
        lorem_ipsum = self.drop_lorem_ipsum and (cited or "lorem ipsum" in lower)
        bracket = self.drop_curly_bracket and "{" in text
        longest, fewest, end_mark = self.max_word_length, self.min_words, self.require_end_mark
        kept = []
        for raw in lines:
            line = raw.strip()
            if not line and (end_mark or fewest):
                continue
            if longest is not None and len(line) > longest and max(map(len, line.split())) > longest:
                removed["lines_with_long_word"] += 1
                continue
            words = len(line.split(None, fewest)) if fewest else 0
            if cited and "[" in line:
                line = CITATION.sub("", line)
            if end_mark and (not line.endswith(END_MARKS) or line.endswith("...")):
                removed["lines_without_end_mark"] += 1
                continue
            if words < fewest:
                removed["lines_of_few_words"] += 1
                continue
            if lorem_ipsum and "lorem ipsum" in line.lower():
                return Drop("lorem_ipsum", 1.0, 0.0, "a line holds 'lorem ipsum'")
            found = next((phrase for phrase in phrases if phrase in line.lower()), None) if phrases else None
            if found == "javascript":
                removed["lines_on_javascript"] += 1
                continue
            if bracket and "{" in line:
                return Drop("curly_bracket", 1.0, 0.0, "a line holds '{'")
            if found:
                removed["lines_on_policy"] += 1
                continue
            kept.append(line)
        return kept

    def _short(self, documents: list[list[str] | None]) -> list[Drop | None]:
        """Why documents go of which these lines are left: there are too few sentences, or no text."""
        drops: list[Drop | None] = [
            None if lines is None or any(lines) else Drop("empty", 0.0, 1.0, "no line is left") for lines in documents
        ]
        least = self.min_sentences
        if not least:
            return drops
        # Each line holds at least one sentence.
        few = [place for place, lines in enumerate(documents) if lines is not None and len(lines) < least]
        lines = [line for place in few for line in documents[place] or ()]
        counts = count_sentences(lines, self.words) if self.unit == "line" else [1] * len(lines)
        start = 0
        for place in few:
            end = start + len(documents[place] or ())
            number = sum(counts[start:end])
            start = end
            if number < least:
                reason = f"{number} sentences are left; at least {least} are needed"
                drops[place] = Drop("min_sentences", number, least, reason)
        return drops
