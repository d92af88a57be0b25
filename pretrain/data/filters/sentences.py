"""Where sentences begin, as spaCy's sentencizer tells it from words and punctuation marks.

A sentence begins with the first word after a mark that ends one; further marks between the two, such as a closing
quote, belong to the sentence before. https://spacy.io/api/sentencizer
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.data.filters.english_words import LIMIT, groups, spacy_english, spacy_text, word_table
from pretrain.data.filters.punctuation import SENTENCE_ENDS
from pretrain.data.words import WordTable

MAX_TEXT = 10**9  # characters that spaCy may read at a time


def count_sentences(texts: Sequence[str], words: Literal["fast", "spacy"]) -> list[int]:
    """The number of sentences in each text; at least 1."""
    if words == "spacy":
        return [max(len(_spacy_ends(text)), 1) for text in texts]
    counts = np.ones(len(texts), np.int64)
    for part in groups(texts):
        table = word_table(texts[part.start : part.stop], "fast")
        starts = _sentence_starts(table)
        counts[part.start : part.stop] = np.bincount(table.text[starts], minlength=len(part))
    at_least_one: list[int] = np.maximum(counts, 1).tolist()
    return at_least_one


def sentences(text: str, words: Literal["fast", "spacy"]) -> list[str]:
    """The sentences of a text, with the white space before each."""
    if words == "spacy":
        ends = _spacy_ends(text)
    else:
        table = word_table([text], "fast")
        starts = _sentence_starts(table)
        ends = [*table.ends[starts[1:] - 1].tolist(), 0]
    ends = [*ends[:-1], len(text)]
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _spacy_ends(text: str) -> list[int]:
    english = spacy_english()
    english.max_length = MAX_TEXT
    with english.memory_zone():
        return [sentence.end_char for sentence in english(spacy_text(text)).sents]


def _sentence_starts(table: WordTable) -> NDArray[np.int64]:
    """The words with which sentences begin."""
    kind = _kinds()[np.minimum(table.points[table.starts], LIMIT)]
    long = table.ends - table.starts > 1
    kind[long] = table.points[table.starts[long]] == ord(".")  # an ellipsis is punctuation that ends nothing
    opens = np.append(True, table.text[1:] != table.text[:-1])[: len(kind)]  # whether a text begins here
    ended = np.append(0, np.cumsum(kind == 2))[:-1]  # sentence ends before each word, in all texts
    before = np.maximum.accumulate(np.where(opens, ended, 0))  # and before its text
    plain = np.flatnonzero(kind == 0)
    previous = np.append(0, ended[plain[:-1]]) if len(plain) else plain
    opens[plain] |= ended[plain] > np.maximum(previous, before[plain])
    return np.flatnonzero(opens)


@lru_cache(maxsize=1)
def _kinds() -> NDArray[np.uint8]:
    """(LIMIT + 1,) 2 where a code point ends a sentence, 1 where it is other punctuation, else 0."""
    categories = map(unicodedata.category, map(chr, range(LIMIT)))
    table = np.frombuffer(bytes(category[0] == "P" for category in categories) + b"\0", np.uint8).copy()
    table[[ord(character) for character in SENTENCE_ENDS]] = 2
    return table
