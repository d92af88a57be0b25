import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.documents import DOCUMENT
from pretrain.data.filters.gopher import (
    GopherRepetition,
    duplicate_characters,
    duplicate_characters_bound,
    repeated_ngrams,
)
from pretrain.data.words import words

TABLE_A1 = {
    "duplicate_paragraph_fraction": 0.3,
    "duplicate_paragraph_character_fraction": 0.2,
    "duplicate_line_fraction": 0.3,
    "duplicate_line_character_fraction": 0.2,
    "top_2_gram": 0.2,
    "top_3_gram": 0.18,
    "top_4_gram": 0.16,
    "duplicate_5_gram": 0.15,
    "duplicate_6_gram": 0.14,
    "duplicate_7_gram": 0.13,
    "duplicate_8_gram": 0.12,
    "duplicate_9_gram": 0.11,
    "duplicate_10_gram": 0.1,
}
OFF = dict.fromkeys(TABLE_A1)

sentences = st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=60)


def dropped(*texts: str, **thresholds: float | None) -> list[dict]:
    rows = [{"id": str(n), "text": text, "source": "s", "source_id": "r", "meta": "{}"} for n, text in enumerate(texts)]
    stage = GopherRepetition(**(TABLE_A1 | thresholds))
    return stage(pa.Table.from_pylist(rows, schema=DOCUMENT)).dropped.to_pylist()


def value_of(rule: str, text: str) -> float:
    """What one rule measures, with the others switched off."""
    rows = dropped(text, **(OFF | {rule: 0.0}))
    return rows[0]["value"] if rows else 0.0


def literal_top(items: list[str], n: int) -> int:
    """Characters in the most frequent n-gram that occurs twice, counted as the rule is written."""
    grams = [" ".join(items[i : i + n]) for i in range(len(items) - n + 1)]
    best = max(grams, key=grams.count, default="")
    return len(best) * grams.count(best) if grams.count(best) > 1 else 0


def literal_duplicates(items: list[str], n: int) -> int:
    """Characters in n-grams seen before, walked as the rule is written."""
    seen, total, i = set(), 0, 0
    while i <= len(items) - n:
        gram = tuple(items[i : i + n])
        if gram in seen:
            total += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return total


@settings(deadline=None)
@given(sentences, st.sampled_from([2, 3, 4]))
def test_the_most_frequent_phrase_is_measured_as_a_literal_count_does(items, n):
    text = " ".join(items)
    assert value_of(f"top_{n}_gram", text) == pytest.approx(literal_top(items, n) / max(len(text), 1))


@settings(deadline=None)
@given(sentences, st.integers(5, 10))
def test_repeated_phrases_are_measured_as_a_literal_walk_does(items, n):
    text = " ".join(items)
    assert value_of(f"duplicate_{n}_gram", text) == pytest.approx(literal_duplicates(items, n) / max(len(text), 1))


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=80))
def test_the_bound_is_what_repeats_cover_and_never_below_the_walk(numbers):
    tokens = np.array(numbers, np.int64)
    ends = np.concatenate([[0], np.cumsum(tokens + 1)])
    for n, starts, grams in repeated_ngrams(tokens, longest=10):
        again = [start for place, start in enumerate(starts) if grams[place] in grams[:place]]
        covered = {position for start in again for position in range(start, start + n)}
        bound = duplicate_characters_bound(starts, grams, n, ends)
        assert bound == sum(numbers[position] + 1 for position in covered)
        assert duplicate_characters(starts, grams, n, ends) <= bound


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=80))
def test_repeated_ngrams_are_all_that_occur_twice(numbers):
    found = {n: starts.tolist() for n, starts, _ in repeated_ngrams(np.array(numbers, np.int64), longest=10)}
    for n in range(2, 11):
        grams = [tuple(numbers[i : i + n]) for i in range(len(numbers) - n + 1)]
        assert found.get(n, []) == [i for i, gram in enumerate(grams) if grams.count(gram) > 1]


@pytest.mark.parametrize(
    ("rule", "text", "value"),
    [
        ("duplicate_paragraph_fraction", "one\n\ntwo\n\n\n\none\n\nthree", 1 / 4),
        ("duplicate_paragraph_character_fraction", "abcde\n\nabcde", 5 / 12),
        ("duplicate_line_fraction", "a\nb\n\nb\nb\n", 2 / 4),
        ("duplicate_line_character_fraction", "abcd\nx\nabcd", 4 / 11),
        ("top_2_gram", "to be or not to be", 2 * 5 / 18),
        ("top_2_gram", "東京と東京", 2 * 2 / 5),
        ("top_3_gram", "a b c, a b c!", 2 * 5 / 13),
        ("top_4_gram", "a b c d e", 0),
        ("duplicate_5_gram", "a b c d ee x a b c d ee", 6 / 23),
        ("duplicate_10_gram", "a b c d ee x a b c d ee", 0),
    ],
)
def test_hand_counted_value(rule, text, value):
    assert value_of(rule, text) == pytest.approx(value)


@pytest.mark.parametrize("rule", TABLE_A1)
def test_a_value_equal_to_the_threshold_passes_and_null_switches_off(rule):
    text = "a b c d e f g h i j\n\n" * 3
    value = value_of(rule, text)
    assert value > 0
    assert not dropped(text, **(OFF | {rule: min(value, 1)})) or value > 1
    assert not dropped(text, **OFF)


def test_a_drop_says_what_was_measured():
    [row] = dropped("same line\nsame line\nother line")
    assert (row["rule"], row["threshold"]) == ("duplicate_line_fraction", 0.3)
    assert row["value"] == pytest.approx(1 / 3)
    assert row["reason"] == "33.33% of the lines repeat an earlier one; at most 30% may"
    [row] = dropped("spam eggs " * 9)
    assert "in the phrase 'spam eggs'; at most 20% may" in row["reason"]


def test_prose_and_short_texts_are_kept():
    prose = (
        "The walk begins at the harbour, where boats of every size lie side by side and gulls quarrel over scraps. "
        "Beyond the last warehouse a narrow path climbs between hedges until the town is out of sight."
    )
    assert not dropped(prose, "Hello world", "吾輩は猫である。名前はまだ無い。", "x", "", "\0\0\0", "...")


def test_one_word_repeated_is_dropped():
    assert [row["rule"] for row in dropped("word " * 100, "\n".join(["word"] * 100))] == [
        "top_2_gram",
        "duplicate_line_fraction",
    ]


@pytest.mark.parametrize("text", ["a" * 10_000_000, "a b\n" * 250_000, "\0" * 1_000_000, "猫" * 200_000])
def test_extreme_documents_are_judged(text):
    assert len(dropped(text)) == (len(set(text)) > 1 or text[0] == "猫")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(x_1): return 'é'", ["def", "f", "x_1", "return", "é"]),
        ("e\u0301te\u0301 हिन्दी में", ["e\u0301te\u0301", "हिन्दी", "में"]),
        ("Python言語は3つ", ["Python", "言", "語", "は", "3", "つ"]),
        ("한국어 문장", ["한국어", "문장"]),
        (" .,\n\0", []),
    ],
)
def test_words_of_many_scripts(text, expected):
    assert words(text) == expected
