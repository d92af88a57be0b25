"""Train and validation, and the order of documents: both by a hash of the text, so that copies never part.

Every text gets a place in [0, 2^62) by its hash, keyed with the seed. The lowest places are validation, and the order
of places is the shuffle. The first pass writes each shard's documents with their places, the second gathers a range of
places from all shards: nothing global is held in memory.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pretrain.data.documents import DOCUMENT
from pretrain.data.manifests import key_of
from pretrain.data.stages import Batch, Built, Workspace, build, finished, shard_tasks, text_bytes
from pretrain.errors import DataError

VERSION = 3
SOURCE = "bytes of "  # a counter for each source, of its text
PLACES = 2**62  # so that every bound fits into int64
PLACED = DOCUMENT.append(pa.field("place", pa.int64()))


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
    return finished(name, key, workspace) or build(
        name, key, workspace, shard_tasks(before), _Place(seed), schema=PLACED
    )


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
    low, high = where.side(name)
    cut = where.cut if name == "train" else -where.cut
    tasks = []
    for source, total in _sources(placed).items():
        size = int(total * where.share(name))
        shards = 1 + size // shard_bytes
        edges = [low + (high - low) * i // shards for i in range(shards + 1)]
        sizes = [(size + i) // shards for i in range(shards)]  # they add up to size
        for part, edge in zip(sizes, pairwise(edges), strict=True):
            tasks.append((part, _Range(tuple(placed.files()), *edge, cut, source)))
    return build(name, key, workspace, tasks, _gather)


@dataclass(frozen=True)
class _Place:
    """The work of the first pass on one shard."""

    seed: int

    def __call__(self, file: Path) -> Iterator[Batch]:
        documents = pq.read_table(file)
        texts = documents["text"].to_pylist()
        hashes = np.array([xxhash.xxh3_64_intdigest(text.encode(), self.seed) for text in texts], np.uint64)
        places = (hashes >> np.uint64(2)).astype(np.int64)
        placed = documents.append_column("place", pa.array(places)).sort_by([("place", "ascending")])
        counters = {"lowest": int(places.min()), "highest": int(places.max())} if len(places) else {}
        for source in documents["source"].unique().to_pylist():
            counters[SOURCE + source] = text_bytes(documents.filter(pc.equal(documents["source"], source)))
        yield Batch(placed, None, len(documents), text_bytes(documents), counters)


def _sources(placed: Built) -> dict[str, int]:
    """The sources of the documents, by name, with the bytes of their text."""
    sizes: Counter[str] = Counter()
    for shard in placed.shards:
        sizes.update({name: size for name, size in shard.counters.items() if name.startswith(SOURCE)})
    return {name.removeprefix(SOURCE): sizes[name] for name in sorted(sizes)}


@dataclass(frozen=True)
class _Range:
    files: tuple[Path, ...]
    start: int
    end: int
    cut: float  # above 0: keep what stands before the last share `cut` of each text; below 0: keep that share
    source: str


def _gather(task: _Range) -> Iterator[Batch]:
    tables = [_between(file, task) for file in task.files]
    documents = pa.concat_tables(tables).sort_by([("place", "ascending"), ("id", "ascending")]).drop_columns("place")
    if task.cut:
        texts = [_cut(text, task.cut) for text in documents["text"].to_pylist()]
        at = documents.schema.get_field_index("text")
        documents = documents.set_column(at, "text", pa.array(texts, pa.string()))
    yield Batch(documents, None, len(documents), text_bytes(documents), {})


def _between(file: Path, task: _Range) -> pa.Table:
    """The documents of a placed shard that belong to `task`, reading only the row groups that may hold some."""
    source = pq.ParquetFile(file)
    at = source.schema_arrow.get_field_index("place")
    statistics = [source.metadata.row_group(group).column(at).statistics for group in range(source.num_row_groups)]
    groups = [
        group for group, place in enumerate(statistics) if place and place.max >= task.start and place.min < task.end
    ]
    documents = source.read_row_groups(groups)
    first, last = np.searchsorted(documents["place"].to_numpy(), [task.start, task.end])
    documents = documents.slice(first, last - first)
    return documents.filter(pc.equal(documents["source"], task.source))


def _cut(text: str, share: float) -> str:
    border = int(len(text) * (1 - abs(share)))
    return text[:border] if share > 0 else text[border:]
