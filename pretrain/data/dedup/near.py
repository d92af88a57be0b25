"""Near duplicates: documents that share most of their phrases.

MinHash with banding (Broder 1997, https://ieeexplore.ieee.org/document/666900; Lee et al. 2022,
https://arxiv.org/abs/2107.06499) proposes pairs, and the exact Jaccard similarity of the phrases decides on them, so
that chance drops no document.
"""

from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import xxhash
from annotated_types import Ge, Interval
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rensa import RMinHash

from pretrain.data.dedup.clusters import Clusters
from pretrain.data.documents import LINK, Details
from pretrain.data.manifests import UNICODE
from pretrain.data.words import numbered, pieces, words

PERMUTATION_SEED = 1
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, with well-mixed bits: 2**64 over the golden ratio
REPRESENTATIVES = 32  # documents of one bucket that the others in it are compared with
AT_ONCE = 1 << 20  # shingles that are hashed at the same time
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
    libraries: ClassVar[tuple[str, ...]] = ("rensa", UNICODE)
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

    def sketch(self, documents: pa.Table) -> tuple[pa.Table, pa.Array]:
        """A key for each band of each document, and its shingles as sorted, distinct 32-bit hashes.

        With 32 bits one of k shingles meets another by chance about every 2**32 / k times: no similarity notices.
        """
        sets = [shingle_hashes(text, self.shingle) for text in documents["text"].to_pylist()]
        offsets, hashes = _flat(sets)
        rows = pa.array(np.repeat(np.arange(len(sets)), self.bands))
        keys = pa.table({"row": rows, "key": pa.array(self._band_keys(sets).ravel(), pa.uint64())})
        return keys, pa.LargeListArray.from_arrays(offsets, hashes)

    def link(self, keys: pa.Table, details: Details) -> pa.Table:
        """The links between documents that share a key and are alike, each with the similarity.

        Every document of a bucket is compared with its first, what is not alike with the first of the rest, and so on:
        a bucket of copies takes one comparison each, and not one for each pair.
        """
        key, document = keys["key"].to_numpy(), keys["document"].to_numpy()
        crowd = crowded(key, document)
        key, document = key[crowd], document[crowd]
        distinct, members = np.unique(document, return_inverse=True)
        shingles = details(distinct)
        clusters = Clusters(len(distinct))
        links: list[tuple[int, int, float]] = []
        for _ in range(REPRESENTATIVES):
            leads = np.append(True, key[1:] != key[:-1])[: len(key)]
            firsts, others = members[leads][np.cumsum(leads) - 1][~leads], members[~leads]
            unlike = np.zeros(len(others), bool)
            for place, (one, other) in enumerate(zip(firsts.tolist(), others.tolist(), strict=True)):
                if clusters.first(one) == clusters.first(other):
                    continue
                pair = int(distinct[one]), int(distinct[other])
                value = jaccard(shingles[pair[0]], shingles[pair[1]])
                unlike[place] = value < self.threshold
                if value >= self.threshold:
                    clusters.join(one, other)
                    links.append((*pair, value))
            key, members = key[~leads][unlike], others[unlike]
        return pa.Table.from_pylist([dict(zip(LINK.names, link, strict=True)) for link in links], schema=LINK)

    def _band_keys(self, sets: list[NDArray[np.uint32]]) -> NDArray[np.uint64]:
        """(N, bands): one hash for every band of `rows` minimum hashes, which no other band's meets but by chance."""
        keys = [np.zeros((0, self.bands), np.uint64)]
        for start in range(0, len(sets), BATCH):
            offsets, hashes = _flat(sets[start : start + BATCH])
            minima = RMinHash.digest_matrix_from_flat_token_hashes(
                hashes.astype(np.uint64), offsets.astype(np.uint64), self.bands * self.rows, PERMUTATION_SEED
            )
            rows = np.array(minima.to_rows(), np.uint64).reshape(-1, self.bands, self.rows)
            bands = np.broadcast_to(np.arange(self.bands, dtype=np.uint64)[:, None], (len(rows), self.bands, 1))
            keys.append(scattered(folded(np.concatenate([bands, rows], axis=2))))
        return np.concatenate(keys)


def shingle_hashes(text: str, shingle: int) -> NDArray[np.uint32]:
    """Hashes of the distinct sequences of `shingle` words, sorted."""
    hashes = np.concatenate([word_hashes(words(piece.lower())) for piece in pieces(text)])
    if not len(hashes):
        hashes = word_hashes([text])
    sequences = sliding_window_view(hashes, min(shingle, len(hashes)))
    chunks = (folded(sequences[start : start + AT_ONCE]) for start in range(0, len(sequences), AT_ONCE))
    return distinct(np.concatenate([(chunk >> np.uint64(32)).astype(np.uint32) for chunk in chunks]))


def distinct(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The distinct `values`, sorted: np.unique puts them into a hash table first, which takes 13 s for 10 million."""
    values.sort()
    kept: NDArray[np.uint32] = values[np.append(True, values[1:] != values[:-1])[: len(values)]]
    return kept


def word_hashes(found: list[str]) -> NDArray[np.uint64]:
    """A hash for each of some words."""
    vocabulary, numbers = numbered(found)
    return np.array([xxhash.xxh3_64_intdigest(word.encode()) for word in vocabulary], np.uint64)[numbers]


def jaccard(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    """Shared over all elements of two sets, given as arrays of distinct elements."""
    shared = np.intersect1d(one, other, assume_unique=True).size
    return shared / (one.size + other.size - shared)


def scattered(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The same hashes with all bits mixed, for the high ones of `folded` alone tell little of the last element."""
    hashes = (hashes ^ (hashes >> np.uint64(32))) * MULTIPLIER
    mixed: NDArray[np.uint64] = hashes ^ (hashes >> np.uint64(32))
    return mixed


def folded(sequences: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One hash for each sequence along the last axis; the order of its elements matters."""
    result = np.zeros(sequences.shape[:-1], np.uint64)
    for position in range(sequences.shape[-1]):
        result = result * MULTIPLIER + sequences[..., position]
    return result


def crowded(keys: NDArray[np.uint64], documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where keys stand that more than one document has, sorted by key and then by document."""
    order = np.lexsort((documents, keys))
    equal = np.zeros(len(keys) + 1, bool)  # whether the places i - 1 and i of the order share a key
    equal[1:-1] = keys[order][1:] == keys[order][:-1]
    return order[equal[1:] | equal[:-1]]


def _flat(sets: list[NDArray[np.uint32]]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Where each set begins, and last where the last one ends; and all of them in one array."""
    offsets = np.cumsum([0, *map(len, sets)])
    return offsets, np.concatenate([np.zeros(0, np.uint32), *sets])
