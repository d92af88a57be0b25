"""Near duplicates: documents that share most of their phrases.

MinHash with banding (Broder 1997, https://ieeexplore.ieee.org/document/666900; Lee et al. 2022,
https://arxiv.org/abs/2107.06499) proposes pairs, and the exact Jaccard similarity of the phrases decides on them, so
that chance drops no document.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from annotated_types import Ge, Interval
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rensa import RMinHash

from pretrain.data.dedup.clusters import Clusters
from pretrain.data.documents import DECISION
from pretrain.data.words import numbered, words

PERMUTATION_SEED = 1
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, with well-mixed bits: 2**64 over the golden ratio
REPRESENTATIVES = 32  # documents of one bucket that the others in it are compared with
BATCH = 1024  # documents whose minimum hashes are Python integers at the same time


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

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("rensa",)
    rule: ClassVar[str] = "near_duplicate"

    def __init__(
        self,
        *,
        similarity: Annotated[float, Interval(gt=0, le=1)],
        bands: Annotated[int, Ge(1)],
        rows: Annotated[int, Ge(1)],
        shingle: Annotated[int, Ge(1)],
    ) -> None:
        self.threshold = similarity
        self.bands = bands
        self.rows = rows
        self.shingle = shingle

    def sketch(self, documents: pa.Table) -> pa.Table:
        """Each document's id, the keys of its bands, and its shingles as sorted, distinct 32-bit hashes.

        With 32 bits one of k shingles meets another by chance about every 2**32 / k times: no similarity notices.
        """
        sets = [shingle_hashes(text, self.shingle) for text in documents["text"].to_pylist()]
        offsets, hashes = _flat(sets)
        keys = pa.array(self._band_keys(sets).ravel(), pa.uint64())
        return pa.table(
            {
                "id": documents["id"],
                "bands": pa.FixedSizeListArray.from_arrays(keys, self.bands),
                "shingles": pa.LargeListArray.from_arrays(offsets, hashes),
            }
        )

    def resolve(self, sketches: Sequence[Path]) -> pa.Table:
        """The documents to drop (DECISION), in corpus order, which is the order of `sketches`.

        The survivor is the first document of the cluster. `value` is the similarity to the most similar of the
        documents that this one was linked with; where a chain of others leads to the survivor, the similarity to the
        survivor itself may be below the threshold.
        """
        if not sketches:
            return DECISION.empty_table()
        corpus = pa.concat_tables(pq.read_table(path, columns=["id", "bands"]) for path in sketches)
        ids, keys = corpus["id"], corpus["bands"].combine_chunks().flatten().to_numpy().reshape(-1, self.bands)
        buckets = [crowded(band) for band in keys.T]
        shingles = _read_shingles(sketches, np.unique(np.concatenate(buckets)))
        clusters = Clusters(len(ids))
        closest = np.zeros(len(ids))
        for band, members in zip(keys.T, buckets, strict=True):
            for _ in range(REPRESENTATIVES):
                if not len(members):
                    break
                members = self._link(members, band[members], shingles, clusters, closest)
        firsts = clusters.firsts()
        gone = np.flatnonzero(firsts != np.arange(len(ids)))
        return pa.table([ids.take(gone), ids.take(firsts[gone]), closest[gone]], schema=DECISION)

    def _link(
        self,
        members: NDArray[np.int64],
        keys: NDArray[np.uint64],
        shingles: dict[int, NDArray[np.uint32]],
        clusters: Clusters,
        closest: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Link the members of each bucket to its first where they are alike; the rest is left for another round.

        So a bucket of copies takes one comparison each, and not one for each pair.

        Args:
            members: documents, bucket after bucket, each in corpus order.
            keys: the bucket of each.
            closest: (N,) the highest similarity of a link so far, updated here.
        """
        leads = np.append(True, keys[1:] != keys[:-1])
        first, members = members[leads][np.cumsum(leads) - 1][~leads], members[~leads]
        left = []
        for one, other in zip(first.tolist(), members.tolist(), strict=True):
            if clusters.first(one) == clusters.first(other):
                continue
            value = jaccard(shingles[one], shingles[other])
            if value < self.threshold:
                left.append(other)
                continue
            clusters.join(one, other)
            closest[[one, other]] = np.maximum(closest[[one, other]], value)
        return np.array(left, np.int64)

    def _band_keys(self, sets: list[NDArray[np.uint32]]) -> NDArray[np.uint64]:
        """(N, bands): one hash for every band of `rows` minimum hashes."""
        keys = [np.zeros((0, self.bands), np.uint64)]
        for start in range(0, len(sets), BATCH):
            offsets, hashes = _flat(sets[start : start + BATCH])
            minima = RMinHash.digest_matrix_from_flat_token_hashes(
                hashes.astype(np.uint64), offsets.astype(np.uint64), self.bands * self.rows, PERMUTATION_SEED
            )
            keys.append(folded(np.array(minima.to_rows(), np.uint64).reshape(-1, self.bands, self.rows)))
        return np.concatenate(keys)


def shingle_hashes(text: str, shingle: int) -> NDArray[np.uint32]:
    """Hashes of the distinct sequences of `shingle` words, sorted."""
    vocabulary, numbers = numbered(words(text.lower()) or [text])
    hashes = np.array([xxhash.xxh3_64_intdigest(word.encode()) for word in vocabulary], np.uint64)[numbers]
    sequences = sliding_window_view(hashes, min(shingle, len(hashes)))
    return np.unique((folded(sequences) >> np.uint64(32)).astype(np.uint32))


def jaccard(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    """Shared over all elements of two sets, given as arrays of distinct elements."""
    shared = np.intersect1d(one, other, assume_unique=True).size
    return shared / (one.size + other.size - shared)


def folded(sequences: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One hash for each sequence along the last axis; the order of its elements matters."""
    result = np.zeros(sequences.shape[:-1], np.uint64)
    for position in range(sequences.shape[-1]):
        result = result * MULTIPLIER + sequences[..., position]
    return result


def crowded(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The documents that share their key with another, sorted by key and then in corpus order."""
    order = np.argsort(keys, kind="stable")
    equal = np.zeros(len(keys) + 1, bool)  # whether the documents at i - 1 and i of the order share a key
    equal[1:-1] = keys[order][1:] == keys[order][:-1]
    return order[equal[1:] | equal[:-1]]


def _flat(sets: list[NDArray[np.uint32]]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Where each set begins, and last where the last one ends; and all of them in one array."""
    offsets = np.cumsum([0, *map(len, sets)])
    return offsets, np.concatenate([np.zeros(0, np.uint32), *sets])


def _read_shingles(sketches: Sequence[Path], wanted: NDArray[np.int64]) -> dict[int, NDArray[np.uint32]]:
    """The shingles of the `wanted` documents, given as sorted positions in the corpus; the others stay on disk."""
    shingles: dict[int, NDArray[np.uint32]] = {}
    start = 0
    for path in sketches:
        column = pq.read_table(path, columns=["shingles"])["shingles"]
        here = wanted[(wanted >= start) & (wanted < start + len(column))]
        sets = column.take(here - start)
        shingles.update(zip(here.tolist(), (found.values.to_numpy() for found in sets), strict=True))
        start += len(column)
    return shingles
