"""Exact duplicates: documents with the same text, found by a 128-bit hash of it."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
import xxhash

from pretrain.data.documents import LINK, Details, StageOutput, without_repeats
from pretrain.data.manifests import UNICODE
from pretrain.data.words import pieces


class ExactDuplicates:
    """Drops every document whose text an earlier one has.

    Args:
        ignore_case: take texts that differ only in upper and lower case for the same.
        ignore_space: take texts that differ only in white space for the same, wherever it stands.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = (UNICODE,)
    transitive: ClassVar[bool] = False  # who shares a hash with the first shares it with all
    edits: ClassVar[bool] = False  # no text changes

    def __init__(self, *, ignore_case: bool, ignore_space: bool) -> None:
        self.ignore_case = ignore_case
        self.ignore_space = ignore_space

    def sketch(self, documents: pa.Table) -> tuple[pa.Table, None]:
        """Each text's hash, in two halves."""
        texts = documents["text"].to_pylist()
        return hash_keys(range(len(texts)), [self._hash(text) for text in texts]), None

    def link(self, keys: pa.Table, details: Details) -> pa.Table:
        """Each document with the first that has its hash; the value is always 1."""
        return first_of_equal(keys)

    def apply(self, documents: pa.Table, found: pa.Table) -> StageOutput:
        """Drops what is not the first."""
        return without_repeats(documents, found, "exact_duplicate", 1.0)

    def _hash(self, text: str) -> bytes:
        digest = xxhash.xxh3_128()
        for piece in pieces(text):
            if self.ignore_case:
                piece = piece.casefold()
            if self.ignore_space:
                piece = "".join(piece.split())
            digest.update(piece.encode())
        return digest.digest()


def hash_keys(rows: Sequence[int], hashes: Sequence[bytes]) -> pa.Table:
    """The keys of some rows of a batch: 128-bit hashes, in two halves."""
    halves = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)
    return pa.table({"row": np.array(rows, np.int64), "key": halves[:, 0], "rest": halves[:, 1]})


def first_of_equal(keys: pa.Table) -> pa.Table:
    """The links of each document with the first that has the same hash."""
    key, rest, document = (keys[name].to_numpy() for name in ("key", "rest", "document"))
    order = np.lexsort((document, rest, key))
    key, rest, document = key[order], rest[order], document[order]
    leads = np.append(True, (key[1:] != key[:-1]) | (rest[1:] != rest[:-1]))[: len(key)]
    first = document[leads][np.cumsum(leads) - 1]
    return pa.table([first[~leads], document[~leads], np.ones(int((~leads).sum()))], schema=LINK)
