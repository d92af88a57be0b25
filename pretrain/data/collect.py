"""The first stage: from the files of the sources to shards of documents."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from pretrain.data.documents import DOCUMENT
from pretrain.data.executors import Executor
from pretrain.data.manifests import checksum, key_of, read_json, write_json
from pretrain.data.sources.reading import Source, SourceFile
from pretrain.data.stages import Advance, Built, ShardRecord, build, finished, text_bytes
from pretrain.errors import DataError


@dataclass(frozen=True)
class Listing:
    """The files of all sources, by name of the source, with the key of their contents.

    Attributes:
        files: (source's name, source, file, bytes), in order.
    """

    files: list[tuple[str, Source, SourceFile, int]]
    key: str

    def bytes(self) -> int:
        return sum(size for *_, size in self.files)


def list_files(sources: Mapping[str, Source], settings: Mapping[str, Any], shard_bytes: int, data_dir: Path) -> Listing:
    """Find all files and hash their contents; hashes of files that have not changed come from a cache in `data_dir`.

    Args:
        settings: the sources' part of the config without the paths, which may differ between machines.
    Raises:
        DataError: the sources hold no file.
    """
    found = [(name, source, file, file.path.stat()) for name, source in sources.items() for file in source.files()]
    files = [(name, source, file, stat.st_size) for name, source, file, stat in found]
    if not files:
        raise DataError(f"the corpus is empty: no file in {', '.join(sources) or 'any source'}")
    cache_file = data_dir / "file_hashes.json"
    cache: dict[str, list[Any]] = read_json(cache_file) or {}
    inputs, fresh = [], {}
    for name, source, file, stat in found:
        path = str(file.path.absolute())
        seen = [stat.st_size, stat.st_mtime_ns]
        known = cache.get(path, [])
        fresh[path] = known if known[:2] == seen else [*seen, checksum(file.path)]
        inputs.append(f"{name} {source.version} {file.name} {fresh[path][2]}")
    if any(cache.get(path) != entry for path, entry in fresh.items()):
        data_dir.mkdir(parents=True, exist_ok=True)
        write_json(cache_file, cache | fresh)
    key = key_of(settings={"sources": settings, "shard_bytes": shard_bytes}, code=1, inputs=inputs)
    return Listing(files, key)


def collect(
    listing: Listing, shard_bytes: int, data_dir: Path, executor: Executor, advance: Advance, name: str = "collect"
) -> Built:
    """Read all files into shards of about `shard_bytes`, a file never being split."""
    if done := finished(name, listing.key, data_dir):
        return done
    tasks: list[tuple[int, list[tuple[str, Source, SourceFile]]]] = []
    for source_name, source, file, size in listing.files:
        if not tasks or tasks[-1][0] + size > shard_bytes:
            tasks.append((0, []))
        weight, files = tasks[-1]
        tasks[-1] = (weight + size, [*files, (source_name, source, file)])
    return build(name, listing.key, data_dir, tasks, _read, executor, advance)


def _read(folder: Path, files: list[tuple[str, Source, SourceFile]]) -> tuple[pa.Table, None, ShardRecord]:
    """One shard: the records of `files`; what cannot be read is quarantined with file, line and reason."""
    rows: list[dict[str, str]] = []
    record = ShardRecord(file="")
    for source_name, source, file in files:
        for position, found in enumerate(source.read(file)):
            record.documents_in += 1
            if found.reason is not None:
                record.quarantined.append({"file": file.name, "line": found.line, "reason": found.reason})
                continue
            identity = json.dumps([source_name, file.name, position], ensure_ascii=False)
            rows.append(
                {
                    "id": xxhash.xxh3_128_hexdigest(identity.encode()),
                    "text": found.text,
                    "source": source_name,
                    "source_id": found.name,
                    "meta": found.meta,
                }
            )
            if found.replaced:
                record.counters["replaced"] = record.counters.get("replaced", 0) + found.replaced
    table = pa.Table.from_pylist(rows, schema=DOCUMENT)
    record.documents_out = len(table)
    record.bytes_in = sum(file.path.stat().st_size for _, _, file in files)
    record.bytes_out = text_bytes(table)
    if record.quarantined:
        record.reasons["quarantined"] = len(record.quarantined)
    return table, None, record


def quarantine(built: Built) -> list[dict[str, Any]]:
    """Every record that could not be read: file, line, reason."""
    return [entry for shard in built.shards for entry in shard.quarantined]
