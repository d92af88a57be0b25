"""Running stages over shards of documents: resumable, with a manifest, and everything dropped is kept with its reason.

The result of a stage is a folder `<name>-<key>`: shards `00000.parquet`, what was dropped in `dropped/00000.parquet`,
and a manifest, written when all shards are there. A shard is written under a temporary name and renamed, then its
record (`00000.json`) says that it is done: a killed build goes on with the shards that have none.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.executors import Executor
from pretrain.data.manifests import MANIFEST, key_of, read_json, write_json

ROWS_AT_ONCE = 1024  # documents in a row group of Parquet, the least that a reader of a part must read

Advance = Callable[[int], None]  # told the bytes of text that are done


class Stage(Protocol):
    """A pure function from a batch of documents to those kept and those dropped."""

    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]]

    def __call__(self, documents: pa.Table) -> StageOutput: ...


@runtime_checkable
class CorpusStage(Protocol):
    """A stage that must see the whole corpus: it sketches every shard, then decides from all sketches what goes."""

    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]]
    rule: ClassVar[str]
    threshold: float

    def sketch(self, documents: pa.Table) -> pa.Table: ...

    def resolve(self, sketches: Sequence[Path]) -> pa.Table: ...


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
    quarantined: list[dict[str, Any]] = field(default_factory=list)  # of a source: file, line, reason


@dataclass(frozen=True)
class Built:
    """A finished stage: its folder, its key and the records of its shards."""

    name: str
    key: str
    folder: Path
    shards: list[ShardRecord]
    seconds: float

    def files(self) -> list[Path]:
        return [self.folder / shard.file for shard in self.shards]

    def dropped(self) -> list[Path]:
        return [file for shard in self.shards if (file := self.folder / "dropped" / shard.file).exists()]

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
            "reasons": dict(reasons),
            "counters": dict(counters),
        }


def finished(name: str, key: str, data_dir: Path) -> Built | None:
    """The stage with this key where it is already built, else None."""
    folder = data_dir / "stages" / f"{name}-{key}"
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        return None
    timing = read_json(folder / "timing.json") or {"seconds": 0.0}
    return Built(name, key, folder, [ShardRecord(**shard) for shard in manifest["shards"]], timing["seconds"])


def build(
    name: str,
    key: str,
    data_dir: Path,
    tasks: Sequence[tuple[int, Any]],
    work: Callable[[Path, Any], tuple[pa.Table, pa.Table | None, ShardRecord]],
    executor: Executor,
    advance: Advance,
    started: float | None = None,
) -> Built:
    """Make the shards that are not there yet: `work(folder, task)` gives kept rows, dropped rows and a record.

    Args:
        tasks: (bytes of text, task) for every shard; shard i is made of task i.
        work: a picklable function that gives the same result for the same task.
        advance: told the bytes of each shard that is done.
        started: time.perf_counter() when the work began, where some of it came before.
    """
    started = started or time.perf_counter()
    advance(0)
    folder = data_dir / "stages" / f"{name}-{key}"
    (folder / "dropped").mkdir(parents=True, exist_ok=True)
    records: dict[int, ShardRecord] = {}
    for index, (weight, _) in enumerate(tasks):
        record = read_json(folder / f"{index:05d}.json")
        if record is not None:
            records[index] = ShardRecord(**record)
            advance(weight)
    left = [
        _Job(index, folder, weight, task, work) for index, (weight, task) in enumerate(tasks) if index not in records
    ]
    for job, record in executor.map(_run, left):
        records[job.index] = record
        advance(job.weight)
    shards = [records[index] for index in range(len(tasks))]
    seconds = time.perf_counter() - started
    write_json(folder / "timing.json", {"seconds": seconds})
    write_json(folder / MANIFEST, {"name": name, "key": key, "shards": [asdict(shard) for shard in shards]})
    return Built(name, key, folder, shards, seconds)


def run_stage(
    name: str, settings: dict[str, Any], stage: Any, before: Built, data_dir: Path, executor: Executor, advance: Advance
) -> Built:
    """Run one stage over the shards that `before` left, or find it done.

    Args:
        settings: the stage's part of the config, a piece of its key.
        stage: a Stage or a CorpusStage.
    """
    key = key_of(settings=settings, code=stage.version, libraries=stage.libraries, inputs=[before.key])
    if done := finished(name, key, data_dir):
        return done
    started = time.perf_counter()
    advance(0)
    work: Callable[[Path, Any], tuple[pa.Table, pa.Table | None, ShardRecord]] = _Filter(stage)
    if isinstance(stage, CorpusStage):
        work = _Removal(stage.rule, stage.threshold, _decide(name, key, stage, before, data_dir, executor))
    tasks = [(shard.bytes_out, file) for shard, file in zip(before.shards, before.files(), strict=True)]
    return build(name, key, data_dir, tasks, work, executor, advance, started)


def text_bytes(documents: pa.Table) -> int:
    """UTF-8 bytes of the texts in a table."""
    return int(pa.compute.sum(pa.compute.binary_length(documents["text"])).as_py() or 0)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as zstd Parquet under a temporary name, sync it, and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, row_group_size=ROWS_AT_ONCE, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Job:
    index: int
    folder: Path
    weight: int
    task: Any
    work: Callable[[Path, Any], tuple[pa.Table, pa.Table | None, ShardRecord]]


def _run(job: _Job) -> ShardRecord:
    kept, dropped, record = job.work(job.folder, job.task)
    record.file = f"{job.index:05d}.parquet"
    if dropped is not None and len(dropped):
        name = job.folder.name.rpartition("-")[0]
        at = dropped.schema.get_field_index("stage")
        dropped = dropped.set_column(at, "stage", pa.array([name] * len(dropped), pa.string()))
        write_table(dropped, job.folder / "dropped" / record.file)
    write_table(kept, job.folder / record.file)
    write_json(job.folder / f"{job.index:05d}.json", asdict(record))
    return record


@dataclass(frozen=True)
class _Filter:
    """The work of a Stage on one shard."""

    stage: Stage

    def __call__(self, folder: Path, file: Path) -> tuple[pa.Table, pa.Table, ShardRecord]:
        documents = pq.read_table(file)
        return _recorded(documents, self.stage(documents))


@dataclass(frozen=True)
class _Removal:
    """The work of a CorpusStage on one shard, once it is decided which documents go."""

    rule: str
    threshold: float
    decisions: Path

    def __call__(self, folder: Path, file: Path) -> tuple[pa.Table, pa.Table, ShardRecord]:
        documents = pq.read_table(file)
        rows = pq.read_table(self.decisions).to_pylist()
        drops = {
            row["id"]: Drop(
                self.rule, row["value"], self.threshold, f"repeats document {row['survivor']}", row["survivor"]
            )
            for row in rows
        }
        return _recorded(documents, partition(documents, [drops.get(name) for name in documents["id"].to_pylist()]))


@dataclass(frozen=True)
class _Sketch:
    stage: CorpusStage
    folder: Path

    def __call__(self, task: tuple[int, Path]) -> None:
        index, file = task
        write_table(self.stage.sketch(pq.read_table(file)), self.folder / f"{index:05d}.parquet")


def _decide(name: str, key: str, stage: CorpusStage, before: Built, data_dir: Path, executor: Executor) -> Path:
    """Sketch every shard, and write down which documents go."""
    folder = data_dir / "stages" / f"{name}-{key}" / "sketches"
    folder.mkdir(parents=True, exist_ok=True)
    decisions = folder / "decisions.parquet"
    if not decisions.exists():
        files = list(enumerate(before.files()))
        left = [task for task in files if not (folder / f"{task[0]:05d}.parquet").exists()]
        _exhaust(executor.map(_Sketch(stage, folder), left))
        write_table(stage.resolve([folder / f"{index:05d}.parquet" for index, _ in files]), decisions)
    return decisions


def _recorded(documents: pa.Table, output: StageOutput) -> tuple[pa.Table, pa.Table, ShardRecord]:
    record = ShardRecord(
        file="",
        documents_in=len(documents),
        documents_out=len(output.kept),
        bytes_in=text_bytes(documents),
        bytes_out=text_bytes(output.kept),
        reasons=dict(sorted(Counter(output.dropped["rule"].to_pylist()).items())),
        counters=output.counters,
    )
    return output.kept, output.dropped, record


def _exhaust(results: Iterable[Any]) -> None:
    for _ in results:
        pass
