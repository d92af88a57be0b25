import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data import running, stages
from pretrain.data.dedup import near
from pretrain.data.dedup.near import NearDuplicates, crowded, jaccard, shingle_hashes
from pretrain.data.running import CorpusStage

STAGE = NearDuplicates(similarity=0.75, bands=20, rows=6, shingle=5)


def numbers(first: int, last: int) -> str:
    """The words w<first> to w<last - 1>: last - first - 4 distinct shingles of 5 words."""
    return " ".join(f"w{number}" for number in range(first, last))


def families(count: int) -> list[str]:
    """Random documents, each with a variant that replaces a few of its 200 words."""
    draw = random.Random(3)
    documents = []
    for _ in range(count):
        original = [f"v{draw.randrange(5000)}" for _ in range(200)]
        changed = set(draw.sample(range(200), draw.choice([1, 2, 4, 8, 12])))
        documents += [original, [f"{word}x" if place in changed else word for place, word in enumerate(original)]]
    draw.shuffle(documents)
    return [" ".join(document) for document in documents]


def test_a_planted_duplicate_is_dropped_with_its_similarity(decide):
    # 96 shingles each; moved on by 4 words they share 92 of 100, moved on by 16 they share 80 of 112.
    assert decide(STAGE, [numbers(0, 100), numbers(500, 600), numbers(4, 104)]) == [("2", "0", 0.92)]
    assert decide(STAGE, [numbers(0, 100), numbers(16, 116)]) == []


def test_all_pairs_that_are_alike_are_found_and_no_others(decide):
    documents = families(100)
    sets = [shingle_hashes(document, 5) for document in documents]
    alike = {
        str(other): jaccard(sets[one], sets[other])
        for one in range(len(sets))
        for other in range(one + 1, len(sets))
        if jaccard(sets[one], sets[other]) >= 0.75
    }
    assert len(alike) > 40
    assert {name: value for name, _, value in decide(STAGE, documents)} == pytest.approx(alike)


@pytest.mark.parametrize("cut", [0, 1, 17, 60])
def test_the_result_is_independent_of_sharding(decide, cut):
    documents = families(30)
    assert decide(STAGE, documents[:cut], [], documents[cut:]) == decide(STAGE, documents)


@pytest.mark.parametrize("partition_bytes", [3000, 20_000, 10**9])
@pytest.mark.parametrize("rows_at_once", [3, 1024])
def test_the_result_does_not_depend_on_partitions_or_row_groups(decide, monkeypatch, partition_bytes, rows_at_once):
    documents = families(30)
    sets = [shingle_hashes(document, 5) for document in documents]
    expected = {}
    for other in range(len(sets)):
        for one in range(other):
            if (value := jaccard(sets[one], sets[other])) >= 0.75:
                expected[str(other)] = (str(one), value)
    assert len(expected) > 15
    monkeypatch.setattr(running, "PARTITION_BYTES", partition_bytes)
    monkeypatch.setattr(stages, "ROWS_AT_ONCE", rows_at_once)
    found = decide(STAGE, documents[:20], documents[20:21], [], documents[21:])
    assert {name: (survivor, value) for name, survivor, value in found} == expected


def test_a_chain_is_one_cluster_and_its_value_is_that_of_the_nearest_link(decide):
    # Neighbours share 88 of 104 shingles, or 92 of 100 in the middle; the first and the last share only 76 of 116.
    stage = NearDuplicates(similarity=0.84, bands=64, rows=2, shingle=5)
    for base in range(0, 10_000, 1000):
        chain = [numbers(base + shift, base + shift + 100) for shift in (0, 8, 12, 20)]
        assert decide(stage, chain) == [("1", "0", 0.92), ("2", "0", 0.92), ("3", "0", 88 / 104)]


def test_pairs_are_found_in_a_bucket_that_begins_with_unlike_documents(decide, monkeypatch):
    documents = families(12)
    expected = decide(STAGE, documents)
    monkeypatch.setattr(NearDuplicates, "_band_keys", lambda _, sets: np.zeros((len(sets), 20), np.uint64))
    assert len(expected) > 3
    assert decide(STAGE, documents) == expected


def test_short_documents_are_alike_only_when_equal_but_for_case_and_punctuation(decide):
    texts = ["One two three.", "one, TWO three", "one two", "one two four", "", "", "!?", "?!", "!?"]
    assert decide(STAGE, texts) == [("1", "0", 1.0), ("5", "4", 1.0), ("8", "6", 1.0)]


def test_a_bucket_of_copies_takes_one_comparison_each(decide, monkeypatch):
    compared = []
    monkeypatch.setattr(near, "jaccard", lambda *sets: compared.append(sets) or jaccard(*sets))
    result = decide(STAGE, [numbers(0, 20)] * 3000)
    assert result == [(str(place), "0", 1.0) for place in range(1, 3000)]
    assert len(compared) == 2999


def test_nothing_is_dropped_from_nothing(decide):
    assert decide(STAGE) == []
    assert decide(STAGE, [], []) == []


@given(st.sets(st.integers(0, 40), min_size=1), st.sets(st.integers(0, 40), min_size=1))
def test_jaccard_is_shared_over_all(one, other):
    arrays = [np.array(sorted(items), np.uint32) for items in (one, other)]
    assert jaccard(*arrays) == len(one & other) / len(one | other)


@given(st.lists(st.integers(0, 5)), st.randoms())
def test_crowded_are_those_that_share_a_key(keys, random):
    documents = random.sample(range(len(keys)), len(keys))
    found = crowded(np.array(keys, np.uint64), np.array(documents, np.int64)).tolist()
    crowd = [i for i, key in enumerate(keys) if keys.count(key) > 1]
    assert found == sorted(crowd, key=lambda i: (keys[i], documents[i]))


@given(st.lists(st.sampled_from(["a", "b", "ab", "ba"]), min_size=1, max_size=40), st.integers(1, 6))
def test_there_is_one_hash_for_each_distinct_shingle(items, shingle):
    size = min(shingle, len(items))
    distinct = {tuple(items[i : i + size]) for i in range(len(items) - size + 1)}
    assert len(shingle_hashes(" ".join(items), shingle)) == len(distinct)


def test_it_is_a_corpus_stage():
    assert isinstance(STAGE, CorpusStage)
