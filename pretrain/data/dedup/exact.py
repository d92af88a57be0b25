"""Exact duplicates: documents with the same text, found by a 128-bit hash of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pretrain.data.dedup.clusters import first_equal
from pretrain.data.documents import DECISION

SKETCH = pa.schema([("id", pa.string()), ("hash", pa.binary(16))])


class ExactDuplicates:
    """Drops every document whose text an earlier one has.

    Args:
        ignore_case: take texts that differ only in upper and lower case for the same.
        ignore_space: take texts that differ only in white space for the same, wherever it stands.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    rule: ClassVar[str] = "exact_duplicate"
    threshold: float = 1.0

    def __init__(self, *, ignore_case: bool, ignore_space: bool) -> None:
        self.ignore_case = ignore_case
        self.ignore_space = ignore_space

    def sketch(self, documents: pa.Table) -> pa.Table:
        """The hash of each document's text (SKETCH)."""
        hashes = [self._hash(text) for text in documents["text"].to_pylist()]
        return pa.table([documents["id"], pa.array(hashes, pa.binary(16))], schema=SKETCH)

    def resolve(self, sketches: Sequence[Path]) -> pa.Table:
        """The documents to drop (DECISION), in corpus order, which is the order of `sketches`; `value` is always 1."""
        corpus = pa.concat_tables([SKETCH.empty_table(), *(pq.read_table(path, schema=SKETCH) for path in sketches)])
        halves = np.frombuffer(b"".join(corpus["hash"].to_pylist()), np.uint64).reshape(-1, 2)
        first = first_equal(halves)
        repeats = np.flatnonzero(first != np.arange(len(first)))
        ids = corpus["id"]
        return pa.table([ids.take(repeats), ids.take(first[repeats]), np.ones(len(repeats))], schema=DECISION)

    def _hash(self, text: str) -> bytes:
        if self.ignore_case:
            text = text.casefold()
        if self.ignore_space:
            text = "".join(text.split())
        return xxhash.xxh3_128_digest(text.encode())
