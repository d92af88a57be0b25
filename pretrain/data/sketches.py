"""What a stage that sees the whole corpus keeps on disk while it compares documents: files of Arrow record batches.

    00000.keys      of shard 0: a record batch for each partition of the keys' space
    00000.details   of shard 0: a record batch for each row group, with what decides whether documents belong together
    00000.ids       of shard 0: the ids of its documents
    00000.links     of partition 0: a record batch for each shard, with the links to its documents
    links           of all partitions, where links are brought together in clusters

All are written under a temporary name and renamed, and read where they lie, through a memory map.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pretrain.data.manifests import temporary_name

KEYS_AT_ONCE = 1 << 20  # keys of a partition that are linked at the same time; those that are equal always are


@dataclass(frozen=True)
class Sketches:
    """The sketches of a corpus's shards.

    Attributes:
        folder: where they lie.
        starts: (shards + 1,) the place in the corpus of each shard's first document, and last the number of all.
        partitions: of the space of keys.
    """

    folder: Path
    starts: NDArray[np.int64]
    partitions: int

    def path(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:05d}.{kind}"

    def keys(self, part: int) -> Iterator[pa.Table]:
        """The keys of a partition with the place of their `document`, by document; a few at once, equal ones together.

        A text that stands in the corpus a million times crowds one partition, so this one is parted again.
        """
        shards = [
            (start, read_batch(path, part))
            for shard, start in enumerate(self.starts[:-1].tolist())
            if (path := self.path(shard, "keys")).stat().st_size  # of a shard without documents it is empty
        ]
        pieces = 1 + sum(len(keys) for _, keys in shards) // KEYS_AT_ONCE
        for piece in range(pieces):
            tables = []
            for start, keys in shards:
                if pieces > 1:
                    mine = partition_of(keys["key"].to_numpy(), self.partitions * pieces) == part * pieces + piece
                    keys = keys.filter(pa.array(mine))
                tables.append(keys.append_column("document", pc.add(keys["row"], start)).drop_columns("row"))
            if tables:
                yield pa.concat_tables(tables)

    def details(self, documents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Details in the sense of `documents.Details`; those of other documents stay on disk."""
        lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        values: list[NDArray[Any]] = []
        for shard, rows in self._by_shard(documents):
            start = 0
            for batch in read_batches(self.path(shard, "details")):
                here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(batch))] - start
                start += len(batch)
                if len(here):
                    lists = batch["details"]
                    offsets = lists.offsets.to_numpy()
                    lengths.append(offsets[here + 1] - offsets[here])
                    values.append(lists.values.to_numpy()[spread(offsets[here], lengths[-1])])
        return np.cumsum(np.concatenate(lengths)), np.concatenate(values or [np.zeros(0)])

    def ids(self, documents: NDArray[np.int64]) -> pa.Array:
        """The ids of documents given by their places in the corpus, in any order."""
        distinct, back = np.unique(documents, return_inverse=True)
        found = [pa.array([], pa.string())]
        for shard, rows in self._by_shard(distinct):
            found.append(read_batch(self.path(shard, "ids"), 0)["id"].combine_chunks().take(pa.array(rows)))
        return pa.concat_arrays(found).take(pa.array(back))

    def _by_shard(self, documents: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The rows that `documents`, ascending, have in each shard where some are."""
        shards = np.searchsorted(self.starts, documents, side="right") - 1
        edges = np.searchsorted(shards, np.arange(len(self.starts)))
        for shard in np.flatnonzero(edges[1:] > edges[:-1]).tolist():
            yield shard, documents[edges[shard] : edges[shard + 1]] - self.starts[shard]

    def write_links(self, path: Path, links: pa.Table) -> None:
        """Write links sorted by the document that goes, a record batch for each shard of it."""
        order = np.argsort(links["other"].to_numpy(), kind="stable")
        links = links.take(pa.array(order)).combine_chunks()
        edges = np.searchsorted(links["other"].to_numpy(), self.starts)
        whole = links.to_batches()[0] if len(links) else pa.RecordBatch.from_pylist([], schema=links.schema)
        write_batches(path, (whole.slice(start, end - start) for start, end in pairwise(edges)), links.schema)


def partition_of(keys: NDArray[np.uint64], partitions: int) -> NDArray[np.int64]:
    """Which of `partitions` equal pieces of the space of 64-bit keys each key falls into."""
    return ((keys >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def spread(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places in some runs of an array, one run after the other."""
    before = np.cumsum(lengths) - lengths
    places: NDArray[np.int64] = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
    return places


def write_batches(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema | None = None) -> None:
    """Write record batches as an Arrow file, in which each can be found; none and no schema leave an empty file."""
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            written = iter(batches)
            first = None if schema else next(written, None)
            if schema is None and first is not None:
                schema, written = first.schema, chain([first], written)
            if schema is not None:
                with pa.ipc.new_file(file, schema) as writer:
                    for batch in written:
                        writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_batch(path: Path, number: int) -> pa.Table:
    """One record batch of an Arrow file, read where it lies."""
    with pa.memory_map(str(path)) as source:
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(number)])


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """All record batches of an Arrow file, read where they lie."""
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for number in range(file.num_record_batches):
            yield file.get_batch(number)
