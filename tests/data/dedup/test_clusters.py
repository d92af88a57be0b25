import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.dedup.clusters import Clusters, clustered

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


valued_links = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, 11), st.sampled_from([0.5, 0.75, 1.0])), max_size=20
)


@given(valued_links, st.integers(1, 10**12), st.integers(0, 10**12))
def test_of_each_cluster_all_but_the_first_go_with_their_nearest_link(links, scale, offset):
    """Documents may be numbered with gaps: only their order matters."""
    columns = [np.array([link[column] for link in links]) for column in range(3)]
    gone, firsts, closest = clustered(
        columns[0].astype(np.int64) * scale + offset, columns[1].astype(np.int64) * scale + offset, columns[2]
    )
    clusters = Clusters(12)
    for one, other, _ in links:
        clusters.join(one, other)
    expected = [document for document in range(12) if clusters.first(document) != document]
    assert gone.tolist() == [document * scale + offset for document in expected]
    assert firsts.tolist() == [clusters.first(document) * scale + offset for document in expected]
    assert closest.tolist() == [max(value for *ends, value in links if document in ends) for document in expected]


def test_without_links_every_document_stays():
    empty = np.zeros(0, np.int64)
    assert [found.tolist() for found in clustered(empty, empty, np.zeros(0))] == [[], [], []]
