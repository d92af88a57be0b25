"""What files of each format hold: a reader gives the records of one open file, and tells the bad ones.

A reader takes a file that is open and decompressed and a Reading; which one is called is decided by the file's name,
and where that lies, by how the content begins.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.data.sources.reading import (
    HEAD,
    REPLACEMENT,
    Limits,
    Record,
    Refused,
    Unreadable,
    decoded,
    mended,
    too_large,
)

ROWS = 256  # of a Parquet file, read at once, at most
ROW_BYTES = 2_000_000  # of their content, about
CHUNK = 1 << 16  # bytes of JSON read at once
ESCAPES = 3  # bytes of JSON that a byte of text may take: "\u0434" is six for two


@dataclass(frozen=True)
class Reading:
    """How one file is read.

    Attributes:
        name: of the file.
        text_field: the field, or column, that holds the text.
        unit: what of a plain text file is a document.
        extractor: of the main text of HTML.
        start, end, lines_before: the piece of a file in lines that is meant.
    """

    name: str
    limits: Limits
    text_field: str
    unit: Literal["file", "line", "paragraph"]
    extractor: Literal["resiliparse", "trafilatura"]
    start: int = 0
    end: int | None = None
    lines_before: int = 0


BETWEEN = re.compile(r"[ \t\r\n,]*")  # the values of a file of JSON

Reader = Callable[[BinaryIO, Reading], Iterator[Record | Refused]]


def lines(stream: BinaryIO, reading: Reading, escapes: int = 1) -> Iterator[tuple[int, int, bytes | None]]:
    """Where each line starts in the file, its number from 1, and the line, or None where it is too long to hold.

    Args:
        escapes: bytes of a line that a byte of text may take.
    """
    position, number = reading.start, reading.lines_before
    most = escapes * reading.limits.document_bytes + HEAD
    if position:  # a line that starts before the piece is another's; line ends before the piece are counted
        stream.seek(position - 1)
        position += _rest_of_line(stream) - 1
        number += position > reading.start
    while reading.end is None or position < reading.end:
        line = stream.readline(most)
        if not line:
            return
        number += 1
        if len(line) == most and not line.endswith(b"\n"):
            yield position, number, None
            position += most + _rest_of_line(stream)
        else:
            yield position, number, line
            position += len(line)


def _rest_of_line(stream: BinaryIO) -> int:
    """Read to the end of the line, and return how many bytes that were."""
    size = 0
    while piece := stream.readline(1 << 16):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def read_text(stream: BinaryIO, reading: Reading) -> Iterator[Record | Refused]:
    """Plain text: the whole file, or each line or paragraph that is not blank."""
    if reading.unit == "file":
        raw = stream.read(reading.limits.document_bytes + 1)
        if len(raw) > reading.limits.document_bytes:
            yield too_large(0, None, reading.limits, head=decoded(raw[:HEAD])[0])
            return
        text, replaced = decoded(raw)
        yield Record(0, reading.name, text, replaced=replaced)
        return
    paragraph: list[bytes] = []
    start, first, size = 0, 0, 0
    most = reading.limits.document_bytes + HEAD
    for position, number, line in lines(stream, reading):
        blank = line is not None and not line.strip()
        if not blank:
            if not size:
                start, first = position, number
            size += most + 1 if line is None else len(line)
            if size > most:
                paragraph.clear()
            elif line:
                paragraph.append(line)
        if size and (blank or reading.unit == "line"):
            yield _passage(paragraph, start, first, reading)
            paragraph, size = [], 0
    if size:
        yield _passage(paragraph, start, first, reading)


def _passage(raw: list[bytes], position: int, line: int, reading: Reading) -> Record | Refused:
    """The document that some lines make; none of them where it was too long to hold."""
    if not raw:
        return too_large(position, None, reading.limits, line)
    text, replaced = decoded(b"".join(raw).strip(b"\r\n"))
    return Record(position, f"{reading.name}:{line}", text, replaced=replaced, line=line)


def read_json_lines(stream: BinaryIO, reading: Reading) -> Iterator[Record | Refused]:
    """A JSON object a line."""
    for position, number, line in lines(stream, reading, ESCAPES):
        if line is None:
            yield too_large(position, None, reading.limits, number)
            continue
        try:
            row = orjson.loads(line)
        except ValueError:
            if line.strip():
                yield _mended_line(line, position, number, reading)
            continue
        yield from_row(row, position, number, reading)


def _mended_line(line: bytes, position: int, number: int, reading: Reading) -> Record | Refused:
    """A line that the fast parser refuses: with bytes or surrogates that are not UTF-8, or huge numbers, or no JSON."""
    raw, replaced = decoded(line)
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested a thousand deep
        return Refused(position, "not_json", f"not JSON: {error}", number, raw[:HEAD])
    found = from_row(row, position, number, reading)
    return found._replace(replaced=found.replaced + replaced) if isinstance(found, Record) else found


def from_row(row: Any, position: int, line: int | None, reading: Reading) -> Record | Refused:
    """The document in a parsed row of any format: its text, its own id, and the rest as meta."""
    try:
        return _from_row(row, position, line, reading)
    except RecursionError:  # brackets nested some hundred deep
        return Refused(position, "too_deep", "fields nested too deep to be written down", line)


def _from_row(row: Any, position: int, line: int | None, reading: Reading) -> Record | Refused:
    text = row.get(reading.text_field) if isinstance(row, dict) else None
    if type(text) is not str:
        has = isinstance(row, dict) and reading.text_field in row
        found = f"{reading.text_field!r} is {_kind(text)}" if has else f"no field {reading.text_field!r}"
        head = json.dumps(row, default=str)[:HEAD]
        return Refused(position, "no_text", f"no text: {found}", line, head)
    if text.isascii() and "\0" not in text:
        replaced = surrogates = 0
    else:
        text, replaced, surrogates = mended(text)
    del row[reading.text_field]
    own_id = row.pop("id", None)
    name = f"{reading.name}:{position if line is None else line}" if own_id is None else mended(str(own_id))[0]
    return Record(position, name, text, _json(row) if row else "{}", replaced, surrogates, line)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _json(meta: dict[str, Any]) -> str:
    try:
        return orjson.dumps(meta).decode()
    except (TypeError, ValueError, RecursionError):  # lone surrogates, huge integers, dates of a Parquet file, ...
        return json.dumps(meta, default=str)


def read_json(stream: BinaryIO, reading: Reading) -> Iterator[Record | Refused]:
    """JSON objects, one behind the other or in an array, read one at a time; a text in an array is a document too.

    A file of which one of the first lines is an object by itself is read as JSON lines, which often have this name too.
    """
    beginning = cast(io.BufferedReader, stream).peek(1 << 16)
    in_array = beginning.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    if not in_array and any(_is_object(line) for line in beginning.split(b"\n")[:-1]):
        yield from read_json_lines(stream, reading)
        return
    text = _Text(stream)
    most = ESCAPES * reading.limits.document_bytes
    decoder = json.JSONDecoder()
    buffer = text.read(CHUNK).lstrip()
    in_array = buffer.startswith("[")
    at, position = int(in_array), 0
    while True:
        at = cast(re.Match[str], BETWEEN.match(buffer, at)).end()
        if in_array and buffer[at : at + 1] == "]":
            if (buffer[at + 1 :] + text.read(CHUNK)).strip():
                raise Unreadable("not_json", f"something follows the array of {position} elements; one a file is read")
            return
        try:
            row, end = decoder.raw_decode(buffer, at)
        except (ValueError, RecursionError) as error:
            more = text.read(max(CHUNK, len(buffer) - at)) if len(buffer) - at <= most else ""
            if not more and at == len(buffer) and position and not in_array:
                return
            if not more:
                reason = f"not JSON from element {position + 1} on: {error}"
                raise Unreadable("not_json", reason) from error
            buffer, at = buffer[at:] + more, 0
            continue
        if end == len(buffer) and isinstance(row, int | float) and (more := text.read(CHUNK)):  # perhaps more digits
            buffer, at = buffer[at:] + more, 0
            continue
        found = from_row({reading.text_field: row} if isinstance(row, str) else row, position, None, reading)
        if isinstance(found, Record):
            found = found._replace(replaced=found.text.count(REPLACEMENT) - found.surrogates)
        yield found
        position, at = position + 1, end


def _is_object(line: bytes) -> bool:
    """Whether a line, none that is indented as part of something larger, is a JSON object by itself."""
    try:
        return line.startswith(b"{") and isinstance(orjson.loads(line), dict)
    except ValueError:
        return False


class _Text:
    """The text of a stream as far as it can be read: a fault is raised when all that comes before it is taken."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = cast(io.BufferedReader, stream)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._fault: Unreadable | None = None

    def read(self, least: int) -> str:
        """At least so many characters; fewer before the end or a fault, and none at the end.

        Raises:
            Unreadable: the stream cannot be read on.
        """
        pieces: list[str] = []
        raw = b"."
        while raw and not self._fault and sum(map(len, pieces)) < least:
            try:
                raw = self._stream.read1(CHUNK)
            except Unreadable as error:
                self._fault = error
            else:
                pieces.append(self._decoder.decode(raw, final=not raw))
        if self._fault and not any(pieces):
            raise self._fault
        return "".join(pieces)


