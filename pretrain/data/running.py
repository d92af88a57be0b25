"""Running a stage: on each document by itself, or on the whole corpus in passes over hash-partitioned files.

A stage that must see the whole corpus sketches every shard: keys, by which documents meet, sorted into partitions of
the keys' space. Each partition is then read from all shards and linked by itself. Links that go on through others are
brought together in clusters, block by block; then every shard is read again, and the links to its documents are applied
to them. Nothing that is global has to fit into one process, but 16 bytes a document in files mapped into memory.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pretrain.data.dedup.clusters import join, own_parents, roots
from pretrain.data.documents import LINK, Details, StageOutput
from pretrain.data.manifests import key_of
from pretrain.data.memory import peak_memory, reset_peak_memory
from pretrain.data.sketches import Sketches, partition_of, read_batch, read_batches, write_batches
from pretrain.data.stages import Batch, Built, Workspace, add_cost, build, finished, row_groups, shard_tasks, text_bytes

PARTITION_BYTES = 250_000_000  # text of the corpus for which there is one partition of the keys' space
LINKS_AT_ONCE = 1 << 20  # links that are joined to clusters at the same time
SKETCHES = "sketches"  # the folder of what is only needed until a stage is built


class Stage(Protocol):
    """A pure function from a batch of documents to those kept and those dropped, each document judged by itself."""

    version: ClassVar[int]

    @property
    def libraries(self) -> tuple[str, ...]: ...

    def __call__(self, documents: pa.Table) -> StageOutput: ...


@runtime_checkable
class CorpusStage(Protocol):
    """A stage that must see the whole corpus: what it makes of a document depends on the documents linked with it.

    Attributes:
        transitive: documents linked through others belong together too: each link that `apply` is given leads to the
            first document of the cluster. Otherwise it is given the links as they were found.
    """

    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]]
    transitive: ClassVar[bool]

    def sketch(self, documents: pa.Table) -> tuple[pa.Table, pa.Array | None]:
        """Keys and details of a batch of documents.

        Returns:
            a table with the columns `row` (of the batch, int64, ascending), `key` (uint64, spread evenly) and what else
            the links depend on; and, for each document, what decides whether two that share a key belong together.
        """
        ...

    def link(self, keys: pa.Table, details: Details) -> pa.Table:
        """The links between documents that share a key: the columns of LINK, and what else `apply` depends on.

        Args:
            keys: some of the keys' space, all of it that shares a key; `document`, ascending, is the place in
                the corpus.
        Returns:
            links from `one`, which stays, to `other`, an earlier to a later document.
        """
        ...

    def apply(self, documents: pa.Table, found: pa.Table) -> StageOutput:
        """What becomes of a batch of documents.

        Args:
            found: the links to them, by `row` of the batch and then by the place of the document that stays: `survivor`
                (its id) and the links' columns. Where links are transitive, there is one to each document, and `value`
                is the highest of all that it has.
        """
        ...


def run_stage(name: str, settings: dict[str, Any], stage: Stage | CorpusStage, before: Built, at: Workspace) -> Built:
    """Run one stage over the shards that `before` left, or find it done.

    Args:
        settings: the stage's part of the config, a piece of its key.
    """
    key = key_of(settings=settings, code=stage.version, libraries=stage.libraries, inputs=[before.key])
    folder = at.folder / "stages" / f"{name}-{key}"
    done = finished(name, key, at)
    if done is None and not isinstance(stage, CorpusStage):
        return build(name, key, at, shard_tasks(before), _Filter(stage))
    if done is None:
        assert isinstance(stage, CorpusStage)
        applied = _Application(stage, *_linked(name, folder, stage, before, at))
        tasks = [(weight, (index, file)) for index, (weight, file) in enumerate(shard_tasks(before))]
        done = build(name, key, at, tasks, applied)
    _forget(folder)
    return done


@dataclass(frozen=True)
class _Filter:
    """The work of a Stage on one shard."""

    stage: Stage

    def __call__(self, file: Path) -> Iterator[Batch]:
        for documents in row_groups(file):
            output = self.stage(documents)
            yield Batch(output.kept, output.dropped, len(documents), text_bytes(documents), output.counters)


@dataclass(frozen=True)
class _Application:
    """The work of a CorpusStage on one shard, once all links are known."""

    stage: CorpusStage
    sketches: Sketches
    links: list[Path]

    def __call__(self, task: tuple[int, Path]) -> Iterator[Batch]:
        index, file = task
        found = pa.concat_tables([read_batch(path, index) for path in self.links])
        order = np.lexsort((found["one"].to_numpy(), found["other"].to_numpy()))
        found = found.take(pa.array(order))
        rows = found["other"].to_numpy() - self.sketches.starts[index]
        found = found.append_column("survivor", self.sketches.ids(found["one"].to_numpy()))
        start = 0
        for documents in row_groups(file):
            low, high = np.searchsorted(rows, [start, start + len(documents)]).tolist()
            here = found.slice(low, high - low).append_column("row", pa.array(rows[low:high] - start))
            output = self.stage.apply(documents, here)
            yield Batch(output.kept, output.dropped, len(documents), text_bytes(documents), output.counters)
            start += len(documents)


def _linked(name: str, folder: Path, stage: CorpusStage, before: Built, at: Workspace) -> tuple[Sketches, list[Path]]:
    """Sketch every shard and link every partition, as far as that is not done.

    Returns:
        the sketches, of which only the ids are left; and the files of the links.
    """
    started = time.perf_counter()
    partitions = 1 + before.total("bytes_out") // PARTITION_BYTES
    starts = np.cumsum([0, *(shard.documents_out for shard in before.shards)])
    sketches = Sketches(folder / SKETCHES, starts, partitions)
    sketches.folder.mkdir(parents=True, exist_ok=True)
    parts = [sketches.path(part, "links") for part in range(partitions)]
    links = [sketches.folder / "links"] if stage.transitive else parts
    weights = [shard.bytes_out for shard in before.shards]
    label = f"{name}: compare"
    at.watch.begin(label, sum(weights))
    if all(path.exists() for path in links):
        at.watch.done(label, sum(weights), [])
        return sketches, links
    peak = 0
    shards = list(enumerate(before.files()))
    left = [(index, file) for index, file in shards if not sketches.path(index, "keys").exists()]
    for index in set(range(len(shards))) - {index for index, _ in left}:
        at.watch.done(label, weights[index], [])
    for (index, _), memory in at.executor.map(_Sketch(stage, sketches), left, at.watch.idle):
        peak = max(peak, memory)
        at.watch.done(label, weights[index], [])
    unlinked = [part for part, path in enumerate(parts) if not path.exists()]
    for _, memory in at.executor.map(_Link(stage, sketches), unlinked, at.watch.idle):
        peak = max(peak, memory)
    if stage.transitive:
        reset_peak_memory()
        _write_clusters(links[0], parts, sketches, at)
        peak = max(peak, peak_memory())
    add_cost(folder, time.perf_counter() - started, peak)
    for path in sketches.folder.iterdir():  # what is left of the keys, and a worker whose driver was killed may write
        if path not in links and path.suffix != ".ids" and not path.name.startswith("."):
            path.unlink(missing_ok=True)
    return sketches, links


def _forget(folder: Path) -> None:
    """Remove what was only needed while the stage in `folder` was built.

    A worker whose driver was killed may still write there. It cannot after the folder has another name.
    """
    old = folder / ".sketches.old"
    if (folder / SKETCHES).exists():
        shutil.rmtree(old, ignore_errors=True)
        (folder / SKETCHES).rename(old)
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class _Sketch:
    """Writes the keys of a shard, and the details and ids of its documents."""

    stage: CorpusStage
    sketches: Sketches

    def __call__(self, task: tuple[int, Path]) -> int:
        reset_peak_memory()
        index, file = task
        keys: list[pa.Table] = []
        ids: list[pa.ChunkedArray] = []
        write_batches(self.sketches.path(index, "details"), self._details(file, keys, ids))
        names = pa.concat_arrays([pa.array([], pa.string()), *(chunk for some in ids for chunk in some.chunks)])
        write_batches(self.sketches.path(index, "ids"), [pa.record_batch({"id": names})])
        write_batches(self.sketches.path(index, "keys"), self._parted(pa.concat_tables(keys)) if keys else [])
        return peak_memory()

    def _details(self, file: Path, keys: list[pa.Table], ids: list[pa.ChunkedArray]) -> Iterator[pa.RecordBatch]:
        """Sketches a shard: gives the details, and adds keys and ids to the lists."""
        start = 0
        for documents in row_groups(file):
            found, details = self.stage.sketch(documents)
            at = found.schema.get_field_index("row")
            keys.append(found.set_column(at, "row", pc.add(found["row"], start).cast(pa.uint32())))
            ids.append(documents["id"])
            if details is not None:
                yield pa.record_batch({"details": details})
            start += len(documents)

    def _parted(self, keys: pa.Table) -> Iterator[pa.RecordBatch]:
        partitions = self.sketches.partitions
        parts = partition_of(keys["key"].to_numpy(), partitions)
        order = np.argsort(parts, kind="stable")
        keys = keys.take(pa.array(order)).combine_chunks()
        edges = np.searchsorted(parts[order], np.arange(partitions + 1))
        whole = keys.to_batches()[0] if len(keys) else pa.RecordBatch.from_pylist([], schema=keys.schema)
        for start, end in pairwise(edges):
            yield whole.slice(start, end - start)


@dataclass(frozen=True)
class _Link:
    """Links the documents whose keys fall into one partition."""

    stage: CorpusStage
    sketches: Sketches

    def __call__(self, part: int) -> int:
        reset_peak_memory()
        links = [self.stage.link(keys, self.sketches.details) for keys in self.sketches.keys(part)]
        self.sketches.write_links(self.sketches.path(part, "links"), pa.concat_tables(links or [LINK.empty_table()]))
        return peak_memory()


def _write_clusters(path: Path, parts: list[Path], sketches: Sketches, at: Workspace) -> None:
    """Bring the links of all partitions together: of each cluster, one from its first document to each other one."""
    documents = int(sketches.starts[-1])
    parents = own_parents(sketches.folder / "parents", documents)
    closest = np.memmap(sketches.folder / "closest", np.float64, "w+", shape=(max(1, documents),))
    for part in parts:
        links = pa.Table.from_batches(read_batches(part), LINK)
        for start in range(0, len(links), LINKS_AT_ONCE):
            at.watch.idle()
            one, other, value = (links[name].slice(start, LINKS_AT_ONCE).to_numpy() for name in LINK.names)
            join(parents, one, other)
            for ends in (one, other):
                np.maximum.at(closest, ends, value)

    def batches() -> Iterator[pa.RecordBatch]:
        for start, end in pairwise(sketches.starts.tolist()):
            here = np.arange(start, end)
            firsts = roots(parents, here)
            gone = firsts != here
            yield pa.record_batch([firsts[gone], here[gone], closest[start:end][gone]], schema=LINK)

    write_batches(path, batches(), LINK)
