import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain import cli, config
from pretrain.data.documents import DOCUMENT
from pretrain.data.filters.english_words import word_table
from pretrain.data.filters.gopher import GopherRepetition
from pretrain.data.filters.phrases import Phrases
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


def repetitive(symbols: list[str]) -> st.SearchStrategy[list[str]]:
    """Lists in which parts repeat, some in a row."""
    part = st.tuples(st.lists(st.sampled_from(symbols), max_size=8), st.integers(1, 6))
    return st.lists(part, max_size=5).map(lambda parts: [item for items, times in parts for item in items * times])


sentences = repetitive(["a", "bb", "ccc"])


def dropped(*texts: str, **thresholds: float | str | None) -> list[dict]:
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
@given(st.lists(repetitive(["a", "bb", "c,", "."]), max_size=8), st.booleans())
def test_a_batch_is_judged_as_its_documents_are_by_the_rules_as_written(documents, once):
    texts = [" ".join(items) for items in documents]
    rows = dropped(*texts, words="fast", once=once, duplicate_line_fraction=None)
    found = {int(row["id"]): row for row in rows}
    for number, text in enumerate(texts):
        expected = literal_first_rule(text, once)
        assert (found[number]["rule"] if number in found else None) == expected


def literal_first_rule(text: str, once: bool) -> str | None:
    """The first rule that a document of one line breaks, with punctuation marks as words, by the rules as written."""
    if not text:
        return "empty"
    table = word_table([text], "fast")
    items = [text[start:end] for start, end in zip(table.starts, table.ends, strict=True)]
    for n in (2, 3, 4):
        grams = [" ".join(items[i : i + n]) for i in range(len(items) - n + 1)]
        best = max(grams, key=grams.count, default="")
        times = grams.count(best)
        if grams and (once or times > 1) and len(best) * times / len(text) > TABLE_A1[f"top_{n}_gram"]:
            return f"top_{n}_gram"
    for n in range(5, 11):
        if literal_duplicates(items, n) / len(text) > TABLE_A1[f"duplicate_{n}_gram"]:
            return f"duplicate_{n}_gram"
    return None


@settings(deadline=None)
@given(st.lists(sentences, min_size=1, max_size=5), st.integers(2, 10))
def test_no_document_that_breaks_a_rule_escapes_its_bound(documents, n):
    texts = [" ".join(items) for items in documents]
    phrases = Phrases(word_table(texts, "letters"))
    everyone = list(range(len(texts)))
    threshold = 0.1
    frequent, repeated = phrases.maybe_frequent(n, threshold), phrases.maybe_repeated(n, threshold, everyone)
    for number, (items, text) in enumerate(zip(documents, texts, strict=True)):
        assert literal_top(items, n) <= threshold * len(text) or number in frequent
        assert literal_duplicates(items, n) <= threshold * len(text) or number in repeated


def test_a_line_feed_at_either_end_is_an_empty_line():
    assert value_of("duplicate_line_fraction", "a\nb\n\nb\nc\n") == pytest.approx(1 / 5)
    assert value_of("duplicate_line_fraction", "\na\nb\nc\n") == pytest.approx(1 / 5)


def test_lines_of_white_space_count_only_where_they_are_meant_to():
    text = "one\n \ntwo\n \nthree\n \nfour"
    assert [row["rule"] for row in dropped(text, duplicate_line_fraction=0.2)] == ["duplicate_line_fraction"]
    assert not dropped(text, duplicate_line_fraction=0.2, blank_lines=False)


def test_a_phrase_that_occurs_once_counts_only_where_it_is_meant_to():
    assert not dropped("three short words")
    [row] = dropped("three short words", once=True)
    assert row["rule"] == "top_2_gram"
    assert row["value"] == pytest.approx(11 / 17)


def test_punctuation_is_a_word_only_where_it_is_meant_to_be():
    text = "Look (here) and (there) and (everywhere) by (chance)."
    assert not dropped(text, words="letters")
    assert value_of("top_2_gram", text) < 0.3
    assert dropped("x = ( ) ; " * 3 + "and then all the rest of it is different", words="fast")


@pytest.mark.parametrize(
    ("rule", "text", "value"),
    [
        ("duplicate_paragraph_fraction", "one\n\ntwo\n\n\n\none\n\nthree", 1 / 4),
        ("duplicate_paragraph_character_fraction", "abcde\n\nabcde", 5 / 12),
        ("duplicate_line_fraction", "a\nb\n\nb\nb", 2 / 4),
        ("duplicate_line_character_fraction", "abcd\nx\nabcd", 4 / 11),
        ("top_2_gram", "to be or not to be", 2 * 5 / 18),
        ("top_2_gram", "東京と東京と", 3 * 2 / 6),
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
    assert not dropped(prose, "Hello world", "吾輩は猫である。名前はまだ無い。", "x", "\0\0\0", "...")
    assert [row["rule"] for row in dropped("")] == ["empty"]


def test_the_default_recipe_keeps_a_text_with_lines_of_white_space():
    composed = cli._composed("data", ["data=files", "data.paths=[corpus]", "data/recipe=minimal"])
    part = config.parse(composed, config.DataConfig).data.stages["gopher_repetition"]
    text = " \n = Lighthouse = \n \n It was built on a rock . \n \n In winter no boat can land there . \n \n"
    rows = [{"id": "0", "text": text, "source": "s", "source_id": "r", "meta": "{}"}]
    assert len(config.build(part)(pa.Table.from_pylist(rows, schema=DOCUMENT)).kept) == 1
    assert dropped(text)[0]["rule"] == "duplicate_line_fraction"


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
