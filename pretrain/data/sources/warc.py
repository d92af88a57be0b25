"""The records of WARC and ARC files, and the way on to the next one behind a damaged one.

WARC 1.1: https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/
ARC: https://archive.org/web/researcher/ArcFileFormat.php
"""

import io
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast

from pretrain.data.sources.reading import HEAD, Unreadable

CHUNK = 1 << 18  # bytes read at once
HEADER_BYTES = 1 << 16  # of a record's header, and of a line
WARC_INSIDE = re.compile(rb"WARC/\d\.\d+[ \t]*\r?\n[A-Za-z][A-Za-z-]*:")
WARC_LINE = re.compile(rb"WARC/\d\.\d+[ \t]*\r?\n\Z")
# URL, address, date, content type, in version 2 five more, and the length, which may be no number.
ARC_LINE = re.compile(rb"([a-z][a-z0-9+.-]*:\S.*) (\S+) (\d{14,18}) (\S+)(?: \S+ \S+ \S+ \d+ \S+)? (\S+)[ \t]*\r?\n")
ARC_INSIDE = re.compile(rb"^" + ARC_LINE.pattern, re.MULTILINE)


class ArchiveRecord(NamedTuple):
    """One record.

    Attributes:
        kind: the WARC-Type; what is in an ARC is a response, its first record a warcinfo.
        headers: by lower-case name.
    """

    kind: str
    url: str
    date: str
    content_type: str
    headers: dict[str, str]
    body: bytes


class DamagedRecord(NamedTuple):
    """A record that cannot be used, or bytes that are none.

    Attributes:
        rule, reason: as in Refused.
        head: its first bytes.
    """

    rule: str
    reason: str
    head: bytes


class _Head(NamedTuple):
    kind: str
    url: str
    date: str
    content_type: str
    headers: dict[str, str]
    length: str


def archive_records(stream: BinaryIO, most: int) -> Iterator[ArchiveRecord | DamagedRecord]:
    """All records of a WARC or ARC file, in order.

    Args:
        stream: the content, decompressed, of a buffered file.
        most: bytes of a body; a longer one is passed over and told.
    Raises:
        Unreadable: the stream cannot be read on, or its last record is cut; all before it were given.
    """
    content = _Content(stream)
    arc = warc = False
    while line := content.line():
        match = ARC_LINE.match(line) if not warc else None
        arc, warc = arc or match is not None, warc or WARC_LINE.match(line) is not None
        if not line.strip():
            continue
        if match:
            head: _Head | None = _arc_head(match)
        elif WARC_LINE.match(line):
            head = _warc_head(content)
        else:
            yield _skipped(content, arc, line, "no record begins here")
            continue
        if content.ended:
            break
        if head is None:
            yield _skipped(content, arc, line, "the record's header is damaged")
        elif not head.length.isascii() or not head.length.isdigit():
            yield _skipped(content, arc, line, f"the length of {head.url or 'a record'} is {head.length!r}")
        elif record := _record(content, head, arc, most):
            yield record
    if content.fault:
        raise content.fault


def _skipped(content: "_Content", arc: bool, first: bytes, why: str) -> DamagedRecord:
    """Go to where the next record may begin."""
    head, size = first, len(first)
    while line := content.line():
        begins = WARC_LINE.search(line) if not arc else ARC_LINE.match(line)
        if begins:
            content.give_back(line[begins.start() :])
            line = line[: begins.start()]
        size += len(line)
        if len(head) < HEAD:
            head += line
        if begins:
            break
    return DamagedRecord("damaged_record", f"{why}; {size:,} bytes were passed over", head[:HEAD])


def _arc_head(match: re.Match[bytes]) -> _Head:
    url, _, date, content_type, length = (part.decode("utf-8", "replace") for part in match.groups())
    kind = "warcinfo" if url.startswith("filedesc:") else "response"
    return _Head(kind, url, date, content_type, {}, length)


