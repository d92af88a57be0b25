"""Running stages over shards of documents: resumable, with a manifest, and everything dropped is kept with its reason.

The result of a stage is a folder `<name>-<key>`: shards `00000.parquet`, what was dropped in `dropped/00000.parquet`,
and a manifest, written when all shards are there. A shard is written under a temporary name and renamed, then its
record (`00000.json`) says that it is done: a killed build goes on with the shards that have none. Shards are read and
written in row groups, so that no worker holds more of one than that.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pretrain.data.documents import DOCUMENT, DROPPED
from pretrain.data.executors import Executor
from pretrain.data.manifests import MANIFEST, read_json, temporary_name, write_json
from pretrain.data.memory import peak_memory, reset_peak_memory

ROWS_AT_ONCE = 1024  # documents in a row group of Parquet, at most
TEXT_AT_ONCE = 4_000_000  # bytes of text in it, at most, unless one document is longer
REPEATED = ["source", "meta", "stage", "rule", "reason"]  # columns whose values often repeat
PLACED = ["place"]  # columns by whose bounds row groups are found


@dataclass
class ShardRecord:
    """What became of one shard."""

    file: str
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)


class Watch(Protocol):
    """Who looks on while stages are built."""

    def begin(self, name: str, weight: int) -> None:
        """Work on `name` begins; its shards weigh `weight` bytes in all."""
        ...

    def done(self, name: str, weight: int, records: Sequence[ShardRecord]) -> None:
        """A piece of it is done, now or by an earlier build."""
        ...

    def idle(self) -> None:
        """Called all the time while work goes on. It may raise Interrupted."""
        ...


class Silent:
    """A watch that says nothing."""

    def begin(self, name: str, weight: int) -> None:
        pass

    def done(self, name: str, weight: int, records: Sequence[ShardRecord]) -> None:
        pass

    def idle(self) -> None:
        pass


@dataclass(frozen=True)
class Workspace:
    """Where stages are built, and by whom."""

    folder: Path
    executor: Executor
    watch: Watch


@dataclass(frozen=True)
class Built:
    """A finished stage: its folder, its key, the records of its shards, and what it cost when it was built.

    Attributes:
        seconds: by the clock on the wall, of the builds that came to an end or went on from one that did not.
        peak_memory: of the largest worker, in bytes (maximum resident set).
    """

    name: str
    key: str
    folder: Path
    shards: list[ShardRecord]
    seconds: float
    peak_memory: int

    def files(self) -> list[Path]:
        return [self.folder / shard.file for shard in self.shards]

    def dropped(self) -> list[Path]:
        return sorted((self.folder / "dropped").glob("[0-9]*.parquet"))

    def total(self, what: str) -> int:
        return sum(getattr(shard, what) for shard in self.shards)

    def summary(self) -> dict[str, Any]:
        """The stage's row of the report."""
        reasons: Counter[str] = Counter()
        counters: Counter[str] = Counter()
        for shard in self.shards:
            reasons.update(shard.reasons)
            counters.update(shard.counters)
        totals = {what: self.total(what) for what in ("documents_in", "documents_out", "bytes_in", "bytes_out")}
        return {
            "name": self.name,
            **totals,
            "seconds": self.seconds,
            "peak_memory": self.peak_memory,
            "reasons": dict(sorted(reasons.items())),
            "counters": dict(sorted(counters.items())),
        }


class Batch(NamedTuple):
    """What the work on a shard makes of some of it.

    Attributes:
        kept: rows of DOCUMENT, and perhaps further columns.
        dropped: rows of DROPPED, or None for none.
        documents_in, bytes_in: of what came in.
    """

    kept: pa.Table
    dropped: pa.Table | None
    documents_in: int
    bytes_in: int
    counters: dict[str, int]


Work = Callable[[Any], Iterator[Batch]]  # picklable, with the same result for the same task


def finished(name: str, key: str, workspace: Workspace) -> Built | None:
    """The stage with this key where it is already built, else None."""
    folder = workspace.folder / "stages" / f"{name}-{key}"
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        return None
    cost = read_json(folder / "cost.json") or {"seconds": 0.0, "peak_memory": 0}
    return Built(name, key, folder, [ShardRecord(**shard) for shard in manifest["shards"]], **cost)


