"""The first stage: from the files of the sources to shards of documents, with what cannot be read told and kept apart.

Large files in lines are read in pieces, by several workers; any other file is read by one, into as many shards as it
fills.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pretrain.data.documents import DOCUMENT, DROPPED
from pretrain.data.manifests import BLOCK, checksum, key_of, read_json, write_json
from pretrain.data.sources.reading import HEAD, Limits, Record, Refused, Source, SourceFile, Unreadable, too_large
from pretrain.data.sources.streams import is_address
from pretrain.data.stages import ROWS_AT_ONCE, TEXT_AT_ONCE, Batch, Built, Workspace, build, finished
from pretrain.errors import DataError

VERSION = 2
TASKS = 64  # shards of a corpus, about, where their size is not chosen
SMALLEST_SHARD, LARGEST_SHARD = 4_000_000, 32_000_000  # bytes of text
CHANGES = 2  # times that a file may be caught changing before it is left out


class Found(NamedTuple):
    """A file of a source, and how its content is known.

    Attributes:
        content: its hash, or the source's own fingerprint of it.
        changed: nanoseconds since 1970, when a local file was last written; else 0.
        line_ends: of a file that can be split, the line ends in each of its blocks.
    """

    source_name: str
    source: Source
    file: SourceFile
    content: str
    changed: int
    line_ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class Listing:
    """The files of all sources, in order, with the key of their contents."""

    files: list[Found]
    key: str
    limits: Limits
    shard_bytes: int

    def bytes(self) -> int:
        return sum(found.file.size for found in self.files)


class FileChanged(Exception):
    """A file is no longer what it was when it was listed; collect_sources() takes note and begins anew."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def list_files(
    sources: Mapping[str, Source],
    settings: Mapping[str, Any],
    limits: Limits,
    shard_bytes: int | None,
    data_dir: Path,
    restless: frozenset[str] = frozenset(),
    idle: Callable[[], None] = lambda: None,
) -> Listing:
    """Find all files and hash their contents; hashes of files that have not changed come from a cache in `data_dir`.

    Args:
        settings: the sources' part of the config without the paths, which may differ between machines.
        shard_bytes: text a shard, about; None: by the size of the corpus.
        restless: paths of files that change all the time, which are left out.
        idle: called all the time while files are hashed; it may raise.
    Raises:
        DataError: the sources hold no file.
    """
    cache_file = data_dir / "file_hashes.json"
    cache: dict[str, list[Any]] = read_json(cache_file) or {}
    fresh: dict[str, list[Any]] = {}
    files = []
    for name, source in sources.items():
        for file in source.files():
            if file.path in restless:
                file = dataclasses.replace(file, refusal=("changed", "the file changes while it is read"))
            files.append(_known(name, source, file, cache, fresh, idle))
    if not files:
        raise DataError(f"the corpus is empty: no file in {', '.join(sources) or 'any source'}")
    if any(cache.get(path) != entry for path, entry in fresh.items()):
        data_dir.mkdir(parents=True, exist_ok=True)
        write_json(cache_file, cache | fresh)
    shard_bytes = shard_bytes or size_of_shards(sum(found.file.size for found in files))
    key = key_of(
        settings={"sources": settings, "limits": limits, "shard_bytes": shard_bytes},
        code=VERSION,
        libraries=sorted({library for source in sources.values() for library in source.libraries}),
        inputs=[f"{found.source_name} {found.source.version} {found.file.name} {found.content}" for found in files],
    )
    return Listing(files, key, limits, shard_bytes)


def _known(
    name: str, source: Source, file: SourceFile, cache: dict[str, Any], fresh: dict[str, Any], idle: Callable[[], None]
) -> Found:
    if file.refusal:
        return Found(name, source, file, f"refused: {file.refusal}", 0)
    if file.fingerprint is not None:
        return Found(name, source, file, file.fingerprint, 0)
    path = Path(file.path).absolute()
    line_ends: list[int] = []

    def see(block: bytes) -> None:
        idle()
        if file.splittable:
            line_ends.append(block.count(b"\n"))

    try:
        changed = path.stat().st_mtime_ns
        known = cache.get(str(path), [])
        if known[:2] != [file.size, changed] or file.splittable > (len(known) > 3):
            known = [file.size, changed, checksum(path, file.size, see), *([line_ends] if file.splittable else [])]
    except OSError as error:  # it went away while the corpus was listed, or cannot be read
        refusal = ("unreadable", f"the file cannot be read: {error.strerror}")
        return Found(name, source, dataclasses.replace(file, refusal=refusal), f"refused: {refusal}", 0)
    fresh[str(path)] = known
    return Found(name, source, file, known[2], changed, tuple(known[3]) if file.splittable else ())


def collect_sources(
    sources: Mapping[str, Source],
    settings: Mapping[str, Any],
    limits: Limits,
    shard_bytes: int | None,
    workspace: Workspace,
    name: str = "collect",
) -> Built:
    """List the files of all sources and collect them; one that changes meanwhile is read anew, or at last left out."""
    changes: Counter[str] = Counter()
    while True:
        restless = frozenset(path for path, times in changes.items() if times >= CHANGES)
        idle = workspace.watch.idle
        listing = list_files(sources, settings, limits, shard_bytes, workspace.folder, restless, idle)
        try:
            return collect(listing, workspace, name)
        except FileChanged as error:
            changes[error.path] += 1


