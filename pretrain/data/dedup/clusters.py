"""Clusters of documents: which belong together, directly or through others, and which one comes first."""

import numpy as np
from numpy.typing import NDArray


class Clusters:
    """A union-find over documents 0 to N - 1, each at first a cluster of its own."""

    def __init__(self, documents: int) -> None:
        self._parents = np.arange(documents)  # never after the document: who is its own parent is the first

    def join(self, one: int, other: int) -> None:
        """Make one cluster of those of two documents."""
        one, other = self.first(one), self.first(other)
        self._parents[max(one, other)] = min(one, other)

    def first(self, document: int) -> int:
        """The first document of the cluster of `document`."""
        while (parent := int(self._parents[document])) != document:
            self._parents[document] = self._parents[parent]  # halves the path for whoever asks next
            document = parent
        return document

    def firsts(self) -> NDArray[np.int64]:
        """(N,) the first document of each document's cluster."""
        while not np.array_equal(grandparents := self._parents[self._parents], self._parents):
            self._parents = grandparents
        return self._parents.copy()


def clustered(
    one: NDArray[np.int64], other: NDArray[np.int64], value: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """What links between documents, in any numbering, make of them.

    Args:
        one, other: (L,) the two documents of each link.
        value: (L,) how alike they are.
    Returns:
        the documents that are not the first of their cluster, ascending; the first one of each; and the highest value
        of the links of each that are given (links between documents already known to belong together need not be).
    """
    documents, places = np.unique(np.concatenate([one, other]), return_inverse=True)
    clusters = Clusters(len(documents))
    closest = np.zeros(len(documents))
    np.maximum.at(closest, places, np.concatenate([value, value]))
    for here, there in places.reshape(2, -1).T.tolist():
        clusters.join(here, there)
    firsts = clusters.firsts()
    gone = np.flatnonzero(firsts != np.arange(len(documents)))
    return documents[gone], documents[firsts[gone]], closest[gone]
