import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.filters.characters import CharacterTable
from pretrain.data.filters.keywords import Keywords, digest, word_list
from pretrain.errors import ConfigError

texts = st.lists(st.text("あいア\n", max_size=40), min_size=1, max_size=4)
lists = st.lists(st.lists(st.text("あいア1", min_size=1, max_size=4), max_size=6), max_size=3)


@settings(deadline=None, max_examples=200)
@given(texts, lists)
def test_words_of_lists_cover_what_a_search_for_each_of_them_finds(batch, lists):
    covered = Keywords(lists).covered(CharacterTable.of(batch))
    for text, row in zip(batch, covered.tolist(), strict=True):
        for words, number in zip(lists, row, strict=True):
            inside = [False] * len(text)
            for word in words:
                for at in range(len(text) - len(word) + 1):
                    if text.startswith(word, at):
                        inside[at : at + len(word)] = [True] * len(word)
            assert number == sum(inside)


def test_each_of_thousands_of_words_is_found_and_nothing_else():
    words = [chr(0x4E00 + n) + chr(0x3041 + n % 80) + chr(0x4E00 + 7 * n % 5000) for n in range(5000)]
    keywords = Keywords([words[::2], words[1::2]])
    assert keywords.covered(CharacterTable.of(words)).tolist() == [[3, 0], [0, 3]] * 2500
    others = sorted({word[::-1] for word in words} - set(words))
    assert len(others) > 4000
    assert not keywords.covered(CharacterTable.of(others)).any()


def test_words_come_from_a_file_of_the_user_or_with_the_package(tmp_path):
    (tmp_path / "mine.txt").write_text("\ufeff# mine\n猫 \n\n犬\n猫\n", "utf-8")
    assert word_list(str(tmp_path / "mine.txt")) == ["猫", "犬"]
    assert "送料無料" in word_list("advertisement_ja")
    with pytest.raises(ConfigError, match=r"name a file, a word a line, or .*advertisement_ja"):
        word_list("xyz")


def test_a_digest_tells_lists_apart():
    assert digest(["猫", "犬"]) == digest(["猫", "犬"]) != digest(["猫犬"])


def test_a_misspelt_list_is_told_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean function_en\?"):
        word_list("function_eng")
