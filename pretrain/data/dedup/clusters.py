"""Clusters of documents: which belong together, directly or through others, and which one comes first."""

import numpy as np
from numpy.typing import NDArray


def first_equal(rows: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each row of a (N, K) array, the index of the first row that equals it."""
    if not len(rows):
        return np.zeros(0, np.int64)
    order = np.lexsort(rows.T)  # stable: equal rows stay in their order
    ordered = rows[order]
    leads = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    first = np.empty(len(rows), np.int64)
    first[order] = order[leads][np.cumsum(leads) - 1]
    return first


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
