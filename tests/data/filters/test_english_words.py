import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.filters import english_words
from pretrain.data.filters.english_words import groups, hashes_of, word_table
from pretrain.data.filters.gopher_quality import GopherQuality
from pretrain.errors import ConfigError

PIECES = st.sampled_from(
    [*"aAz1.,-'’\"()$%:/= \n\t~", "n't", "...", "--", "Mr.", "U.S.", "10km", "cannot", "猫", "’s", "\u2028", "😀"]
)
EXAMPLES = [
    "Don't stop, Mr. Smith; it's 5% of $3.50 (or so)...",
    '"We\'ll see," she said -- perhaps.',
    "The well-known 1990s band,\nfrom the U.S., played at 10 a.m. in St. Louis!",
    "a/b and c=d, x,y or 3-4: end.Start I'm you've they'd",
    "He cannot run 10km or 5mb; e.g. this… or that.",
    "吾輩は猫である。名前は「まだ」無い。",
    "def f(x, y) == return x[1:2] + {'a': b}",
    "",
    " ",
    "--- *** ... !!!",
]


def words_of(texts: list[str], rule: english_words.WordRule) -> list[list[str]]:
    table = word_table(texts, rule)
    found: list[list[str]] = [[] for _ in texts]
    for number, start, end in zip(table.text.tolist(), table.starts.tolist(), table.ends.tolist(), strict=True):
        origin = int(table.texts[number])
        found[number].append(texts[number][start - origin : end - origin])
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop.", ["Do", "n't", "stop", "."]),
        ("(It's 5%...)", ["(", "It", "'s", "5", "%", "...", ")"]),
        ("Mr. Smith's U.S. well-being", ["Mr.", "Smith", "'s", "U.S.", "well", "-", "being"]),
        ("a,1 1,a x/1 1-a", ["a,1", "1,a", "x/1", "1", "-", "a"]),
        ("print(x.y)", ["print(x.y", ")"]),
        ("one--two, 3,000 a,b", ["one", "--", "two", ",", "3,000", "a", ",", "b"]),
        ("吾輩は猫である。", ["吾輩は猫である", "。"]),
        ("He cannot lift 10kg.", ["He", "can", "not", "lift", "10", "kg", "."]),
    ],
)
def test_fast_words_by_hand(text, expected):
    assert words_of([text], "fast") == [expected]


@pytest.mark.parametrize("text", EXAMPLES)
def test_fast_words_are_spacys_in_common_text(text):
    pytest.importorskip("spacy", reason="spaCy is not installed")
    assert words_of([text], "fast") == words_of([text], "spacy")


@settings(deadline=None)
@given(st.lists(st.lists(PIECES, max_size=25).map("".join), max_size=6))
def test_words_are_all_that_is_not_space_alone_and_in_a_batch(texts):
    found = words_of(texts, "fast")
    assert ["".join(words) for words in found] == ["".join(text.split()) for text in texts]
    assert found == [words_of([text], "fast")[0] for text in texts]


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_text_is_split(texts):
    assert ["".join(words) for words in words_of(texts, "fast")] == ["".join(text.split()) for text in texts]


def test_spacys_words_are_as_spacy_gives_them():
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed")
    english = spacy.blank("en")
    expected = [[token.text for token in english(text) if not token.is_space] for text in EXAMPLES]
    assert words_of(EXAMPLES, "spacy") == expected


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 40))
def test_groups_cover_all_texts_once_and_are_small(lengths, size):
    parts = list(groups(["x" * length for length in lengths], size))
    assert [place for part in parts for place in part] == list(range(len(lengths)))
    assert all(len(part) == 1 or sum(lengths[place] for place in part) <= size + 30 for part in parts)


def test_hashes_are_those_of_a_table():
    table = word_table(["the cat, the dog"], "fast")
    assert np.array_equal(hashes_of(["the", "cat", ",", "the", "dog"]), table.hashes)


def test_a_missing_spacy_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    english_words.spacy_english.cache_clear()
    off = dict.fromkeys(
        "min_words max_words min_mean_word_length max_mean_word_length max_hashes_per_word max_ellipses_per_word "
        "max_bullet_lines max_ellipsis_lines min_words_with_letter min_stop_words".split()
    )
    with pytest.raises(ConfigError, match=r"^words=spacy needs spaCy; pip install spacy, or set words=fast$"):
        GopherQuality(words="spacy", stop_words=[], **off)
