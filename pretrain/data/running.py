"""Running a stage: on each document by itself, or on the whole corpus in passes over hash-partitioned files.

A stage that must see the whole corpus sketches every shard: keys, by which documents meet, sorted into partitions of
the keys' space. Each partition is then read from all shards and linked by itself, and only the links are brought
together: nothing else that is global has to fit into one process.
"""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pretrain.data.dedup.clusters import clustered
from pretrain.data.documents import LINK, Details, Drop, StageOutput, partition
from pretrain.data.manifests import key_of, temporary_name
from pretrain.data.memory import peak_memory, reset_peak_memory
from pretrain.data.stages import Batch, Built, Workspace, add_cost, build, finished, row_groups, shard_tasks, text_bytes

PARTITION_BYTES = 250_000_000  # text of the corpus for which there is one partition of the keys' space
DECISION = pa.schema([("row", pa.int64()), ("survivor", pa.string()), ("value", pa.float64())])


class Stage(Protocol):
    """A pure function from a batch of documents to those kept and those dropped, each document judged by itself."""

    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]]

    def __call__(self, documents: pa.Table) -> StageOutput: ...


@runtime_checkable
class CorpusStage(Protocol):
    """A stage that must see the whole corpus: of each cluster of linked documents only the first stays."""

    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]]
    rule: ClassVar[str]
    threshold: float

    def sketch(self, documents: pa.Table) -> tuple[pa.Table, pa.Array | None]:
        """Keys and details of a batch of documents.

        Returns:
            a table with the columns `row` (of the batch, int64), `key` (uint64, spread evenly) and what else the links
            depend on; and, for each document, what decides whether two that share a key belong together.
        """
        ...

    def link(self, keys: pa.Table, details: Details) -> pa.Table:
        """The links (LINK) between documents that share a key, the earlier one first.

        Args:
            keys: some of the keys' space, all of it that shares a key; `document` is the place in the corpus.
        """
        ...


def run_stage(name: str, settings: dict[str, Any], stage: Stage | CorpusStage, before: Built, at: Workspace) -> Built:
    """Run one stage over the shards that `before` left, or find it done.

    Args:
        settings: the stage's part of the config, a piece of its key.
    """
    key = key_of(settings=settings, code=stage.version, libraries=stage.libraries, inputs=[before.key])
    if done := finished(name, key, at):
        return done
    if not isinstance(stage, CorpusStage):
        return build(name, key, at, shard_tasks(before), _Filter(stage))
    decisions = _decide(name, at.folder / "stages" / f"{name}-{key}", stage, before, at)
    tasks = [(weight, (index, file)) for index, (weight, file) in enumerate(shard_tasks(before))]
    return build(name, key, at, tasks, _Removal(stage.rule, stage.threshold, decisions))


@dataclass(frozen=True)
class _Filter:
    """The work of a Stage on one shard."""

    stage: Stage

    def __call__(self, file: Path) -> Iterator[Batch]:
        for documents in row_groups(file):
            output = self.stage(documents)
            yield Batch(output.kept, output.dropped, len(documents), text_bytes(documents), output.counters)


@dataclass(frozen=True)
class _Removal:
    """The work of a CorpusStage on one shard, once it is decided which documents go."""

    rule: str
    threshold: float
    decisions: Path

    def __call__(self, task: tuple[int, Path]) -> Iterator[Batch]:
        index, file = task
        decided = _batch(self.decisions, index)
        drops: dict[int, Drop] = {}
        for row, survivor, value in zip(*(decided[name].to_pylist() for name in DECISION.names), strict=True):
            drops[row] = Drop(self.rule, value, self.threshold, f"repeats document {survivor}", survivor)
        start = 0
        for documents in row_groups(file):
            output = partition(documents, [drops.get(row) for row in range(start, start + len(documents))])
            yield Batch(output.kept, output.dropped, len(documents), text_bytes(documents), {})
            start += len(documents)


def _decide(name: str, folder: Path, stage: CorpusStage, before: Built, at: Workspace) -> Path:
    """Which documents of each shard go: a file of DECISION with a record batch for every shard."""
    decisions, sketches = folder / "decisions.arrow", folder / "sketches"
    if decisions.exists():
        shutil.rmtree(sketches, ignore_errors=True)  # of a build that was killed while it removed them
        return decisions
    started = time.perf_counter()
    sketches.mkdir(parents=True, exist_ok=True)
    partitions = 1 + before.total("bytes_out") // PARTITION_BYTES
    starts = np.cumsum([0, *(shard.documents_out for shard in before.shards)])
    shards = list(enumerate(before.files()))
    weights = [shard.bytes_out for shard in before.shards]
    label = f"{name}: compare"
    at.watch.begin(label, sum(weights))
    peak = 0
    left = [(index, file) for index, file in shards if not (sketches / f"{index:05d}.keys").exists()]
    for index in set(range(len(shards))) - {index for index, _ in left}:
        at.watch.done(label, weights[index], [])
    for (index, _), memory in at.executor.map(_Sketch(stage, sketches, partitions), left, at.watch.idle):
        peak = max(peak, memory)
        at.watch.done(label, weights[index], [])
    links: dict[int, pa.Table] = {}
    for part, (found, memory) in at.executor.map(_Link(stage, sketches, starts), range(partitions), at.watch.idle):
        links[part] = found
        peak = max(peak, memory)
    joined = pa.concat_tables([links[part] for part in range(partitions)])
    _write_decisions(decisions, joined, before, starts)
    add_cost(folder, time.perf_counter() - started, peak)
    shutil.rmtree(sketches, ignore_errors=True)  # a worker whose driver was killed may still write there
    return decisions


