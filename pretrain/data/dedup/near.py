"""Near duplicates: documents that share most of their phrases.

MinHash with banding (Broder 1997, https://ieeexplore.ieee.org/document/666900; Lee et al. 2022,
https://arxiv.org/abs/2107.06499) proposes pairs, and the exact Jaccard similarity of the phrases decides on them, so
that chance drops no document.
"""

from itertools import pairwise
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Interval
from numpy.typing import NDArray
from rensa import RMinHash

from pretrain.data.dedup.shingles import folded, shared, shingle_sets
from pretrain.data.documents import LINK, Details, StageOutput, without_repeats
from pretrain.data.manifests import UNICODE
from pretrain.data.sketches import spread

PERMUTATION_SEED = 1
REPRESENTATIVES = 32  # documents of one bucket that the others in it are compared with
BATCH = 1024  # documents whose minimum hashes are Python integers at the same time
SHINGLES_AT_ONCE = 1 << 21  # in pairs that are compared at the same time, unless one pair has more


class NearDuplicates:
    """Drops every document but the first of each cluster of near duplicates.

    Two documents are near duplicates when the Jaccard similarity of their shingles, the sequences of `shingle` words
    in lower case, is at least `similarity`. A document with fewer words is one shingle, whole; without any word it is
    compared as it stands. Two documents of similarity s are compared with probability 1 - (1 - s**rows)**bands.

    Args:
        similarity: the least Jaccard similarity of near duplicates.
        bands: groups of minimum hashes; documents that agree on one whole group are compared.
        rows: minimum hashes in a group.
        shingle: words in a shingle.
    """

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("rensa", UNICODE)
    transitive: ClassVar[bool] = True

    def __init__(
        self,
        *,
        similarity: Annotated[float, Interval(gt=0, le=1)],
        bands: Annotated[int, Ge(1)],
        rows: Annotated[int, Ge(1)],
        shingle: Annotated[int, Ge(1)],
    ) -> None:
        self.similarity = similarity
        self.bands = bands
        self.rows = rows
        self.shingle = shingle

    def sketch(self, documents: pa.Table) -> tuple[pa.Table, pa.Array]:
        """A key for each band of each document with the number of its shingles; and their hashes."""
        offsets, hashes = shingle_sets(documents["text"].to_pylist(), self.shingle)
        sizes = np.diff(offsets)
        keys = {
            "row": np.repeat(np.arange(len(sizes)), self.bands),
            "key": self._band_keys(offsets, hashes).ravel(),
            "size": np.repeat(sizes.astype(np.uint32), self.bands),
        }
        return pa.table(keys), pa.LargeListArray.from_arrays(offsets, hashes)

    def link(self, keys: pa.Table, details: Details) -> pa.Table:
        """The links between documents that share a key and are alike, each with the similarity.

        Every document of a bucket is compared with its first, what is not alike with the first of the rest, and so on:
        a bucket of copies takes one comparison each, and not one for each pair.
        """
        key, document, size = (keys[name].to_numpy() for name in ("key", "document", "size"))
        crowd = crowded(key)
        twice = (key[crowd[1:]] == key[crowd[:-1]]) & (document[crowd[1:]] == document[crowd[:-1]])  # two bands of one
        crowd = crowd[np.append(True, ~twice)[: len(crowd)]]
        key, document, size = key[crowd], document[crowd], size[crowd].astype(np.int64)
        links = [np.zeros((0, 2), np.int64)]
        values = [np.zeros(0)]
        for _ in range(REPRESENTATIVES):
            leads = np.append(True, key[1:] != key[:-1])[: len(key)]
            first = np.flatnonzero(leads)[np.cumsum(leads) - 1]
            pairs = np.stack([document[first], document], axis=1)[~leads]
            sizes = np.stack([size[first], size], axis=1)[~leads]
            pairs, sizes, places = distinct_pairs(pairs, sizes)
            similarities = self.similarities(pairs, sizes, details)
            alike = similarities >= self.similarity
            links.append(pairs[alike])
            values.append(similarities[alike])
            left = np.flatnonzero(~leads)[~alike[places]]
            key, document, size = key[left], document[left], size[left]
            if not len(key):
                break
        one, other = np.concatenate(links).T
        return pa.table([one, other, np.concatenate(values)], schema=LINK)

    def apply(self, documents: pa.Table, found: pa.Table) -> StageOutput:
        """Drops what is not the first of its cluster; the value is the similarity to the nearest document in it."""
        return without_repeats(documents, found, "near_duplicate", self.similarity)

    def similarities(self, pairs: NDArray[np.int64], sizes: NDArray[np.int64], details: Details) -> NDArray[np.float64]:
        """(L,) the Jaccard similarity of each pair; 0 where the sizes alone tell that it is too small.

        Args:
            pairs: (L, 2) places in the corpus.
            sizes: (L, 2) how many shingles each has.
        """
        found = np.zeros(len(pairs))
        low, high = sizes.min(axis=1), sizes.max(axis=1)
        left = np.flatnonzero(low >= self.similarity * high)
        blocks = np.cumsum(sizes[left].sum(axis=1)) // SHINGLES_AT_ONCE
        edges = np.flatnonzero(np.append(True, blocks[1:] != blocks[:-1])[: len(left)]).tolist()
        for start, end in pairwise([*edges, len(left)]):
            found[left[start:end]] = jaccards(pairs[left[start:end]], details)
        return found

    def _band_keys(self, offsets: NDArray[np.int64], hashes: NDArray[np.uint32]) -> NDArray[np.uint64]:
        """(N, bands): one hash for every band of `rows` minimum hashes, which no other band's meets but by chance."""
        keys = [np.zeros((0, self.bands), np.uint64)]
        for start in range(0, len(offsets) - 1, BATCH):
            some = offsets[start : start + BATCH + 1]
            minima = RMinHash.digest_matrix_from_flat_token_hashes(
                hashes[some[0] : some[-1]].astype(np.uint64),
                (some - some[0]).astype(np.uint64),
                self.bands * self.rows,
                PERMUTATION_SEED,
            )
            rows = np.array(minima.to_rows(), np.uint64).reshape(-1, self.bands, self.rows)
            bands = np.broadcast_to(np.arange(self.bands, dtype=np.uint64), rows.shape[:2])
            keys.append(folded([bands, *np.moveaxis(rows, 2, 0)]))
        return np.concatenate(keys)


