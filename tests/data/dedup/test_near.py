import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data import running, sketches, stages
from pretrain.data.dedup import near
from pretrain.data.dedup.near import NearDuplicates, crowded, jaccards
from pretrain.data.running import CorpusStage
from pretrain.data.words import words

STAGE = NearDuplicates(similarity=0.75, bands=24, rows=6, shingle=5)


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


def phrases(text: str) -> set[tuple[str, ...]]:
    """The shingles of a text, without any hash."""
    found = words(text.lower()) or [text]
    size = min(5, len(found))
    return {tuple(found[place : place + size]) for place in range(len(found) - size + 1)}


def alike(documents: list[str], least: float = 0.75) -> dict[tuple[int, int], float]:
    """All pairs of documents with at least this similarity, each compared with each."""
    sets = [phrases(document) for document in documents]
    pairs = combinations(range(len(sets)), 2)
    values = {(one, other): len(sets[one] & sets[other]) / len(sets[one] | sets[other]) for one, other in pairs}
    return {pair: value for pair, value in values.items() if value >= least}


def test_a_planted_duplicate_is_dropped_with_its_similarity(decide):
    # 96 shingles each; moved on by 4 words they share 92 of 100, moved on by 16 they share 80 of 112.
    assert decide(STAGE, [numbers(0, 100), numbers(500, 600), numbers(4, 104)]) == [("2", "0", 0.92)]
    assert decide(STAGE, [numbers(0, 100), numbers(16, 116)]) == []


def test_all_pairs_that_are_alike_are_found_and_no_others(decide):
    documents = families(60)
    pairs = alike(documents)
    assert len(pairs) > 25
    assert {name: value for name, _, value in decide(STAGE, documents)} == pytest.approx(
        {str(other): value for (_, other), value in pairs.items()}
    )


@pytest.mark.parametrize("cut", [0, 1, 17, 60])
def test_the_result_is_independent_of_sharding(decide, cut):
    documents = families(30)
    assert decide(STAGE, documents[:cut], [], documents[cut:]) == decide(STAGE, documents)


@pytest.mark.parametrize("partition_bytes", [3000, 20_000, 10**9])
@pytest.mark.parametrize(("rows_at_once", "keys_at_once"), [(3, 100), (1024, 10**9)])
@pytest.mark.parametrize("shingles_at_once", [1, 3000])
def test_the_result_does_not_depend_on_how_much_is_done_at_once(
    decide, monkeypatch, partition_bytes, rows_at_once, keys_at_once, shingles_at_once
):
    documents = families(30)
    expected = {str(other): (str(one), value) for (one, other), value in alike(documents).items()}
    assert len(expected) > 12
    monkeypatch.setattr(running, "PARTITION_BYTES", partition_bytes)
    monkeypatch.setattr(running, "LINKS_AT_ONCE", 2)
    monkeypatch.setattr(stages, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(sketches, "KEYS_AT_ONCE", keys_at_once)
    monkeypatch.setattr(near, "SHINGLES_AT_ONCE", shingles_at_once)
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
    monkeypatch.setattr(
        NearDuplicates, "_band_keys", lambda _, offsets, hashes: np.zeros((len(offsets) - 1, 24), np.uint64)
    )
    assert len(expected) > 3
    assert decide(STAGE, documents) == expected


def test_short_documents_are_alike_only_when_equal_but_for_case_and_punctuation(decide):
    texts = ["One two three.", "one, TWO three", "one two", "one two four", "", "", "!?", "?!", "!?"]
    assert decide(STAGE, texts) == [("1", "0", 1.0), ("5", "4", 1.0), ("8", "6", 1.0)]


@pytest.fixture
def compared(monkeypatch):
    """A list that grows by each pair of documents that is compared."""
    pairs: list[list[int]] = []
    monkeypatch.setattr(near, "jaccards", lambda some, details: pairs.extend(some.tolist()) or jaccards(some, details))
    return pairs


def test_a_bucket_of_copies_takes_one_comparison_each(decide, compared):
    result = decide(STAGE, [numbers(0, 20)] * 3000)
    assert result == [(str(place), "0", 1.0) for place in range(1, 3000)]
    assert len(compared) == 2999


def test_a_crowd_of_edited_copies_takes_a_few_comparisons_each(decide, compared):
    draw = random.Random(1)
    copies = []
    for _ in range(1000):
        text = numbers(0, 100).split()
        text[draw.randrange(100)] = f"x{draw.random()}"
        copies.append(" ".join(text))
    assert [row[:2] for row in decide(STAGE, copies)] == [(str(place), "0") for place in range(1, 1000)]
    assert len(compared) < 1000 * STAGE.bands


def test_documents_of_very_different_length_are_not_compared(decide, compared, monkeypatch):
    monkeypatch.setattr(
        NearDuplicates, "_band_keys", lambda _, offsets, hashes: np.zeros((len(offsets) - 1, 24), np.uint64)
    )
    assert decide(STAGE, [numbers(0, 100), numbers(0, 75)]) == []
    assert compared == []


def test_nothing_is_dropped_from_nothing(decide):
    assert decide(STAGE) == []
    assert decide(STAGE, [], []) == []


def test_a_very_long_document_is_compared_with_its_copy(decide):
    draw = random.Random(1)
    for letters in ("abcdefgh ", "あいうえおかきく。"):
        long = "".join(draw.choices(letters, k=500_000))
        assert decide(STAGE, [long, long[:-1000], "short"]) == [("1", "0", pytest.approx(0.998, abs=0.005))]


@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(0, 40), min_size=1).map(sorted), st.sets(st.integers(0, 40), min_size=1).map(sorted)
        )
    )
)
def test_jaccard_is_shared_over_all(pairs):
    sets = [np.array(some, np.uint32) for pair in pairs for some in pair]
    offsets = np.cumsum([0, *map(len, sets)])
    hashes = np.concatenate([np.zeros(0, np.uint32), *sets])

    def details(documents):
        chosen = [hashes[offsets[place] : offsets[place + 1]] for place in documents]
        return np.cumsum([0, *map(len, chosen)]), np.concatenate([np.zeros(0, np.uint32), *chosen])

    numbered = np.arange(2 * len(pairs)).reshape(-1, 2)[::-1]
    expected = [len(set(one) & set(other)) / len(set(one) | set(other)) for one, other in pairs]
    assert jaccards(numbered, details)[::-1].tolist() == expected


@given(st.lists(st.integers(0, 5)))
def test_crowded_are_those_that_share_a_key(keys):
    found = crowded(np.array(keys, np.uint64)).tolist()
    assert found == sorted((i for i, key in enumerate(keys) if keys.count(key) > 1), key=lambda i: (keys[i], i))


def test_it_is_a_corpus_stage():
    assert isinstance(STAGE, CorpusStage)