def read_csv(stream: BinaryIO, reading: Reading) -> Iterator[Record | Refused]:
    """Rows of comma- or tab-separated values under a header."""
    csv.field_size_limit(reading.limits.document_bytes)
    broken = too_long = 0

    def texts() -> Iterator[str]:
        nonlocal broken, too_long
        for _, _, line in lines(stream, reading, ESCAPES):
            text, replaced = ("\n", 0) if line is None else decoded(line)
            broken += replaced
            too_long += line is None
            yield text

    rows = csv.reader(texts(), delimiter="\t" if ".tsv" in reading.name.lower() else ",")
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise Unreadable("not_csv", f"no header of CSV: {error}") from error
    if reading.text_field not in header:
        raise Unreadable("no_text", f"no column {reading.text_field!r}; there are {', '.join(header)[:200]}")
    position = 0
    while True:
        position += 1
        line, broken, too_long = rows.line_num + 1, 0, 0
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield Refused(position, "not_csv", f"no row of CSV: {error}", line)
            continue
        if row is None:
            return
        if too_long:
            yield too_large(position, None, reading.limits, line, str(row)[:HEAD])
            continue
        if not row:
            continue
        if len(row) != len(header):
            reason = f"{len(row)} fields, but {len(header)} columns"
            yield Refused(position, "not_csv", reason, line, str(row)[:HEAD])
            continue
        found = from_row(dict(zip(header, row, strict=True)), position, line, reading)
        yield found._replace(replaced=broken) if isinstance(found, Record) else found


