import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.filters import spelling
from pretrain.data.filters.characters import CharacterTable

letters = st.text("あきゃっをンアカヶー。、「）(山a \n", max_size=40)


def measured(*texts: str) -> list[float]:
    return spelling.impossible_pairs(CharacterTable.of(texts)).tolist()


def literal_impossible(text: str) -> float:
    wrong = pairs = 0
    for line in text.split("\n"):
        for first, second in pairwise(line):
            pairs += 1
            wrong += (
                (second in "ゃゅょャュョ" and first not in spelling.I_ROW)
                or (second == "ー" and not ("ぁ" <= first <= "ヿ" and first != "・"))
                or (first in "っッ" and second in spelling.NOT_DOUBLED)
                or (first in "。、" and second in spelling.NOT_AFTER_STOPS)
                or (first in spelling.OPENING and second in spelling.NOT_FIRST)
                or (first in spelling.NOT_BEFORE_PARTICLE and second == "を")
                or (first == "を" and second in spelling.NOT_AFTER_PARTICLE)
            )
        joined = [is_katakana(letter) or letter in spelling.JOINING for letter in f" {line} "]
        for i, letter in enumerate(line):
            wrong += is_katakana(letter) and letter not in "ーヶケヵカヽヾ" and not joined[i] and not joined[i + 2]
    return wrong / pairs if pairs >= spelling.SHORTEST else math.nan


def is_katakana(letter: str) -> bool:
    return "ァ" <= letter <= "ヺ"


@settings(deadline=None, max_examples=200)
@given(st.lists(letters.map(lambda text: text * (300 // max(1, len(text)))), min_size=1, max_size=4))
def test_impossible_pairs_are_counted_as_the_rules_of_spelling_are_written(batch):
    assert measured(*batch) == pytest.approx([literal_impossible(text) for text in batch], nan_ok=True)


@pytest.mark.parametrize("pair", ["あゃ", "山ー", "っあ", "。、", "、ん", "をを", "「っ", "はを", "山ア山"])
def test_what_no_word_has_is_found(pair):
    assert measured("あ" * 200 + pair)[0] > measured("あ" * 200)[0] == 0


@pytest.mark.parametrize(
    "word", ["きゃく", "コーヒー", "まって", "三ヶ月", "関ケ原", "ア・カペラ", "本を読む。「いい本だ」", "突っ込む"]
)
def test_words_that_are_spelled_well_are_not(word):
    assert measured("\n".join([word] * 100)) == [0.0]


def test_short_texts_are_not_judged():
    assert math.isnan(measured("。、")[0])
