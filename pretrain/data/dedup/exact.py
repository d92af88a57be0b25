"""Exact duplicates: documents with the same text, found by a 128-bit hash of it."""

from typing import ClassVar

import numpy as np
import pyarrow as pa
import xxhash

from pretrain.data.documents import LINK, Details
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
    rule: ClassVar[str] = "exact_duplicate"
    threshold: float = 1.0

    def __init__(self, *, ignore_case: bool, ignore_space: bool) -> None:
        self.ignore_case = ignore_case
        self.ignore_space = ignore_space

    def sketch(self, documents: pa.Table) -> tuple[pa.Table, None]:
        """Each text's hash, in two halves."""
        hashes = b"".join(self._hash(text) for text in documents["text"].to_pylist())
        halves = np.frombuffer(hashes, np.uint64).reshape(-1, 2)
        rows = pa.array(np.arange(len(documents)))
        return pa.table({"row": rows, "key": halves[:, 0], "rest": halves[:, 1]}), None

    def link(self, keys: pa.Table, details: Details) -> pa.Table:
        """Each document with the first that has its hash; the value is always 1."""
        key, rest, document = (keys[name].to_numpy() for name in ("key", "rest", "document"))
        order = np.lexsort((document, rest, key))
        key, rest, document = key[order], rest[order], document[order]
        leads = np.append(True, (key[1:] != key[:-1]) | (rest[1:] != rest[:-1])) if len(key) else np.zeros(0, bool)
        first = document[leads][np.cumsum(leads) - 1]
        return pa.table([first[~leads], document[~leads], np.ones(int((~leads).sum()))], schema=LINK)

    def _hash(self, text: str) -> bytes:
        digest = xxhash.xxh3_128()
        for piece in pieces(text):
            if self.ignore_case:
                piece = piece.casefold()
            if self.ignore_space:
                piece = "".join(piece.split())
            digest.update(piece.encode())
        return digest.digest()