def crowded(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where keys stand that there are several of, sorted by key; equal ones in their order."""
    order = np.argsort(keys, kind="stable")
    equal = np.zeros(len(keys) + 1, bool)  # whether the places i - 1 and i of the order share a key
    equal[1:-1] = keys[order][1:] == keys[order][:-1]
    return order[equal[1:] | equal[:-1]]


def distinct_pairs(
    pairs: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct rows of `pairs`, sorted, with their `sizes`; and for each row its place among them."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    new = np.append(True, (pairs[order][1:] != pairs[order][:-1]).any(axis=1))[: len(order)]
    places = np.empty(len(order), np.int64)
    places[order] = np.cumsum(new) - 1
    return pairs[order[new]], sizes[order[new]], places


def jaccards(pairs: NDArray[np.int64], details: Details) -> NDArray[np.float64]:
    """(L,) the Jaccard similarity of the documents of each pair: shared over all of their shingles."""
    documents, places = np.unique(pairs, return_inverse=True)
    offsets, hashes = details(documents)
    starts, lengths = offsets[:-1][places.reshape(-1, 2)], np.diff(offsets)[places.reshape(-1, 2)]
    one, other = ((lengths[:, side], hashes[spread(starts[:, side], lengths[:, side])]) for side in (0, 1))
    common = shared(len(pairs), one, other)
    result: NDArray[np.float64] = common / (lengths.sum(axis=1) - common)
    return result
