"""Web crawls: the main text of the pages in WARC, ARC and WET files."""

import json
import re
from collections.abc import Iterator
from typing import BinaryIO, ClassVar, Literal

from pretrain.data.sources import http_message
from pretrain.data.sources.extraction import PAGE_BYTES, Extractor, decoded_page, html_text, main_text, sniffed
from pretrain.data.sources.finding import find
from pretrain.data.sources.gzip_members import opened_archive
from pretrain.data.sources.reading import (
    HEAD,
    REPLACEMENT,
    Limits,
    Record,
    Refused,
    SourceFile,
    Unreadable,
    decoded,
    mended,
    too_large,
)
from pretrain.data.sources.warc import ArchiveRecord, DamagedRecord, archive_records
from pretrain.errors import UsageError

__all__ = ["WebCrawl", "html_text", "read_warc"]

SUFFIXES = (".warc", ".arc", ".wet")
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
DOCUMENTS = frozenset(["response", "resource", "conversion"])  # WARC types; the others are about these
HTML = frozenset(["text/html", "application/xhtml+xml"])
TEXT = HTML | {"text/plain"}
CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:+-]+)", re.IGNORECASE)


class WebCrawl:
    """The pages of a web crawl that were answered with 200, as their main text.

    Args:
        paths: WARC, ARC and WET files, compressed or not, and folders of such.
        extractor: of the main text. trafilatura leaves out more of what is none, resiliparse is eight times faster.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("brotli", "lxml", "resiliparse", "trafilatura")

    def __init__(self, *, paths: list[str], extractor: Literal["resiliparse", "trafilatura"]) -> None:
        self.paths = paths
        self.extractor: Extractor = extractor

    def files(self) -> list[SourceFile]:
        if not self.paths:
            raise UsageError(
                "data=web_crawl reads data.paths, which is empty; try data.paths=[a_folder,a_file.warc.gz]"
            )
        return find(self.paths, _is_archive)

    def read(self, file: SourceFile, limits: Limits) -> Iterator[Record | Refused]:
        with opened_archive(file, limits) as stream:
            yield from read_warc(stream, file.name, limits, self.extractor)


def _is_archive(name: str) -> bool:
    name = name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return name.endswith(SUFFIXES)


def read_warc(stream: BinaryIO, name: str, limits: Limits, extractor: Extractor) -> Iterator[Record | Refused]:
    """The documents of a WARC, ARC or WET file, each at the place of its record in the file, from 1.

    Args:
        stream: the content, decompressed, of a buffered file.
        name: of the file, for records that have no URL.
    Raises:
        Unreadable: the file cannot be read on; all before was given.
        UsageError: the extractor is not installed.
    """
    most = max(PAGE_BYTES, limits.document_bytes)
    for number, record in enumerate(archive_records(stream, most), start=1):
        if isinstance(record, DamagedRecord):
            yield Refused(number, record.rule, record.reason, number, _head(record.head))
        elif record.kind in DOCUMENTS and not record.url.startswith("dns:"):
            try:
                yield _document(record, number, name, limits, extractor)
            except Unreadable as fault:
                yield Refused(number, fault.rule, f"{record.url}: {fault}", number, _head(record.body))


def _document(record: ArchiveRecord, number: int, name: str, limits: Limits, extractor: Extractor) -> Record | Refused:
    """The text of one record.

    Raises:
        Unreadable: it holds no text that can be used.
    """
    meta: dict[str, str | int] = {"url": record.url, "date": record.date}
    for key in ("warc-record-id", "warc-truncated"):
        if key in record.headers:
            meta[key.removeprefix("warc-")] = record.headers[key]
    if "warc-segment-number" in record.headers:
        raise Unreadable("segmented", "only a segment of the page is in this record")
    content_type, headers, raw = record.content_type, dict[str, str](), record.body
    if record.kind == "response":
        status, headers, raw = http_message.parsed(raw)
        if status != 200:
            raise Unreadable("http_status", f"the status is {status}")
        content_type, meta["status"] = headers.get("content-type", ""), status
    kind, charset = _media_type(content_type)
    if kind:
        _refuse_type(kind)
    raw = http_message.decoded_body(headers, raw, max(PAGE_BYTES, limits.document_bytes), limits)
    kind = kind or sniffed(raw)
    _refuse_type(kind)
    if kind in HTML and len(raw) > PAGE_BYTES:
        raise Unreadable("too_large", f"more than {PAGE_BYTES:,} bytes in one page")
    if kind not in HTML and len(raw) > limits.document_bytes:
        return too_large(number, None, limits, number, _head(raw))
    page, broken, encoding = decoded_page(raw, charset)
    text, nulls, surrogates = mended(main_text(page, extractor) if kind in HTML else page)
    if not text.strip():
        raise Unreadable("no_main_text", "the page holds no main text")
    described = json.dumps(meta | {"content_type": kind, "encoding": encoding}, ensure_ascii=False)
    replaced = min(broken, text.count(REPLACEMENT)) + nulls
    return Record(number, mended(record.url)[0] or f"{name}:{number}", text, described, replaced, surrogates, number)


def _media_type(content_type: str) -> tuple[str, str | None]:
    """The media type in lower case, without its parameters, and the charset among these."""
    kind, _, parameters = content_type.partition(";")
    charset = CHARSET.search(parameters)
    return kind.strip().lower(), charset[1] if charset else None


def _refuse_type(kind: str) -> None:
    if kind not in TEXT:
        raise Unreadable("content_type", f"the content type is {kind[:100]!r}")


def _head(raw: bytes) -> str:
    """The beginning of what is refused, to look at."""
    return decoded(raw[:HEAD])[0]
