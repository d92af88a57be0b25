"""Token shards: what training reads.

A shard is a file of little-endian uint16 or uint32 ids and, beside it, the document index: little-endian uint64
positions at which its documents start. The shards of a split, joined, are the stream EOT doc EOT doc ... EOT. The
manifest holds checksums, sizes, and the hash of the tokenizer.
"""

import json
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pretrain.data.manifests import MANIFEST, checksum, read_json, temporary_name, write_json
from pretrain.errors import DataError
from pretrain.tokenizers.tokenizer import dtype_of

VERSION = 3
MOST_OPEN_FILES = 1024  # kept open by a stream, or a quarter of what the system allows a process


@dataclass(slots=True)
class TokenShard:
    """One file of tokens, and what the text in it measures, 0 where only its tokens are known."""

    file: str
    checksum: str
    tokens: int
    documents: int
    bytes: int  # UTF-8
    characters: int
    words: int  # separated by white space
    source: str  # the one that all its documents come from
    index_checksum: str = ""  # of the document index; empty where there is none


class ShardWriter:
    """Write one shard and its document index, document after document.

    Args:
        name: of the files, without suffix.
        vocab_size: ids; a document with others is refused.
        source: the one that all documents come from.
    """

    def __init__(self, folder: Path, name: str, *, vocab_size: int, end_of_text: int, source: str = "") -> None:
        self.shard = TokenShard(f"{name}.bin", "", 0, 0, 0, 0, 0, source)
        self._path = folder / self.shard.file
        self._temporary = temporary_name(self._path)
        self._file = self._temporary.open("wb")
        self._dtype = shard_dtype(vocab_size)
        self._vocab_size = vocab_size
        self._end_of_text = np.array([end_of_text], self._dtype)
        self._starts: list[NDArray[np.uint64]] = []

    def write(self, names: Sequence[str], documents: Sequence[NDArray[np.integer]]) -> None:
        """Write documents (length,), ends of text aside.

        Raises:
            DataError: an id is outside the vocabulary; the message has the document's name.
        """
        joined = np.concatenate([piece for document in documents for piece in (self._end_of_text, document)])
        if joined.max() >= self._vocab_size or joined.min() < 0:
            for name, document in zip(names, documents, strict=True):
                self._refuse_other_ids(name, document)
        ends = self.shard.tokens + np.cumsum([1 + len(document) for document in documents], dtype=np.uint64)
        self._starts.append(np.concatenate([np.array([self.shard.tokens], np.uint64), ends[:-1]]))
        self._file.write(joined.astype(self._dtype, copy=False).data)
        self.shard.tokens = int(ends[-1])
        self.shard.documents += len(documents)

    def write_long(self, name: str, pieces: Iterable[NDArray[np.integer]]) -> None:
        """Write one document piece by piece; else as write."""
        self._starts.append(np.array([self.shard.tokens], np.uint64))
        self._file.write(self._end_of_text.data)
        self.shard.tokens += 1
        self.shard.documents += 1
        for piece in pieces:
            self._refuse_other_ids(name, piece)
            self._file.write(piece.astype(self._dtype, copy=False).data)
            self.shard.tokens += len(piece)

    def _refuse_other_ids(self, name: str, document: NDArray[np.integer]) -> None:
        for token in (document.min(), document.max()) if len(document) else ():
            if not 0 <= token < self._vocab_size:
                raise DataError(f"document {name}: token id {token} is outside {self._vocab_size} ids")

    def close(self, *, last: bool) -> TokenShard:
        """Put the files under their names; the `last` shard of a split ends with an end-of-text."""
        if last:
            self._file.write(self._end_of_text.data)
            self.shard.tokens += 1
        index = self._path.with_suffix(".idx")
        temporary_index = temporary_name(index)
        with self._file as file, temporary_index.open("wb") as index_file:
            for starts in self._starts:
                index_file.write(starts.astype("<u8", copy=False).data)
            for written in (file, index_file):
                written.flush()
                os.fsync(written.fileno())
        self._temporary.rename(self._path)
        temporary_index.rename(index)
        self.shard.checksum, self.shard.index_checksum = checksum(self._path), checksum(index)
        return self.shard

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def shard_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """Little-endian, the smallest type that holds every id."""
    return np.dtype(dtype_of(vocab_size)).newbyteorder("<")


