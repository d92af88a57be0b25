import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.dedup.clusters import Clusters, first_equal

pairs = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20)


@given(pairs)
def test_clusters_are_the_connected_components_and_named_by_their_first(links):
    clusters = Clusters(12)
    component = list(range(12))
    for one, other in links:
        clusters.join(one, other)
        low, high = sorted((component[one], component[other]))
        component = [low if label == high else label for label in component]
    assert clusters.firsts().tolist() == component
    assert [clusters.first(document) for document in range(12)] == component


@given(pairs, st.randoms())
def test_the_order_of_links_does_not_matter(links, random):
    one, other = Clusters(12), Clusters(12)
    for link in links:
        one.join(*link)
    for link in random.sample(links, len(links)):
        other.join(*reversed(link))
    assert one.firsts().tolist() == other.firsts().tolist()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2))))
def test_first_equal_finds_the_first_of_equal_rows(rows):
    found = first_equal(np.array(rows, np.uint64).reshape(-1, 2))
    assert found.tolist() == [rows.index(row) for row in rows]
