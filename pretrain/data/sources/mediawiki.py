"""Wikipedia's dumps: MediaWiki's export XML, a page a document, without its markup."""

import io
import json
import re
from collections.abc import Iterator
from typing import BinaryIO, ClassVar, cast
from xml.parsers import expat

from pretrain.data.sources import finding
from pretrain.data.sources.reading import HEAD, Limits, Record, Refused, SourceFile, Unreadable, mended
from pretrain.data.sources.streams import CHUNK, opened
from pretrain.data.sources.wikitext import plain_text
from pretrain.errors import UsageError

DUMP = re.compile(r"\.xml(-p\d+p\d+)?(\.(bz2|gz|xz|zst))?$", re.IGNORECASE)
REDIRECT = re.compile(r"\s*#\s*(redirect|転送|リダイレクト)\s*:?\s*\[\[", re.IGNORECASE)
ARTICLES = (0,)
# Where the elements that are read stand. In a page with its whole history the last revision is what counts.
FIELDS = {
    ("mediawiki", "page", "title"): "title",
    ("mediawiki", "page", "ns"): "namespace",
    ("mediawiki", "page", "id"): "page",
    ("mediawiki", "page", "revision", "id"): "revision",
    ("mediawiki", "page", "revision", "timestamp"): "timestamp",
    ("mediawiki", "page", "revision", "text"): "text",
}
FIELD_CHARACTERS = 10_000  # of a title, id or timestamp that are kept
DEPTH = 100  # of elements inside each other, more than any dump has
MARKUP_BYTES = 1 << 22  # the longest tag or comment, all of which the parser keeps until it ends

# What the parser says of a file that ends too early.
CUT = {
    expat.errors.codes[message]
    for message in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
    )
}


class WikipediaDump:
    """The pages of MediaWiki export files, as https://dumps.wikimedia.org has them: pages-articles, whole or in parts.

    Args:
        paths: dump files (.xml, .xml.bz2, .xml.gz, .xml.xz, .xml.zst) and folders with such.
        namespaces: numbers of the namespaces whose pages are read; 0 holds the articles.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, paths: list[str], namespaces: list[int]) -> None:
        self.paths = paths
        self.namespaces = namespaces

    def files(self) -> list[SourceFile]:
        if not self.paths:
            raise UsageError(
                "data=wikipedia_dump reads data.paths, which is empty; "
                "try data.paths=[jawiki-latest-pages-articles.xml.bz2]"
            )
        return finding.find(self.paths, lambda name: DUMP.search(name) is not None)

    def read(self, file: SourceFile, limits: Limits) -> Iterator[Record | Refused]:
        with opened(file, limits) as stream:
            yield from read_dump(stream, file.name, limits, self.namespaces)


def read_dump(
    stream: BinaryIO, name: str, limits: Limits, namespaces: list[int] | tuple[int, ...] = ARTICLES
) -> Iterator[Record | Refused]:
    """The pages of a dump, redirects passed over; a page's position is its number in the file, counted from 0.

    The format: https://www.mediawiki.org/wiki/Help:Export, of any version.

    Args:
        stream: the XML, decompressed; read as far as the pages that were taken.
        name: the file's, for a page without an id.
        namespaces: numbers of the namespaces whose pages are read.
    Raises:
        Unreadable: the XML is cut, damaged, no dump, or declares a document type (with which entities could be
            defined that expand without bound; no dump has one). The pages before it were given.
    """
    pages = _Pages(limits.document_bytes)
    while True:
        chunk = cast(io.BufferedReader, stream).read1(CHUNK)  # read() would lose what precedes damage in a stream
        damage = pages.feed(chunk)
        for position, page in pages.take():
            if page.namespace in namespaces and not page.is_redirect():
                yield _document(position, page, name, limits)
        if damage is not None:
            raise damage
        if not chunk:
            return


class _Page:
    """What is read of one page so far."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[str]] = {}
        self.text_bytes = 0
        self.redirect = False

    def is_redirect(self) -> bool:
        """Dumps of old versions tell it only by the text."""
        return self.redirect or REDIRECT.match(self.field("text")[:100]) is not None

    def field(self, name: str) -> str:
        return "".join(self.pieces.get(name, ())).strip()

    @property
    def namespace(self) -> int | None:
        """None: not told, or no number."""
        named = self.field("namespace")
        return int(named) if re.fullmatch(r"-?[0-9]{1,9}", named) else None


