import random
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.dedup.clusters import components, join, own_parents, roots

pairs = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20)


def by_hand(nodes: int, links: list[tuple[int, int]]) -> list[int]:
    component = list(range(nodes))
    for one, other in links:
        low, high = sorted((component[one], component[other]))
        component = [low if label == high else label for label in component]
    return component


def columns(links):
    return np.array(links, np.int64).reshape(-1, 2).T


@given(pairs)
def test_components_are_those_of_the_graph_and_named_by_their_first(links):
    assert components(12, *columns(links)).tolist() == by_hand(12, links)


@given(pairs, st.randoms(), st.integers(1, 5))
def test_neither_the_order_of_links_nor_how_many_come_at_once_matters(links, random, at_once):
    parents = np.arange(12)
    mixed = [link if random.random() < 0.5 else link[::-1] for link in random.sample(links, len(links))]
    for start in range(0, len(mixed), at_once):
        join(parents, *columns(mixed[start : start + at_once]))
    assert roots(parents, np.arange(12)).tolist() == by_hand(12, links)


def test_a_long_chain_in_any_order_is_one_cluster():
    links = list(pairwise(range(20_000)))
    random.Random(1).shuffle(links)
    for at_once in (100, 10**6):
        parents = np.arange(20_000)
        for start in range(0, len(links), at_once):
            join(parents, *columns(links[start : start + at_once]))
        assert not roots(parents, np.arange(20_000)).any()


def test_parents_in_a_file_are_joined_as_in_memory(tmp_path):
    chance = np.random.default_rng(1)
    one, other = chance.integers(0, 3000, (2, 2500))
    parents, in_memory = own_parents(tmp_path / "parents", 3000), np.arange(3000)
    join(parents, one, other)
    join(in_memory, one, other)
    everything = np.arange(3000)
    assert roots(parents, everything).tolist() == roots(in_memory, everything).tolist()
    assert (tmp_path / "parents").stat().st_size == 8 * 3000


def test_no_documents_have_no_clusters(tmp_path):
    empty = np.zeros(0, np.int64)
    parents = own_parents(tmp_path / "parents", 0)
    join(parents, empty, empty)
    assert roots(parents, empty).tolist() == []
