"""Local and remote files as a corpus: folders, patterns, archives, compressed or not, in any of the usual formats."""

import dataclasses
import io
from collections.abc import Iterator
from functools import partial
from pathlib import PurePath
from typing import BinaryIO, ClassVar, Literal, cast

from pretrain.data.manifests import BLOCK
from pretrain.data.sources.archives import read_tar, read_zip
from pretrain.data.sources.finding import find
from pretrain.data.sources.formats import (
    Reader,
    Reading,
    read_csv,
    read_html,
    read_json,
    read_json_lines,
    read_parquet,
    read_text,
    read_warc,
    read_xml,
)
from pretrain.data.sources.gzip_members import opened_archive
from pretrain.data.sources.reading import Limits, Record, Refused, SourceFile, Unreadable
from pretrain.data.sources.streams import is_address, is_compressed, opened, raw_file
from pretrain.errors import UsageError

# A folder is searched for files with these suffixes; a file named by itself is always read, as text if it has none.
TEXTS = (
    "txt text md rst tex css yaml yml toml ini cfg py pyi c h cc cpp cxx hpp rs go java kt js mjs ts tsx jsx rb php sh "
    "bash sql r jl pl lua swift scala hs ml clj ex erl cs fs vb f90 asm lean v proto cmake"
)
READERS: dict[str, Reader] = {
    **dict.fromkeys((f".{suffix}" for suffix in TEXTS.split()), read_text),
    **dict.fromkeys((".jsonl", ".ndjson"), read_json_lines),
    **dict.fromkeys((".csv", ".tsv"), read_csv),
    **dict.fromkeys((".html", ".htm", ".xhtml"), read_html),
    **dict.fromkeys((".warc", ".arc", ".wet"), read_warc),
    ".json": read_json,
    ".parquet": read_parquet,
    ".xml": read_xml,
}
COMPRESSED = frozenset((".gz", ".zst", ".bz2", ".xz"))
ARCHIVES = frozenset((".tar", ".tgz", ".tbz2", ".txz", ".zip"))
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
BEGINNINGS: tuple[tuple[int, bytes, Reader], ...] = ((0, b"PAR1", read_parquet), (0, b"WARC/", read_warc))


class Files:
    """Files and folders, nested.

    Args:
        paths: files, folders, patterns (corpus/**/*.md) and addresses (s3://bucket/folder).
        text_field: the field or column that holds the text, in JSON, CSV and Parquet.
        unit: what of a plain text file is a document.
        extractor: of the main text of HTML.
    """

    version: ClassVar[int] = 4

    def __init__(
        self,
        *,
        paths: list[str],
        text_field: str,
        unit: Literal["file", "line", "paragraph"] = "file",
        extractor: Literal["resiliparse", "trafilatura"] = "trafilatura",
    ) -> None:
        self.paths = paths
        self.text_field = text_field
        self.unit: Literal["file", "line", "paragraph"] = unit
        self.extractor: Literal["resiliparse", "trafilatura"] = extractor
        self._has_pages = False

    def files(self) -> list[SourceFile]:
        if not self.paths:
            raise UsageError("data=files reads data.paths, which is empty; try data.paths=[a_folder,a_file.jsonl]")
        found = [dataclasses.replace(file, splittable=self._splits(file)) for file in find(self.paths, _is_wanted)]
        self._has_pages = any(READERS.get(_suffix(file.name)) in (read_html, read_warc) for file in found)
        return found

    @property
    def libraries(self) -> tuple[str, ...]:
        """The extractor, where the files hold pages: what `files()` found last."""
        return (self.extractor,) if self._has_pages else ()

    def read(self, file: SourceFile, limits: Limits) -> Iterator[Record | Refused]:
        reading = Reading(
            file.name, limits, self.text_field, self.unit, self.extractor, file.start, file.end, file.lines_before
        )
        open_it = opened_archive if READERS.get(_suffix(file.name)) is read_warc else opened
        with open_it(file, limits) as stream:
            head = cast(io.BufferedReader, stream).peek(512)
            if head.startswith(ZIP):
                yield from read_zip(stream, limits, partial(_member, reading))
            elif head[257:262] == b"ustar" or _is_tar(file.name):
                yield from read_tar(stream, limits, partial(_member, reading))
            else:
                yield from _reader(file.name, head)(stream, reading)

    def _splits(self, file: SourceFile) -> bool:
        """Whether a file is large, on this machine's disk, and plain text in lines."""
        if file.size <= BLOCK or file.refusal or is_address(file.path):
            return False
        with raw_file(file.path) as raw:
            head = raw.read(512)
        if is_compressed(head) or head.startswith(ZIP) or head[257:262] == b"ustar" or _is_tar(file.name):
            return False
        reader = _reader(file.name, head)
        return reader is read_json_lines or (reader is read_text and self.unit == "line")


def _reader(name: str, head: bytes) -> Reader:
    """By how the content begins, where that is plain, else by the name."""
    for place, beginning, reader in BEGINNINGS:
        if head[place:].startswith(beginning):
            return reader
    return READERS.get(_suffix(name), read_text)


def _member(reading: Reading, name: str, content: BinaryIO) -> Iterator[Record | Refused] | None:
    """The records of a member of an archive, where it is of a kind that a folder is searched for."""
    if _suffix(name) in ARCHIVES:
        raise Unreadable("wrong_format", "an archive inside another is not read; unpack it")
    if _suffix(name) not in READERS:
        return None
    reader = _reader(name, cast(io.BufferedReader, content).peek(512))
    whole = dataclasses.replace(reading, name=f"{reading.name}/{name}", start=0, end=None, lines_before=0)
    return reader(content, whole)


def _suffix(name: str) -> str:
    """The suffix that tells the format, in lower case: .jsonl of a.jsonl.gz."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _is_wanted(name: str) -> bool:
    return _suffix(name) in READERS or _suffix(name) in ARCHIVES


def _is_tar(name: str) -> bool:
    return _suffix(name) in ARCHIVES - {".zip"}