def _warc_head(content: "_Content") -> _Head | None:
    """The header up to the blank line behind it, or None where it is none."""
    headers: dict[str, str] = {}
    name, size = "", 0
    while (line := content.line()).strip():
        text = line.decode("utf-8", "replace")
        size += len(line)
        if (begins := WARC_LINE.search(line)) or size > HEADER_BYTES:
            content.give_back(line[begins.start() :] if begins else line)
            return None
        if text[0] in " \t":
            if name:
                headers[name] += " " + text.strip()
            continue
        name, colon, value = text.partition(":")
        name = name.strip().lower()
        if not colon:
            name = ""
        elif name not in headers:
            headers[name] = value.strip()
    if not line:
        content.cut("header of a record")
        return None
    url = headers.get("warc-target-uri", "").removeprefix("<").removesuffix(">")
    kind = headers.get("warc-type", "").lower()
    date, content_type = headers.get("warc-date", ""), headers.get("content-type", "")
    return _Head(kind, url, date, content_type, headers, headers.get("content-length", ""))


def _record(content: "_Content", head: _Head, arc: bool, most: int) -> ArchiveRecord | DamagedRecord | None:
    """The record with its body, once what follows shows that the length was right; None where the file ends in it.

    A wrong length may lead into the middle of a later record; the first record inside is then the next one.
    """
    name = head.url or f"a record of type {head.kind}"
    length = int(head.length) if len(head.length) < 19 else 10**18
    begins = ARC_INSIDE if arc else WARC_INSIDE
    held = content.take(min(length, most))
    if len(held) == length and _ends(content, arc):
        return ArchiveRecord(*head[:5], held)
    wrong = f"{name} does not end after its {length:,} bytes"
    if inside := begins.search(held):
        content.give_back(held[inside.start() :])
    elif len(held) == length:
        return _skipped(content, arc, held, wrong)
    else:
        left = content.skip(length - len(held), begins)
        if left is None:
            content.cut(f"body of {name}")
            return None
        if not left:
            return DamagedRecord("too_large", f"{name} has {length:,} bytes, more than {most:,}", held[:HEAD])
    return DamagedRecord("damaged_record", wrong, held[:HEAD])


def _ends(content: "_Content", arc: bool) -> bool:
    """Whether a record may end here."""
    line = content.line()
    content.give_back(line)
    return not line.strip() or (ARC_LINE if arc else WARC_LINE).match(line) is not None


class _Content:
    """A stream into which bytes can be put back; it ends where it cannot be read on, and `fault` says why."""

    def __init__(self, stream: BinaryIO) -> None:
        self.fault: Unreadable | None = None
        self.ended = False
        self._stream = cast(io.BufferedReader, stream)
        self._held = b""
        self._at = 0

    def cut(self, what: str) -> None:
        """Note that the file ends inside of `what`."""
        self.ended = True
        self.fault = self.fault or Unreadable("truncated", f"the file ends in the {what}")

    def line(self) -> bytes:
        """The next line, or a piece of it where it is very long; nothing at the end."""
        while True:
            end = self._held.find(b"\n", self._at, self._at + HEADER_BYTES) + 1 or self._at + HEADER_BYTES
            if end <= len(self._held) or not self._more():
                break
        line = self._held[self._at : end]
        self._at += len(line)
        return line

    def take(self, size: int) -> bytes:
        """The next `size` bytes, or what there is."""
        pieces = []
        while size:
            piece = self._held[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            pieces.append(piece)
            if size and not self._more():
                break
        return b"".join(pieces)

    def skip(self, size: int, begins: re.Pattern[bytes]) -> int | None:
        """Pass over `size` bytes, unheld, or as far as a record begins; the bytes left, None at the stream's end."""
        overlap = b""
        while size:
            piece = self.take(min(size, CHUNK))
            if not piece:
                return None
            size -= len(piece)
            seen = overlap + piece
            if inside := begins.search(seen):
                self.give_back(seen[inside.start() :])
                return size + len(seen) - inside.start()
            overlap = seen[-HEAD:]
        return 0

    def give_back(self, data: bytes) -> None:
        """Put bytes, the last ones taken, back."""
        if self._held.endswith(data, 0, self._at):
            self._at -= len(data)
        else:
            self._held, self._at = data + self._held[self._at :], 0

    def _more(self) -> bool:
        if self.fault:
            return False
        try:
            piece = self._stream.read1(CHUNK)
        except Unreadable as fault:
            self.fault, piece = fault, b""
        self._held, self._at = self._held[self._at :] + piece, 0
        return bool(piece)