def size_of_shards(corpus_bytes: int) -> int:
    """Bytes of text in a shard of a corpus: many shards, so that workers share them well, but none too small."""
    return min(max(corpus_bytes // TASKS, SMALLEST_SHARD), LARGEST_SHARD)


def collect(listing: Listing, workspace: Workspace, name: str = "collect") -> Built:
    """Read all files into shards.

    Raises:
        FileChanged: a file is no longer what was listed.
    """
    done = finished(name, listing.key, workspace)
    if done:
        return done
    tasks: list[tuple[int, list[Found]]] = []
    for found in listing.files:
        for piece in _pieces(found, listing.shard_bytes):
            size = (piece.file.end or piece.file.size) - piece.file.start
            if not tasks or tasks[-1][0] + size > listing.shard_bytes:
                tasks.append((0, []))
            weight, pieces = tasks[-1]
            pieces.append(piece)
            tasks[-1] = (weight + size, pieces)
    return build(name, listing.key, workspace, tasks, _Read(listing.limits), shard_bytes=listing.shard_bytes)


def _pieces(found: Found, size: int) -> Iterator[Found]:
    file = found.file
    if not file.splittable or file.size <= size:
        yield found
        return
    step = max(1, size // BLOCK)
    lines = 0
    for first in range(0, len(found.line_ends), step):
        start, end = first * BLOCK, min((first + step) * BLOCK, file.size)
        piece = dataclasses.replace(file, start=start, end=end, lines_before=lines)
        yield found._replace(file=piece, line_ends=())
        lines += sum(found.line_ends[first : first + step])


def quarantine(built: Built) -> list[dict[str, Any]]:
    """Every record that could not be read: file, line, reason."""
    tables = [pq.read_table(file, columns=["source_id", "value", "reason"]) for file in built.dropped()]
    return [
        {
            "file": row["source_id"],
            "line": None if row["value"] is None else int(row["value"]),
            "reason": row["reason"],
        }
        for table in tables
        for row in table.to_pylist()
    ]


@dataclass
class _Columns:
    """Documents and refused records on their way into a batch."""

    source: str
    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    metas: list[str] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    characters: int = 0

    def full(self) -> bool:
        return len(self.ids) >= ROWS_AT_ONCE or self.characters >= TEXT_AT_ONCE or len(self.refused) >= ROWS_AT_ONCE

    def batch(self, bytes_in: int) -> Batch:
        columns = [self.ids, self.texts, [self.source] * len(self.ids), self.names, self.metas]
        kept = pa.table([pa.array(column, pa.string()) for column in columns], schema=DOCUMENT)
        dropped = pa.Table.from_pylist(self.refused, schema=DROPPED) if self.refused else None
        return Batch(kept, dropped, len(self.ids) + len(self.refused), bytes_in, dict(self.counters))


@dataclass(frozen=True)
class _Read:
    """The work on one shard: the records of some files, or pieces of files."""

    limits: Limits

    def __call__(self, files: list[Found]) -> Iterator[Batch]:
        for found in files:
            yield from self._batches(found)
            _refuse_change(found)

    def _batches(self, found: Found) -> Iterator[Batch]:
        file = found.file
        identity = json.dumps([found.source_name, file.name], ensure_ascii=False)
        unread = (file.end or file.size) - file.start
        columns = _Columns(found.source_name)
        for item in self._records(found):
            if isinstance(item, Record):
                columns.ids.append(xxhash.xxh3_128_hexdigest(f"{identity}{item.position}".encode()))
                columns.texts.append(item.text)
                columns.names.append(item.name)
                columns.metas.append(item.meta)
                columns.characters += len(item.text)
                if item.replaced or item.surrogates:
                    columns.counters["replaced"] += item.replaced + item.surrogates
            else:
                columns.refused.append(_dropped(found, identity, item))
            if columns.full():
                yield columns.batch(bytes_in=unread)
                unread, columns = 0, _Columns(found.source_name)
        yield columns.batch(bytes_in=unread)

    def _records(self, found: Found) -> Iterator[Record | Refused]:
        """What the source reads, with what is too long or no text refused."""
        file, most = found.file, self.limits.document_bytes
        if file.refusal:
            yield Refused(0, *file.refusal)
            return
        position = file.start
        try:
            for item in found.source.read(file, self.limits):
                position = item.position
                if isinstance(item, Refused):
                    yield item
                elif 4 * len(item.text) > most and len(item.text.encode()) > most:
                    yield too_large(position, len(item.text.encode()), self.limits, item.line, item.text[:HEAD])
                elif item.replaced > self.limits.replaced * len(item.text):
                    reason = f"{item.replaced:,} of {len(item.text):,} characters are not text in UTF-8"
                    yield Refused(position, "not_text", reason, item.line, item.text[:HEAD])
                else:
                    yield item
        except Unreadable as error:
            yield Refused(position + 1, error.rule, str(error))
        except (FileNotFoundError, PermissionError) as error:
            raise FileChanged(file.path) from error


def _dropped(found: Found, identity: str, item: Refused) -> dict[str, Any]:
    return {
        "id": xxhash.xxh3_128_hexdigest(f"{identity}{item.position} refused".encode()),
        "source_id": found.file.name,
        "text": item.head,
        "source": found.source_name,
        "rule": item.rule,
        "value": item.line,
        "reason": item.reason,
    }


def _refuse_change(found: Found) -> None:
    """Raise FileChanged where what was read is no longer what was listed; what was appended does not matter."""
    file = found.file
    if file.refusal or file.fingerprint is not None or is_address(file.path):
        return
    path = Path(file.path)
    try:
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) == (file.size, found.changed):
            return
        same = stat.st_size >= file.size and checksum(path, file.size) == found.content
    except OSError:
        same = False
    if not same:
        raise FileChanged(file.path)
