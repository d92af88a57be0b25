"""Evaluation sets as items: what of each could stand in a training text."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.data.sources.files import COMPRESSED
from pretrain.data.sources.finding import find
from pretrain.data.sources.reading import Limits, SourceFile, Unreadable
from pretrain.data.sources.streams import opened
from pretrain.errors import ConfigError, DataError, UsageError

LIMITS = Limits(document_bytes=10**9, expansion=1000.0, replaced=0.0)  # of expansion alone; nobody's crawl
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".txt")
BLANK_LINES = re.compile(r"\n\s*\n")


class Item(NamedTuple):
    """One question, passage or pair of sentences.

    Attributes:
        name: its file, and its id or its number in it.
        strings: in the order of the file.
    """

    name: str
    strings: list[str]


def evaluation_files(paths: Sequence[str]) -> list[SourceFile]:
    """The files at `paths`: files, folders, patterns or addresses.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    if not paths:
        raise ConfigError("paths=[] names no evaluation file; name some, or set paths=null to look for none")
    try:
        files = find(paths, lambda name: _suffix(name) in SUFFIXES)
    except UsageError as error:
        raise ConfigError(f"evaluation files: {str(error).removeprefix('data.paths: ')}") from error
    for file in files:
        if file.refusal:
            raise ConfigError(f"evaluation files: {file.path}: {file.refusal[1]}")
    if not files:
        raise ConfigError(f"evaluation files: {', '.join(paths)} holds none of {', '.join(SUFFIXES)}")
    return files


def content_of(file: SourceFile) -> bytes:
    """All bytes of a file, decompressed.

    Raises:
        DataError: it is damaged.
    """
    try:
        with opened(file, LIMITS) as stream:
            return stream.read()
    except Unreadable as error:
        raise DataError(f"the evaluation file {file.path} cannot be read: {error}") from error


def items_of(file: SourceFile, content: bytes, fields: Sequence[str] | None) -> Iterator[Item]:
    """The items of a file: records of JSON, Parquet or CSV, or paragraphs of text.

    Args:
        fields: names of the fields that hold what is looked for, of records; None: all.
    Raises:
        DataError: the file is not what its name says.
    """
    try:
        for number, record in enumerate(_records(_suffix(file.name), content), start=1):
            chosen = [record.get(field) for field in fields] if fields and isinstance(record, Mapping) else record
            own = record.get("id") if isinstance(record, Mapping) else None
            told = number if own is None or own == "" else own
            yield Item(f"{PurePath(file.name).name} {told}", list(_strings(chosen)))
    except (ValueError, pa.ArrowException, csv.Error) as error:
        raise DataError(f"the evaluation file {file.path} cannot be read: {error}") from error


def _records(suffix: str, content: bytes) -> Iterator[Any]:
    if suffix == ".parquet":
        yield from pq.read_table(io.BytesIO(content)).to_pylist()
        return
    text = content.decode("utf-8-sig")
    if suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield _parsed(line, f"line {number}")
    elif suffix == ".json":
        whole = _parsed(text, "its content")
        yield from whole if isinstance(whole, list) else [whole]
    elif suffix in (".csv", ".tsv"):
        yield from csv.DictReader(io.StringIO(text), delimiter="\t" if suffix == ".tsv" else ",")
    else:
        yield from BLANK_LINES.split(text)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def _strings(value: Any) -> Iterator[str]:
    """All strings in a value of JSON, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _suffix(name: str) -> str:
    """The suffix that tells the format, in lower case: .jsonl of a.jsonl.gz."""
    path = PurePath(name.lower())
    return path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix
