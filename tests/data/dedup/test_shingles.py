import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.dedup import shingles
from pretrain.data.dedup.shingles import shared, shingle_sets
from pretrain.data.words import words

WORDS = st.lists(st.sampled_from(["a", "b", "ab", "Ba", "猫", "!", "."]), max_size=30).map(" ".join)


def by_hand(text: str, shingle: int) -> set[tuple[str, ...]]:
    found = words(text.lower())
    size = min(shingle, len(found))
    return {tuple(found[place : place + size]) for place in range(len(found) - size + 1)} if found else {(text,)}


def split(offsets, hashes):
    return [hashes[start:end].tolist() for start, end in pairwise(offsets)]


@given(st.lists(WORDS, max_size=8), st.integers(1, 6))
def test_there_is_one_hash_for_each_distinct_shingle(texts, shingle):
    found = split(*shingle_sets(texts, shingle))
    assert len(found) == len(texts)
    assert all(some == sorted(set(some)) for some in found)
    sets = [by_hand(text, shingle) for text in texts]
    assert [len(some) for some in found] == [len(some) for some in sets]
    known: dict[tuple[int, ...], set[tuple[str, ...]]] = {}
    for hashes, some in zip(found, sets, strict=True):
        assert known.setdefault(tuple(hashes), some) == some


@given(st.lists(WORDS, max_size=8), st.integers(1, 6))
def test_a_text_has_the_same_shingles_whatever_stands_beside_it(texts, shingle):
    together = split(*shingle_sets(texts, shingle))
    assert together == [split(*shingle_sets([text], shingle))[0] for text in texts]


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_the_sets_do_not_depend_on_how_much_is_done_at_once(monkeypatch, at_once):
    draw = random.Random(1)
    texts = [" ".join(f"w{draw.randrange(50)}" for _ in range(draw.randrange(40))) for _ in range(30)]
    expected = split(*shingle_sets(texts, 3))
    monkeypatch.setattr(shingles, "CHARACTERS_AT_ONCE", at_once)
    monkeypatch.setattr(shingles, "WINDOWS_AT_ONCE", at_once)
    assert split(*shingle_sets(texts, 3)) == expected


def test_words_in_another_order_are_other_shingles():
    one, other, third = split(*shingle_sets(["a b c", "b a c", "a c b"], 3))
    assert len({*one, *other, *third}) == 3


sets_of_numbers = st.sets(st.integers(0, 2**32 - 1) | st.integers(0, 20), max_size=20).map(sorted)


@given(st.lists(st.tuples(sets_of_numbers, sets_of_numbers), max_size=6))
def test_shared_counts_what_both_sets_of_a_pair_have(pairs):
    sides = [
        (
            np.array([len(pair[side]) for pair in pairs], np.int64),
            np.array([value for pair in pairs for value in pair[side]], np.uint32),
        )
        for side in (0, 1)
    ]
    assert shared(len(pairs), *sides).tolist() == [len(set(one) & set(other)) for one, other in pairs]