@dataclass(frozen=True)
class _Sketch:
    """Writes the keys of a shard, a record batch for every partition, and the details of its documents."""

    stage: CorpusStage
    folder: Path
    partitions: int

    def __call__(self, task: tuple[int, Path]) -> int:
        reset_peak_memory()
        index, file = task
        keys, start = [], 0
        for documents in row_groups(file):
            found, details = self.stage.sketch(documents)
            at = found.schema.get_field_index("row")
            keys.append(found.set_column(at, "row", pc.add(found["row"], start)))
            if details is not None:
                _write_batches(self.folder / f"{index:05d}.{start}.details", [pa.record_batch({"details": details})])
            start += len(documents)
        if keys:
            _write_batches(self.folder / f"{index:05d}.keys", self._parted(pa.concat_tables(keys)))
        else:
            (self.folder / f"{index:05d}.keys").touch()
        return peak_memory()

    def _parted(self, keys: pa.Table) -> Iterator[pa.RecordBatch]:
        parts = _partition_of(keys["key"].to_numpy(), self.partitions)
        order = np.argsort(parts, kind="stable")
        keys = keys.take(order).combine_chunks()
        edges = np.searchsorted(parts[order], np.arange(self.partitions + 1))
        whole = keys.to_batches()[0] if len(keys) else pa.RecordBatch.from_pylist([], schema=keys.schema)
        for start, end in pairwise(edges):
            yield whole.slice(start, end - start)


@dataclass(frozen=True)
class _Link:
    """Links the documents whose keys fall into one partition."""

    stage: CorpusStage
    folder: Path
    starts: NDArray[np.int64]

    def __call__(self, part: int) -> tuple[pa.Table, int]:
        reset_peak_memory()
        tables = []
        for index, start in enumerate(self.starts[:-1].tolist()):
            path = self.folder / f"{index:05d}.keys"
            if path.stat().st_size:
                keys = _batch(path, part)
                tables.append(keys.append_column("document", pc.add(keys["row"], start)).drop_columns("row"))
        if not tables:
            return LINK.empty_table(), peak_memory()
        return self.stage.link(pa.concat_tables(tables), self._details), peak_memory()

    def _details(self, documents: NDArray[np.int64]) -> dict[int, NDArray[Any]]:
        """The details of `documents`, given in ascending order; the others stay on disk."""
        found: dict[int, NDArray[Any]] = {}
        shards = np.searchsorted(self.starts, documents, side="right") - 1
        for shard in np.unique(shards).tolist():
            rows = documents[shards == shard] - self.starts[shard]
            files = sorted(self.folder.glob(f"{shard:05d}.*.details"), key=_first_row)
            firsts = np.array([_first_row(file) for file in files])
            pieces = np.searchsorted(firsts, rows, side="right") - 1
            for piece in np.unique(pieces).tolist():
                here = rows[pieces == piece]
                details = _batch(files[piece], 0)["details"].take(pa.array(here - firsts[piece]))
                names = (here + self.starts[shard]).tolist()
                found.update(zip(names, (item.values.to_numpy() for item in details), strict=True))
        return found


def _first_row(details: Path) -> int:
    return int(details.suffixes[0].removeprefix("."))


def _partition_of(keys: NDArray[np.uint64], partitions: int) -> NDArray[np.int64]:
    """Which of `partitions` equal pieces of the space of 64-bit keys each key falls into."""
    return ((keys >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def _write_decisions(path: Path, links: pa.Table, before: Built, starts: NDArray[np.int64]) -> None:
    gone, survivors, values = clustered(*(links[name].to_numpy() for name in LINK.names))
    names = _ids(before, starts, survivors)
    shards = np.searchsorted(starts, gone, side="right") - 1
    edges = np.searchsorted(shards, np.arange(len(before.shards) + 1))

    def batches() -> Iterator[pa.RecordBatch]:
        for shard, (start, end) in enumerate(pairwise(edges)):
            rows = gone[start:end] - starts[shard]
            columns = [pa.array(rows), names.slice(start, end - start), pa.array(values[start:end])]
            yield pa.record_batch(columns, schema=DECISION)

    _write_batches(path, batches(), DECISION)


def _ids(before: Built, starts: NDArray[np.int64], documents: NDArray[np.int64]) -> pa.Array:
    """The ids of documents given by their places in the corpus, in any order."""
    distinct, back = np.unique(documents, return_inverse=True)
    shards = np.searchsorted(starts, distinct, side="right") - 1
    found = [pa.array([], pa.string())]
    for shard in np.unique(shards).tolist():
        ids = pq.read_table(before.files()[shard], columns=["id"])["id"].combine_chunks()
        found.append(ids.take(pa.array(distinct[shards == shard] - starts[shard])))
    return pa.concat_arrays(found).take(pa.array(back))


def _write_batches(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema | None = None) -> None:
    """Write record batches as an Arrow file, in which each can be found, under a temporary name, and rename it."""
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            written = iter(batches)
            ahead = [] if schema else [next(written)]
            with pa.ipc.new_file(file, schema or ahead[0].schema) as writer:
                for batch in chain(ahead, written):
                    writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _batch(path: Path, number: int) -> pa.Table:
    """One record batch of an Arrow file, read where it lies."""
    with pa.memory_map(str(path)) as source:
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(number)])
