"""Clusters of documents: which belong together, directly or through others, and which one comes first.

The parents of a corpus's documents are an array in a file, 8 bytes a document, and links come in blocks: memory grows
with neither. In each block the roots that links join are a small graph of their own; its components are found by
hooking the larger label of each link to the smaller one and halving all paths, a few operations on whole arrays
(Shiloach and Vishkin 1982, https://doi.org/10.1016/0196-6774(82)90008-6). Roots hang on smaller ones only, so the root
is the first document of the cluster, whatever the order of the links.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def components(nodes: int, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """(nodes,) the first node of each node's component, in the graph of the links `one` to `other`."""
    parents = np.arange(nodes)
    while True:
        low, high = parents[one], parents[other]
        apart = low != high
        if not apart.any():
            return parents
        one, other, low, high = one[apart], other[apart], low[apart], high[apart]
        np.minimum.at(parents, np.maximum(low, high), np.minimum(low, high))
        while not np.array_equal(grandparents := parents[parents], parents):
            parents = grandparents


def roots(parents: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first document of the cluster of each of `documents`."""
    found: NDArray[np.int64] = parents[documents]
    while not np.array_equal(above := parents[found], found):
        found = above
    return found


def join(parents: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Join the clusters of the documents of each link.

    Args:
        parents: of all documents, at first each its own; changed in place.
        one, other: (L,) the documents of each link.
    """
    tops = np.concatenate([roots(parents, one), roots(parents, other)])
    distinct, places = np.unique(tops, return_inverse=True)
    ends = places.reshape(2, -1)
    parents[distinct] = distinct[components(len(distinct), ends[0], ends[1])]
    for ends_of in (one, other):
        parents[ends_of] = roots(parents, ends_of)


def own_parents(path: Any, documents: int) -> NDArray[np.int64]:
    """The parents of `documents` documents that nothing joins yet, in a new file."""
    parents = np.memmap(path, np.int64, "w+", shape=(max(1, documents),))
    for start in range(0, documents, 1 << 20):
        end = min(start + (1 << 20), documents)
        parents[start:end] = np.arange(start, end)
    return parents
