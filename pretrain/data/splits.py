"""Train and validation, and the order of documents: both by a hash of the text, so that copies never part.

Every text gets a place in [0, 2^62) by its hash, keyed with the seed. The lowest places are validation, and the order
of places is the shuffle; documents of the same place follow each other as in the corpus. Since a place knows nothing of
the source, each source gives about the same share of its documents to validation.

The first pass sorts pieces of the corpus by place, in row groups that end where a range of places does. The second
gathers a range from all pieces, so that it reads each row group once; copies of a text that are too many to be held
follow from one piece after the other. Nothing global is held in memory.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from pretrain.data.documents import DOCUMENT
from pretrain.data.manifests import key_of
from pretrain.data.stages import ROWS_AT_ONCE, TEXT_AT_ONCE, Batch, Built, Workspace, build, finished, text_bytes
from pretrain.errors import DataError

VERSION = 4
SOURCE = "bytes of "  # a counter for each source, of its text
PLACES = 2**62  # so that every bound fits into int64
PLACED = DOCUMENT.append(pa.field("place", pa.int64()))
PIECES = 64  # of the corpus, about, that are sorted and gathered each by a worker
SMALLEST_PIECE, LARGEST_PIECE = 4_000_000, 64_000_000  # bytes of text in one
CROWD = 1_000_000  # bytes of copies of one text in a piece, from which on they are never held with other texts


@dataclass(frozen=True)
class Ranges:
    """Which places are validation, [0, border), and which are training, [border, PLACES).

    Attributes:
        cut: the share of each text's end that is validation instead, for a corpus that is one text; else 0.
    """

    border: int
    cut: float = 0.0

    def share(self, name: str) -> float:
        """The share of the places, and so about of the text, that `train` or `validation` has."""
        low, high = self.side(name)
        return (high - low) / PLACES

    def side(self, name: str) -> tuple[int, int]:
        """The places of `train` or `validation`: [low, high)."""
        if self.cut:
            return 0, PLACES
        return (0, self.border) if name == "validation" else (self.border, PLACES)


ALL_TRAINING = Ranges(0)
ALL_VALIDATION = Ranges(PLACES)


def place_documents(before: Built, *, seed: int, workspace: Workspace, name: str = "shuffle") -> Built:
    """The documents of `before`, each shard sorted by place.

    Raises:
        DataError: no document is left.
    """
    if not before.total("documents_out"):
        raise DataError("nothing is left of the corpus: the stages before dropped every document")
    key = key_of(settings={"seed": seed}, code=VERSION, inputs=[before.key])
    if done := finished(name, key, workspace):
        return done
    piece = _piece_bytes(before)
    tasks: list[tuple[int, tuple[Path, ...]]] = []
    for shard, file in zip(before.shards, before.files(), strict=True):
        if not tasks or tasks[-1][0] + shard.bytes_out > piece:
            tasks.append((0, ()))
        weight, files = tasks[-1]
        tasks[-1] = (weight + shard.bytes_out, (*files, file))
    work = _Place(seed, _buckets(before.total("bytes_out"), piece))
    return build(name, key, workspace, tasks, work, schema=PLACED)


def ranges(placed: Built, fraction: float) -> Ranges:
    """Where validation ends: at `fraction` of the places, or behind the first document where that splits none off."""
    lowest = min(shard.counters["lowest"] for shard in placed.shards if shard.documents_out)
    highest = max(shard.counters["highest"] for shard in placed.shards if shard.documents_out)
    if lowest == highest:
        return Ranges(0, cut=fraction)
    border = int(fraction * PLACES)
    return Ranges(border if lowest < border <= highest else lowest + 1)


def gather(placed: Built, name: str, where: Ranges, *, shard_bytes: int, workspace: Workspace) -> Built:
    """The documents of one side, `train` or `validation`: source after source, each in the order of its places."""
    settings = {"side": name, "border": where.border, "cut": where.cut, "shard_bytes": shard_bytes}
    key = key_of(settings=settings, code=VERSION, inputs=[placed.key])
    if done := finished(name, key, workspace):
        return done
    cut = where.cut if name == "train" else -where.cut
    piece = _piece_bytes(placed)
    buckets = _buckets(placed.total("bytes_out"), piece)
    tasks = []
    for source, total in _sources(placed).items():
        size = int(total * where.share(name))
        edges = _edges(*where.side(name), buckets, size // piece + 1)
        so_far = [size * (edge - edges[0]) // (edges[-1] - edges[0] or 1) for edge in edges]
        for (start, end), (before, after) in zip(pairwise(edges), pairwise(so_far), strict=True):
            range_ = _Range(tuple(placed.files()), start, end, cut, source, min(1 + shard_bytes // 4, TEXT_AT_ONCE))
            tasks.append((after - before, range_))
    return build(name, key, workspace, tasks, _gather, shard_bytes=shard_bytes)


@dataclass(frozen=True)
class _Place:
    """The work of the first pass on a piece of the corpus: its documents by source and place.

    Attributes:
        buckets: equal ranges of places, whose documents never share a row group.
    """

    seed: int
    buckets: int

    def __call__(self, files: Sequence[Path]) -> Iterator[Batch]:
        documents = pa.concat_tables([pq.read_table(file) for file in files]).combine_chunks()
        bytes_in = text_bytes(documents)
        places = self._places(documents["text"])
        names = pc.dictionary_encode(documents["source"].combine_chunks())
        sources = names.indices.to_numpy()
        sizes = _sizes(documents)
        counters = {"lowest": int(places.min()), "highest": int(places.max())} if len(places) else {}
        for number, source in enumerate(names.dictionary.to_pylist()):
            counters[SOURCE + source] = int(sizes[sources == number].sum())
        order = np.lexsort((places, sources))
        documents = documents.append_column("place", pa.array(places))
        left = (len(documents), bytes_in, counters)
        for rows in _cut_between(order, self._groups(sources[order], places[order], sizes[order])):
            yield Batch(documents.take(pa.array(rows)), None, *left)
            left = (0, 0, {})

    def _places(self, texts: pa.ChunkedArray) -> NDArray[np.int64]:
        hashes = (xxhash.xxh3_64_intdigest(text.as_py().encode(), self.seed) for text in texts)
        return (np.fromiter(hashes, np.uint64, len(texts)) >> np.uint64(2)).astype(np.int64)

    def _groups(
        self, sources: NDArray[np.int32], places: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """(N,) whether each document, in order, begins a row group, but for those that end by their size."""
        border = np.append(True, (np.diff(sources) != 0) | (np.diff(places // _width(self.buckets)) != 0))[
            : len(places)
        ]
        copy = np.append(False, (np.diff(sources) == 0) & (np.diff(places) == 0))[: len(places)]
        first = np.flatnonzero(~copy)
        crowds = first[np.add.reduceat(sizes, first) >= CROWD] if len(first) else first
        behind = np.append(first, len(places))[np.searchsorted(first, crowds) + 1]
        border[crowds] = True
        border[behind[behind < len(places)]] = True
        return border


def _piece_bytes(before: Built) -> int:
    """Bytes of text that a worker sorts, or gathers, at once."""
    return min(max(before.total("bytes_out") // PIECES, SMALLEST_PIECE), LARGEST_PIECE)


def _buckets(total: int, piece: int) -> int:
    return 1 + total // piece


def _width(buckets: int) -> int:
    """How many places a bucket has."""
    return -(-PLACES // buckets)


def _edges(low: int, high: int, buckets: int, pieces: int) -> list[int]:
    """Where ranges of whole buckets, but for the ends, begin, and where the last one ends; about `pieces` of them."""
    width = _width(buckets)
    first, last = -(-(low + 1) // width), (high - 1) // width
    step = max(1, round((last - first + 2) / pieces))
    return [low, *(bucket * width for bucket in range(first + step - 1, last + 1, step)), high]


def _sizes(documents: pa.Table) -> NDArray[np.int64]:
    """(N,) bytes of the text of each document."""
    sizes: NDArray[np.int64] = pc.binary_length(documents["text"]).to_numpy().astype(np.int64)
    return sizes


def _cut_between(rows: NDArray[np.int64], begins: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """`rows` cut before each that begins a group; one empty group where there are none."""
    return np.split(rows, np.flatnonzero(begins)[1:])


def _sources(placed: Built) -> dict[str, int]:
    """The sources of the documents, by name, with the bytes of their text."""
    sizes: Counter[str] = Counter()
    for shard in placed.shards:
        sizes.update({name: size for name, size in shard.counters.items() if name.startswith(SOURCE)})
    return {name.removeprefix(SOURCE): sizes[name] for name in sorted(sizes)}


@dataclass(frozen=True)
class _Range:
    """Documents of `source` whose places are in [start, end), from all placed shards.

    Attributes:
        cut: above 0: keep what stands before the last share `cut` of each text; below 0: keep that share.
        at_once: bytes of text that are handed on together, about.
    """

    files: tuple[Path, ...]
    start: int
    end: int
    cut: float
    source: str
    at_once: int


def _gather(task: _Range) -> Iterator[Batch]:
    """The documents of a range by place, and those of the same place as in the corpus."""
    tables, at = [], []
    crowds: list[tuple[int, int, _Group]] = []
    for number, file in enumerate(task.files):
        source = pq.ParquetFile(file)
        mixed: list[tuple[int, int, _Group]] = []
        for group in _groups_between(source, task):
            (crowds if group.crowd else mixed).append((group.lowest, (number << 32) + group.number, group))
        documents = source.read_row_groups([group.number for *_, group in mixed])
        chosen = _chosen(documents, task)
        tables.append(documents.filter(pa.array(chosen)))
        rows = [group.rows for *_, group in mixed]
        at.append(np.repeat(np.array([where for _, where, _ in mixed], np.int64), rows)[chosen])
    documents = pa.concat_tables(tables)
    places, where = documents["place"].to_numpy(), np.concatenate(at)  # where: file and row group
    order = np.argsort(places, kind="stable")
    places, where, start = places[order], where[order], 0
    for place, here, group in sorted(crowds, key=lambda crowd: crowd[:2]):
        first, behind = np.searchsorted(places, [place, place + 1])
        stop = first + int(np.searchsorted(where[first:behind], here))
        yield from _handed_on(documents, order[start:stop], task)
        start = stop
        crowd = pq.ParquetFile(task.files[here >> 32]).read_row_group(group.number)
        yield from _handed_on(crowd, np.flatnonzero(_chosen(crowd, task)), task)
    yield from _handed_on(documents, order[start:], task)


class _Group(NamedTuple):
    """A row group of a placed shard.

    Attributes:
        crowd: whether it holds copies of one text alone, and so many that they are handed on by themselves.
    """

    number: int
    rows: int
    lowest: int
    crowd: bool


def _groups_between(source: pq.ParquetFile, task: _Range) -> Iterator[_Group]:
    """The row groups of a placed shard that may hold some of the range."""
    names = source.schema_arrow.names
    for number in range(source.num_row_groups):
        group = source.metadata.row_group(number)
        place = group.column(names.index("place")).statistics
        if place and place.max >= task.start and place.min < task.end:
            many = group.num_rows == ROWS_AT_ONCE
            large = group.column(names.index("text")).total_uncompressed_size >= CROWD
            yield _Group(number, group.num_rows, place.min, place.min == place.max and (many or large))


def _chosen(documents: pa.Table, task: _Range) -> NDArray[np.bool_]:
    """(N,) whether each document belongs to the range."""
    places = documents["place"].to_numpy()
    of_source = pc.equal(documents["source"], task.source).to_numpy()
    chosen: NDArray[np.bool_] = (places >= task.start) & (places < task.end) & of_source
    return chosen


def _handed_on(documents: pa.Table, rows: NDArray[np.int64], task: _Range) -> Iterator[Batch]:
    """Some rows, a few at a time, with their texts cut where the task says so."""
    part = np.cumsum(_sizes(documents)[rows]) // task.at_once
    for some in _cut_between(rows, np.append(True, np.diff(part) > 0)[: len(rows)]):
        kept = _taken(documents, some).drop_columns("place")
        if task.cut:
            texts = [_cut(text, task.cut) for text in kept["text"].to_pylist()]
            kept = kept.set_column(kept.schema.get_field_index("text"), "text", pa.array(texts, pa.string()))
        yield Batch(kept, None, len(kept), text_bytes(kept), {})


def _taken(documents: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Some rows of a table of many chunks, which alone are copied: `take` would first join all chunks to one."""
    ascending = np.sort(rows)
    begins = np.flatnonzero(np.append(True, np.diff(ascending) > 1)[: len(rows)])
    lengths = np.diff(np.append(begins, len(rows)))
    runs = zip(ascending[begins].tolist(), lengths.tolist(), strict=True)
    some = pa.concat_tables([documents.slice(start, length) for start, length in runs] or [documents.slice(0, 0)])
    return some.combine_chunks().take(pa.array(np.searchsorted(ascending, rows)))


def _cut(text: str, share: float) -> str:
    border = int(len(text) * (1 - abs(share)))
    return text[:border] if share > 0 else text[border:]
