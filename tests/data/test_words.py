import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.words import WordTable, words

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
