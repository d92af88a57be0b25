"""Pairs of characters that Japanese spelling does not have, and so tell shuffled or broken text from prose."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pretrain.data.filters.characters import HIRAGANA, KATAKANA, CharacterTable, kind_table

# Pairs of neighbours: the second of the one set stands behind the first of the other, or does not.
I_ROW = "きしちにひみりぎじぢびぴキシチニヒミリギジヂビピテデフヴ"  # a small ゃ, ゅ or ょ follows no other kana
SMALL_Y = "ゃゅょャュョ"
LONG = "ー"  # follows kana only
TSU = "っッ"  # doubles the consonant behind it, so that none of these follows:
NOT_DOUBLED = (
    "あいうえおなにぬねのまみむめもらりるれろわをんやゆよっアイウエオナニヌネノマミムメモラリルレロワヲンヤユヨッ"
)
STOPS = "。、"
NOT_AFTER_STOPS = "。、)）」"
OPENING = "。、「『(（"
NOT_FIRST = "んンっッゃー"  # no word begins with them
PARTICLE = "を"
NOT_BEFORE_PARTICLE = "、。「っを(（はがでにも"
NOT_AFTER_PARTICLE = "。をはがのに)）"
# Katakana stand in runs, but for those that are read as counters and places: 三ヶ月, 関ケ原.
JOINING = "ー・ヽヾ"
ALONE = "ーヶケヵカ"

SHORTEST = 100  # pairs of neighbours in a text of which a share tells something, at least

_SETS: tuple[str, ...] = (
    *(I_ROW, SMALL_Y, LONG, TSU, NOT_DOUBLED, STOPS, NOT_AFTER_STOPS, OPENING, NOT_FIRST),
    *(PARTICLE, NOT_BEFORE_PARTICLE, NOT_AFTER_PARTICLE),
)
_KANA, _JOINED, _ALONE = 1 << 12, 1 << 13, 1 << 14


def impossible_pairs(table: CharacterTable) -> NDArray[np.float64]:
    """Of the pairs of neighbours on a line of each text, those that no Japanese word has, and lone katakana.

    In prose about 1 % at most, in shuffled text 2 % to 20 %. Nan for a text of fewer than SHORTEST pairs.
    """
    bits = _bits().take(table.points, mode="clip")
    first, second = bits[:-1], bits[1:]
    i_row, small, long, tsu, undoubled, stop, after_stop, opening, inner, particle, before, after = (
        np.uint16(1 << number) for number in range(len(_SETS))
    )
    wrong = np.zeros(len(bits), bool)
    for left, right in (
        (tsu, undoubled),
        (stop, after_stop),
        (opening, inner),
        (before, particle),
        (particle, after),
    ):
        wrong[1:] |= ((first & left) != 0) & ((second & right) != 0)
    wrong[1:] |= ((first & i_row) == 0) & ((second & small) != 0)
    wrong[1:] |= ((first & np.uint16(_KANA)) == 0) & ((second & long) != 0)
    feeds = table.points == ord("\n")
    wrong[1:] &= ~feeds[:-1]
    joined = (bits & np.uint16(_JOINED)) != 0
    lone = joined & ((bits & np.uint16(_ALONE)) == 0)
    lone[1:] &= ~joined[:-1]
    lone[:-1] &= ~joined[1:]
    inside = np.zeros(len(bits), bool)
    inside[1:] = ~feeds[1:] & ~feeds[:-1]
    pairs = table.per_text(inside)
    found = table.per_text(wrong) + table.per_text(lone)
    return np.where(pairs < SHORTEST, np.nan, found / np.maximum(pairs, 1))


@lru_cache(maxsize=1)
def _bits() -> NDArray[np.uint16]:
    """(0x10000,) for each code point the sets that it is in, a bit each; the last stands for all higher ones."""
    bits = np.zeros(0x10000, np.uint16)
    for number, letters in enumerate(_SETS):
        for letter in letters:
            bits[ord(letter)] |= np.uint16(1 << number)
    kinds = kind_table()[: len(bits)]
    bits[(kinds == HIRAGANA) | (kinds == KATAKANA)] |= np.uint16(_KANA)
    bits[kinds == KATAKANA] |= np.uint16(_JOINED)
    for letter in JOINING:
        bits[ord(letter)] |= np.uint16(_JOINED | _ALONE)
    for letter in ALONE:
        bits[ord(letter)] |= np.uint16(_ALONE)
    return bits