class _Pages:
    """A parser that is fed bytes and gives pages; it keeps no more of a page than the limit."""

    def __init__(self, text_bytes: int) -> None:
        self._text_bytes = text_bytes
        self._path: list[str] = []
        self._field: str | None = None
        self._page = _Page()
        self._done: list[tuple[int, _Page]] = []
        self._count = 0
        self._fed = 0
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.buffer_size = CHUNK
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._doctype

    def feed(self, chunk: bytes) -> Unreadable | None:
        """Parse `chunk`, the last one if it is empty; what makes it unreadable is returned."""
        try:
            self._parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            after = f"after {self._count:,} pages"
            if error.code in CUT:
                return Unreadable("truncated", f"the XML is cut {after}")
            return Unreadable("damaged", f"the XML is damaged {after}: {expat.ErrorString(error.code)}")
        except Unreadable as error:
            return error
        self._fed += len(chunk)
        if self._fed - self._parser.CurrentByteIndex > MARKUP_BYTES:
            return Unreadable("damaged", f"a tag or comment of the XML does not end after {self._count:,} pages")
        return None

    def take(self) -> list[tuple[int, _Page]]:
        """The pages that are complete, each once, with their numbers."""
        done, self._done = self._done, []
        return done

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        if not self._path and element != "mediawiki":
            raise Unreadable("not_a_dump", f"the XML begins with <{element[:40]}>, a dump with <mediawiki>")
        if len(self._path) == DEPTH:
            raise Unreadable("damaged", f"the XML has {DEPTH} elements inside each other after {self._count:,} pages")
        self._path.append(element)
        if self._path == ["mediawiki", "page"]:
            self._page = _Page()
        elif self._path == ["mediawiki", "page", "redirect"]:
            self._page.redirect = True
        self._field = FIELDS.get(tuple(self._path)) if len(self._path) <= 4 else None
        if self._field:
            self._page.pieces[self._field] = []
            if self._field == "text":
                self._page.text_bytes = 0

    def _end(self, element: str) -> None:
        if self._path == ["mediawiki", "page"]:
            self._done.append((self._count, self._page))
            self._count += 1
        self._path.pop()
        self._field = None

    def _characters(self, text: str) -> None:
        if self._field == "text":
            self._page.text_bytes += len(text.encode())
            if self._page.text_bytes <= self._text_bytes:
                self._page.pieces["text"].append(text)
        elif self._field:
            pieces = self._page.pieces[self._field]
            pieces[:] = ["".join([*pieces, text])[:FIELD_CHARACTERS]]

    def _doctype(self, *declaration: object) -> None:
        raise Unreadable("doctype", "the XML declares a document type, which no export of MediaWiki does")


def _document(position: int, page: _Page, file: str, limits: Limits) -> Record | Refused:
    title, number = page.field("title"), page.field("page")
    raw = "".join(page.pieces.get("text", ()))
    if page.text_bytes > limits.document_bytes:
        reason = f"{page.text_bytes:,} bytes in the page {title!r}; data.max_document_bytes={limits.document_bytes}"
        return Refused(position, "too_large", f"{reason} allows no more", head=raw[:HEAD])
    text, replaced, surrogates = mended(plain_text(raw))
    if not text:
        return Refused(position, "no_text", f"the page {title!r} has no text without its markup", head=raw[:HEAD])
    meta = {
        "title": title,
        "page": number,
        "revision": page.field("revision"),
        "timestamp": page.field("timestamp"),
    }
    return Record(position, number or f"{file}:{position}", text, json.dumps(meta), replaced, surrogates)