class TokenStream:
    """The shards of one split as one array of token ids.

    Tokens are read by position (pread), not through memory maps: the pages of a map count as the process's own memory,
    a map of a file that was cut kills the process, and each map holds a file open.

    Args:
        manifest: as read_manifest gives it.
    Attributes:
        bytes, characters, words: of the text that the tokens stand for.
        end_of_text: the id before each document and behind the last one.
        dtype: of the shards, little-endian uint16 or uint32.
        damage: what somebody found that the files suffer from, while tokens are read; no more are given then.
    Raises:
        DataError: a file of the split is missing, cut or not in the manifest; the message names it.
    """

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        self.shards = [TokenShard(**shard) for shard in manifest["splits"][split]]
        self.folder = folder
        self.name = split
        self.end_of_text: int = manifest.get("end_of_text", 0)
        self.bytes = sum(shard.bytes for shard in self.shards)
        self.characters = sum(shard.characters for shard in self.shards)
        self.damage: Exception | None = None
        self.words = sum(shard.words for shard in self.shards)
        self.dtype: np.dtype[np.unsignedinteger] = np.dtype(manifest["dtype"]).newbyteorder("<")
        self._starts = np.cumsum([0, *(shard.tokens for shard in self.shards)], dtype=np.int64)
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._file = lru_cache(MOST_OPEN_FILES if allowed < 0 else min(MOST_OPEN_FILES, allowed // 4))(self._opened)
        self._refuse_other_files()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def sources(self) -> dict[str, tuple[int, int]]:
        """Where the tokens of each source begin and end, in order; the end-of-text behind a source is its own too."""
        spans: dict[str, tuple[int, int]] = {}
        for shard, start in zip(self.shards, self._starts.tolist(), strict=False):
            if shard.documents:
                first, _ = spans.get(shard.source, (start, start))
                spans[shard.source] = (first, min(start + shard.tokens + 1, len(self)))
        return spans

    def verify(self) -> None:
        """Compare every shard and its document index with their checksums.

        Raises:
            DataError: one is not what was written; the message names it.
        """
        for name, expected in self.files():
            self.verify_file(name, expected)

    def files(self) -> Iterator[tuple[str, str]]:
        """The name of each file of the split that has a checksum, and the checksum."""
        for shard in self.shards:
            yield from (
                (name, expected)
                for name, expected in ((shard.file, shard.checksum), (_index_name(shard), shard.index_checksum))
                if expected
            )

    def verify_file(self, name: str, expected: str, see: Callable[[bytes], None] | None = None) -> None:
        """Compare a file with its checksum; `see` is shown each block of it.

        Raises:
            DataError: it is not what was written; the message names it.
        """
        if checksum(self.folder / name, see=see) != expected:
            raise DataError(
                f"the {_kind(name)} {self.folder / name} is damaged (checksum); remove {self.folder} to write it again"
            )

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Tokens [start, stop), as far as there are any, as int64."""
        stop = min(stop, len(self))
        start = min(start, stop)
        tokens: NDArray[np.int64] = self.rows(np.array([start]), stop - start)[0]
        return tokens

    def rows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """The `length` tokens from each of `starts` (R,) on, (R, length) int64; all of them must be there."""
        if self.damage:
            raise self.damage
        found = np.empty((len(starts), length), self.dtype)
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        for row, start, shard in zip(found, starts.tolist(), shards.tolist(), strict=True):
            self._fill(row, start, shard)
        return found.astype(np.int64)

    def documents(self) -> Iterator[NDArray[np.int64]]:
        """The tokens of each document in order, ends of text aside, found by the document index."""
        for number, start in enumerate(self.shard_starts()):
            begins = self.document_starts(number)
            end = self.shards[number].tokens - (number == len(self.shards) - 1)  # the last shard closes the stream
            for first, last in pairwise([*begins.tolist(), end]):
                yield self.read(start + first + 1, start + last)

    def shard_starts(self) -> list[int]:
        """Where in the stream each shard starts."""
        starts: list[int] = self._starts[:-1].tolist()
        return starts

    def document_starts(self, number: int) -> NDArray[np.int64]:
        """Where the documents of shard `number` start in it, each at its end-of-text.

        Raises:
            DataError: the document index is missing or cut; the message names it.
        """
        shard = self.shards[number]
        path = self.folder / _index_name(shard)
        if not path.exists() or path.stat().st_size != 8 * shard.documents:
            raise DataError(f"the document index {path} is missing or cut; remove {self.folder} to write it again")
        return np.fromfile(path, "<u8").astype(np.int64)

    def array(self, stop: int | None = None) -> NDArray[np.unsignedinteger]:
        """The tokens before `stop`, or all, in the shards' own type: a memory map of a single shard, else a copy."""
        stop = len(self) if stop is None else min(stop, len(self))
        if len(self.shards) == 1 and stop:
            tokens: NDArray[np.unsignedinteger] = np.memmap(self.folder / self.shards[0].file, self.dtype, mode="r")
            return tokens[:stop]
        tokens = np.empty(stop, self.dtype)
        self._fill(tokens, 0, 0)
        return tokens

    def _fill(self, row: NDArray[np.unsignedinteger], start: int, shard: int) -> None:
        """Read into `row` the tokens from `start` on, which lies in `shard`."""
        done, size = 0, self.dtype.itemsize
        while done < len(row):
            place = start + done - int(self._starts[shard])
            part = row[done : done + self.shards[shard].tokens - place]
            if not len(part):
                shard += 1
                continue
            file = self._file(shard)  # held, so that it stays open when another thread makes the stream forget it
            bytes_read = os.preadv(file.descriptor, [part.data], place * size)
            if bytes_read < size:
                raise self._cut(self.shards[shard].file)
            done += bytes_read // size

    def _opened(self, shard: int) -> "_OpenFile":
        try:
            return _OpenFile(self.folder / self.shards[shard].file)
        except FileNotFoundError:
            raise self._cut(self.shards[shard].file) from None

    def _refuse_other_files(self) -> None:
        there = {}
        if self.folder.is_dir():
            with os.scandir(self.folder) as entries:
                there = {
                    entry.name: entry.stat().st_size for entry in entries if entry.name.startswith(f"{self.name}-")
                }
        expected = {shard.file: shard.tokens * self.dtype.itemsize for shard in self.shards}
        expected |= {_index_name(shard): 8 * shard.documents for shard in self.shards if shard.index_checksum}
        others = sorted(name for name in there if name.endswith((".bin", ".idx")) and name not in expected)
        for name, size in expected.items():
            if there.get(name) != size:
                raise self._cut(name, f" (and {others[0]} is none of this split: was it renamed?)" if others else "")
        if others:
            raise DataError(
                f"{self.folder / others[0]} is not in the manifest of these token shards; move it out of {self.folder}"
            )

    def _cut(self, name: str, more: str = "") -> DataError:
        return DataError(
            f"the {_kind(name)} {self.folder / name} is missing or cut{more}; remove {self.folder} to write it again"
        )


class _OpenFile:
    """A file that stays open while somebody reads it, whether or not it is still remembered."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of token shards.

    Raises:
        DataError: there is none, it is another version's, or it was changed after it was written.
    """
    manifest: dict[str, Any] | None = read_json(folder / MANIFEST)
    if manifest is None:
        raise DataError(f"{folder} holds no token shards; build them with the same data settings: pretrain data ...")
    if manifest.get("version") != VERSION:
        raise DataError(f"{folder} was written by another version of this program; remove it to write it again")
    if manifest.get("fingerprint") != _fingerprint(manifest):
        raise DataError(
            f"{folder / MANIFEST} is not what was written: its shards were reordered, or something else was changed; "
            f"remove {folder} to write it again"
        )
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, which makes the folder complete, with its version and a fingerprint of all that it says.

    Args:
        manifest: key, tokenizer (the checksum of its file), vocab_size, end_of_text, dtype, made_of, and splits: the
            shards of each, in order.
    """
    manifest = {"version": VERSION, **manifest}
    write_json(folder / MANIFEST, {**manifest, "fingerprint": _fingerprint(manifest)})


def _fingerprint(manifest: dict[str, Any]) -> str:
    """A hash of all that the manifest says, taken shard by shard, for there may be a hundred thousand."""
    parts: list[Any] = [[name, manifest[name]] for name in sorted(manifest) if name not in ("fingerprint", "splits")]
    digest = xxhash.xxh3_128()
    for part in chain(parts, *(chain([name], shards) for name, shards in manifest["splits"].items())):
        digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _kind(name: str) -> str:
    return "document index" if name.endswith(".idx") else "token shard"


def _index_name(shard: TokenShard) -> str:
    return shard.file.removesuffix(".bin") + ".idx"