def read_parquet(stream: BinaryIO, reading: Reading) -> Iterator[Record | Refused]:
    """The rows of a Parquet file."""
    if not stream.seekable():
        raise Unreadable("wrong_format", "a Parquet file inside another cannot be read; unpack it")
    position = 0
    try:
        with pq.ParquetFile(stream) as source:
            if reading.text_field not in source.schema_arrow.names:
                names = ", ".join(source.schema_arrow.names)[:200]
                raise Unreadable("no_text", f"no column {reading.text_field!r}; there are {names}")
            for group in range(source.num_row_groups):
                size = source.metadata.row_group(group)
                rows = max(1, min(ROWS, ROW_BYTES * size.num_rows // max(1, size.total_byte_size)))
                for batch in source.iter_batches(rows, row_groups=[group]):
                    for row in range(len(batch)):
                        yield _parquet_row(batch.slice(row, 1), position, reading)
                        position += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = f"no readable Parquet after {position:,} rows: {str(error).partition(chr(10))[0]}"
        raise Unreadable("damaged" if position else "wrong_format", reason) from error


def _parquet_row(row: pa.RecordBatch, position: int, reading: Reading) -> Record | Refused:
    try:
        return from_row(row.to_pylist()[0], position, None, reading)
    except (ValueError, OverflowError, pa.ArrowException) as error:  # bytes that are not UTF-8, a year beyond 9999
        return Refused(position, "damaged", f"row {position + 1} cannot be read: {error}")


def read_html(stream: BinaryIO, reading: Reading) -> Iterator[Record | Refused]:
    """The main text of one HTML page."""
    from pretrain.data.sources.web import html_text  # an optional dependency

    raw = stream.read(reading.limits.document_bytes + 1)
    if len(raw) > reading.limits.document_bytes:
        yield too_large(0, None, reading.limits, head=decoded(raw[:HEAD])[0])
        return
    text = html_text(raw, None, reading.extractor)
    if text:
        yield Record(0, reading.name, text)
    else:
        yield Refused(0, "no_main_text", "the page holds no main text", head=decoded(raw[:HEAD])[0])


def read_warc(stream: BinaryIO, reading: Reading) -> Iterator[Record | Refused]:
    """The pages of a web crawl."""
    from pretrain.data.sources import web  # an optional dependency

    return web.read_warc(stream, reading.name, reading.limits, reading.extractor)


def read_xml(stream: BinaryIO, reading: Reading) -> Iterator[Record | Refused]:
    """The articles of a MediaWiki dump; any other XML is a text."""
    if b"<mediawiki" in cast(io.BufferedReader, stream).peek(1 << 12)[: 1 << 12]:
        from pretrain.data.sources.mediawiki import read_dump  # an optional dependency

        return read_dump(stream, reading.name, reading.limits)
    return read_text(stream, reading)
