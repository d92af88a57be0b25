import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.words import WordTable, grouped_characters, words
from pretrain.tokenizers.spans import short_span_hashes

MIXED = st.text(st.sampled_from("ab1_'-. \n\u0301\u0483\u0915\u093f\u0e01カガ\u3099漢、\U0001f600é\U00020000"))


def table_words(texts: list[str]) -> list[list[str]]:
    """The words of each text, read back from the table."""
    table = WordTable.of(texts)
    characters = "".join(map(chr, table.points.tolist()))
    found: list[list[str]] = [[] for _ in texts]
    for number, start, end in zip(table.text.tolist(), table.starts.tolist(), table.ends.tolist(), strict=True):
        found[number].append(characters[start:end])
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop.", ["Don", "t", "stop"]),
        ("吾輩は猫 cat", ["吾", "輩", "は", "猫", "cat"]),
        ("e\u0301a \u0301b", ["e\u0301a", "b"]),
        ("... -- !", []),
        ("", []),
    ],
)
def test_words_by_hand(text, expected):
    assert words(text) == expected
    assert table_words([text]) == [expected]


@given(st.lists(MIXED | st.text(), max_size=6))
def test_a_table_holds_the_words_of_each_text(texts):
    assert table_words(texts) == [words(text) for text in texts]


def test_a_table_agrees_on_every_code_point():
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    texts = ["".join(map(chr, points[start : start + 1000])) for start in range(0, len(points), 1000)]
    assert table_words(texts) == [words(text) for text in texts]


@given(st.lists(MIXED, max_size=6))
def test_hashes_are_equal_for_equal_words_alone(texts):
    table = WordTable.of(texts)
    flat = [word for text in texts for word in words(text)]
    hashes = dict(zip(flat, table.hashes.tolist(), strict=True))
    assert [hashes[word] for word in flat] == table.hashes.tolist()
    assert len(set(hashes.values())) == len(hashes)


def test_hashes_depend_on_no_other_text():
    alone, behind = WordTable.of(["cat"]), WordTable.of(["a dog", "and a cat"])
    assert alone.hashes[0] == behind.hashes[-1]
    assert np.array_equal(behind.texts, [0, 6, 16])


@given(st.lists(MIXED, max_size=6))
def test_short_spans_have_the_same_hashes_by_either_way(texts):
    table = WordTable.of(texts)
    assert np.array_equal(short_span_hashes(table.points, table.starts, table.ends), table.hashes)


@given(st.lists(st.text("ab ", max_size=30), max_size=4), st.integers(1, 4))
def test_phrases_have_equal_hashes_if_they_are_the_same_without_space(texts, n):
    table = WordTable.of(texts)
    flat = [word for text in texts for word in words(text)]
    phrases = ["".join(flat[start : start + n]) for start in range(len(flat) - n + 1)]
    hashes = table.phrase_hashes(n, np.arange(len(phrases))).tolist()
    assert len(set(zip(phrases, hashes, strict=True))) == len(set(phrases)) == len(set(hashes))


def grouped(text: str) -> list[str]:
    table = grouped_characters(WordTable.of([text]))
    return [text[start:end] for start, end in zip(table.starts.tolist(), table.ends.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("吾輩は猫である。名前はまだ無い。", ["吾輩", "は", "猫", "である", "名前", "はまだ", "無", "い"]),
        ("東京都庁 コーヒー12杯", ["東京", "都庁", "コーヒー", "12", "杯"]),
        ("人々, plain words", ["人々", "plain", "words"]),
        ("กขคงจ", ["กขคง", "จ"]),
        ("", []),
    ],
)
def test_characters_of_scripts_without_spaces_are_taken_together(text, expected):
    assert grouped(text) == expected


@given(st.lists(MIXED, max_size=6))
def test_grouping_keeps_every_character_and_every_other_word(texts):
    table, plain = grouped_characters(WordTable.of(texts)), WordTable.of(texts)
    covered = [place for a, b in zip(table.starts.tolist(), table.ends.tolist(), strict=True) for place in range(a, b)]
    assert covered == [p for a, b in zip(plain.starts.tolist(), plain.ends.tolist(), strict=True) for p in range(a, b)]
    assert set(table.starts.tolist()) <= set(plain.starts.tolist())
