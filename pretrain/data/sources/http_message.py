"""What a web server sent: status, headers, and the body without chunks and compression.

https://www.rfc-editor.org/rfc/rfc9112, https://www.rfc-editor.org/rfc/rfc9110#section-8.4
"""

import io
import re
import zlib
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple, cast

from pretrain.data.sources.reading import Limits, Unreadable
from pretrain.data.sources.streams import decompressed
from pretrain.errors import UsageError

STATUS = re.compile(rb"HTTP/\S*[ \t]+(\d{3})\b")
BLANK_LINE = re.compile(rb"\r?\n\r?\n")
CHUNK_SIZE = re.compile(rb"(?:\r?\n)?([0-9a-fA-F]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
COMPRESSED = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd")  # gzip and zstd, whatever the header says


class Response(NamedTuple):
    """Attributes:
    headers: by lower-case name; the first of those that are repeated.
    body: as it was sent.
    """

    status: int
    headers: dict[str, str]
    body: bytes


def parsed(message: bytes) -> Response:
    """The parts of a response.

    Raises:
        Unreadable: it does not begin like one.
    """
    status = STATUS.match(message)
    if not status:
        raise Unreadable("no_http", "the record does not begin with an HTTP status")
    end = BLANK_LINE.search(message)
    head, body = (message[: end.start()], message[end.end() :]) if end else (message, b"")
    headers: dict[str, str] = {}
    for line in head.split(b"\n")[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    return Response(int(status[1]), headers, body)


def decoded_body(headers: Mapping[str, str], body: bytes, most: int, limits: Limits) -> bytes:
    """The body of a response without chunks and compression, which crawlers may have removed and left in the headers.

    Args:
        most: bytes that are given back; what is behind them is not decoded, except one byte that shows there is more.
    Raises:
        Unreadable: (`content_encoding`, `damaged` or `bomb`) it cannot be decompressed.
    """
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _without_chunks(body)
    encodings = [name.strip().lower() for name in headers.get("content-encoding", "").split(",")]
    for encoding in reversed(encodings):
        if body.startswith(COMPRESSED):
            body = _unpacked(body, most, limits)
        elif encoding == "br":
            body = _without_brotli(body, most)
        elif encoding == "deflate":
            body = _inflated(body, most)
        elif encoding not in ("", "identity", "gzip", "x-gzip", "zstd", "utf-8", "none"):
            raise Unreadable("content_encoding", f"the content encoding {encoding[:40]!r} is not known")
    return body


def _without_chunks(body: bytes) -> bytes:
    """The chunks, joined, as far as they are well formed; the body itself where it does not begin with one."""
    chunks, at = [], 0
    while (size := CHUNK_SIZE.match(body, at)) and (length := int(size[1], 16)):
        chunks.append(body[size.end() : size.end() + length])
        at = size.end() + length
    return b"".join(chunks) if chunks or size else body


def _unpacked(body: bytes, most: int, limits: Limits) -> bytes:
    stream = cast(io.BufferedReader, decompressed(cast(BinaryIO, io.BufferedReader(io.BytesIO(body))), limits))
    pieces, size = [], 0
    try:
        while piece := stream.read1(most + 1 - size):
            pieces.append(piece)
            size += len(piece)
    except Unreadable as error:  # browsers show what they got of a page that is cut, too
        if error.rule != "truncated" or not pieces:
            raise
    return b"".join(pieces)


def _inflated(body: bytes, most: int) -> bytes:
    for window in (zlib.MAX_WBITS, -zlib.MAX_WBITS):  # some servers leave the zlib header out
        try:
            if page := zlib.decompressobj(window).decompress(body, most + 1):
                return page
        except zlib.error:
            continue
    return _plain(body, "deflate")


def _without_brotli(body: bytes, most: int) -> bytes:
    try:
        import brotli
    except ImportError:
        raise UsageError("pages compressed by brotli need pip install 'pretrain[web]'") from None
    try:
        page = cast(bytes, brotli.Decompressor().process(body, output_buffer_limit=most + 1))
    except brotli.error:
        page = b""
    return page or _plain(body, "brotli")


def _plain(body: bytes, encoding: str) -> bytes:
    """The body, where it is empty, or not compressed at all."""
    if body.lstrip()[:1] in (b"", b"<"):
        return body
    raise Unreadable("damaged", f"the {encoding} data of the page is damaged")