def build(
    name: str,
    key: str,
    workspace: Workspace,
    tasks: Sequence[tuple[int, Any]],
    work: Work,
    *,
    schema: pa.Schema = DOCUMENT,
    shard_bytes: int | None = None,
) -> Built:
    """Make the shards that are not there yet: `work(task)` gives what is kept and dropped, batch by batch.

    Args:
        tasks: (bytes of text, task) for every shard; shard i is made of task i.
        schema: of the kept rows.
        shard_bytes: text after which a task goes on in another shard; None for one shard a task.
    """
    started = time.perf_counter()
    folder = workspace.folder / "stages" / f"{name}-{key}"
    (folder / "dropped").mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    workspace.watch.begin(name, sum(weight for weight, _ in tasks))
    records: dict[int, list[ShardRecord]] = {}
    for index, (weight, _) in enumerate(tasks):
        found = read_json(folder / f"{index:05d}.json")
        if found is not None:
            records[index] = [ShardRecord(**record) for record in found]
            workspace.watch.done(name, weight, records[index])
    left = [_Job(index, weight, task) for index, (weight, task) in enumerate(tasks) if index not in records]
    left.sort(key=lambda job: (-job.weight, job.index))  # the longest first, so that no worker waits for the last
    peak = 0
    for job, (made, memory) in workspace.executor.map(
        _Shard(name, folder, work, schema, shard_bytes), left, workspace.watch.idle
    ):
        records[job.index] = made
        peak = max(peak, memory)
        workspace.watch.done(name, job.weight, made)
    _remove_leftovers(folder)
    shards = [record for index in range(len(tasks)) for record in records[index]]
    cost = add_cost(folder, time.perf_counter() - started, peak)
    write_json(folder / MANIFEST, {"name": name, "key": key, "shards": [asdict(shard) for shard in shards]})
    return Built(name, key, folder, shards, **cost)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes did not finish writing."""
    for leftover in (*folder.glob(".*.tmp"), *folder.glob("dropped/.*.tmp")):
        leftover.unlink(missing_ok=True)


def shard_tasks(before: Built) -> list[tuple[int, Any]]:
    """A task for each shard that a stage left: its file, weighed by its text."""
    return [(shard.bytes_out, file) for shard, file in zip(before.shards, before.files(), strict=True)]


def add_cost(folder: Path, seconds: float, peak_memory: int) -> dict[str, Any]:
    """Note what some work on the stage in `folder` cost, and return what all of it did so far."""
    before = read_json(folder / "cost.json") or {"seconds": 0.0, "peak_memory": 0}
    cost = {"seconds": before["seconds"] + seconds, "peak_memory": max(before["peak_memory"], peak_memory)}
    write_json(folder / "cost.json", cost)
    return cost


def row_groups(file: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The documents of a shard, a row group at a time."""
    with pq.ParquetFile(file) as source:
        for group in range(source.num_row_groups):
            yield source.read_row_group(group, columns=columns)


def text_bytes(documents: pa.Table) -> int:
    """UTF-8 bytes of the texts in a table."""
    return int(pc.sum(pc.binary_length(documents["text"])).as_py() or 0)


class TableWriter:
    """A zstd Parquet file that grows row group by row group, under a temporary name until it is closed."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._temporary = temporary_name(path)
        self._file = self._temporary.open("wb")
        options = {"compression": "zstd", "compression_level": 1}
        self._writer = pq.ParquetWriter(self._file, schema, use_dictionary=REPEATED, write_statistics=PLACED, **options)

    def write(self, table: pa.Table) -> None:
        """Add rows, in row groups of ROWS_AT_ONCE rows and TEXT_AT_ONCE bytes of text."""
        for piece in _pieces(table):
            self._writer.write_table(piece, row_group_size=ROWS_AT_ONCE)

    def close(self) -> None:
        """Finish the file, sync it, and give it its name."""
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.rename(self.path)

    def discard(self) -> None:
        """Leave no file, where writing failed."""
        with contextlib.suppress(OSError, pa.ArrowException):  # it ends the file, which may be what cannot be done
            self._writer.close()
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    """`table` in row groups, in order."""
    if len(table) <= ROWS_AT_ONCE and text_bytes(table) <= TEXT_AT_ONCE:
        yield table
        return
    ends = pc.cumulative_sum(pc.binary_length(table["text"]).cast(pa.int64())).to_numpy()
    start = 0
    while start < len(table):
        before = int(ends[start - 1]) if start else 0
        stop = int(ends.searchsorted(before + TEXT_AT_ONCE, side="right"))
        stop = max(start + 1, min(stop, start + ROWS_AT_ONCE))
        yield table.slice(start, stop - start)
        start = stop


@dataclass(frozen=True)
class _Job:
    index: int
    weight: int
    task: Any


@dataclass(frozen=True)
class _Shard:
    """Making the shards of one task: their records, and the peak memory of the process that made them."""

    name: str
    folder: Path
    work: Work
    schema: pa.Schema
    shard_bytes: int | None

    def __call__(self, job: _Job) -> tuple[list[ShardRecord], int]:
        reset_peak_memory()
        stem = f"{job.index:05d}"
        records = [ShardRecord(f"{stem}.parquet")]
        kept = TableWriter(self.folder / records[0].file, self.schema)
        gone: TableWriter | None = None
        try:
            for batch in self.work(job.task):
                record = records[-1]
                if self.shard_bytes and record.bytes_out >= self.shard_bytes:
                    kept.close()
                    record = ShardRecord(f"{stem}-{len(records):04d}.parquet")
                    records.append(record)
                    kept = TableWriter(self.folder / record.file, self.schema)
                kept.write(batch.kept)
                if batch.dropped is not None and len(batch.dropped):
                    gone = gone or TableWriter(self.folder / "dropped" / f"{stem}.parquet", DROPPED)
                    gone.write(_named(batch.dropped, self.name))
                _count(record, batch)
            kept.close()
            if gone:
                gone.close()
        except BaseException:
            kept.discard()
            if gone:
                gone.discard()
            raise
        write_json(self.folder / f"{stem}.json", [asdict(record) for record in records])
        return records, peak_memory()


def _named(dropped: pa.Table, stage: str) -> pa.Table:
    """Dropped rows with the name of the stage that dropped them."""
    at = dropped.schema.get_field_index("stage")
    return dropped.set_column(at, "stage", pa.array([stage] * len(dropped), pa.string())).cast(DROPPED)


def _count(record: ShardRecord, batch: Batch) -> None:
    record.documents_in += batch.documents_in
    record.documents_out += len(batch.kept)
    record.bytes_in += batch.bytes_in
    record.bytes_out += text_bytes(batch.kept)
    reasons = Counter(batch.dropped["rule"].to_pylist()) if batch.dropped is not None else {}
    for counted, more in ((record.reasons, reasons), (record.counters, batch.counters)):
        for name, count in more.items():
            counted[name] = counted.get(name, 0) + count
