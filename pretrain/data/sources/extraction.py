"""The main text of a web page: its characters decoded, and menus, headers and advertisements left out."""

import logging
import re
from typing import Literal

from pretrain.data.sources.reading import REPLACEMENT, Unreadable
from pretrain.errors import UsageError

Extractor = Literal["resiliparse", "trafilatura"]

PAGE_BYTES = 5 << 20  # of one page; Common Crawl cuts pages there: https://commoncrawl.org/blog
# Both extractors need a time that grows by the square of these: 10,000 attributes take half a second, a million hours.
ATTRIBUTES = 10_000  # in one tag
DEPTH = 5_000  # of elements inside each other
# What a tag of these opens is closed by the next one, or never opened.
SHALLOW = "area|base|br|col|dd|dt|embed|hr|img|input|li|link|meta|option|p|param|source|td|th|tr|track|wbr"
TAG_BEGINS = re.compile("<[a-zA-Z]")
TAG = re.compile(rf"<(?:(/)|(?=[a-z]))(?!(?:{SHALLOW})\b)[a-z]", re.IGNORECASE)

MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))  # byte order marks
BELOW_LEAD = bytes(range(0xC0))  # the bytes that do not begin a character of several in UTF-8
ESCAPE = b"\x1b"  # begins the Japanese characters of ISO-2022-JP, all of whose bytes are ASCII
# Python's codec of the same name is stricter than what browsers do: https://encoding.spec.whatwg.org/#names-and-labels
WIDER = {"shift_jis": "cp932", "gbk": "gb18030", "big5": "big5hkscs", "euc_kr": "cp949"}
DETECTED_BYTES = 1 << 17  # of a page, from its beginning and end, that the detection of its encoding looks at


def decoded_page(raw: bytes, charset: str | None) -> tuple[str, int, str]:
    """`raw` as text, how many broken pieces became U+FFFD, and the encoding.

    The encoding is told by the byte order mark, by the bytes if they are UTF-8, which is no accident, by `charset` (of
    the HTTP header), or by the page; the first whose rules the bytes obey, and if there is none, it is guessed.

    Raises:
        UsageError: resiliparse is not installed.
    """
    for mark, encoding in MARKS:
        if raw.startswith(mark):
            return _replaced(raw[len(mark) :], encoding)
    mostly, broken, _ = _replaced(raw, "utf-8")
    if not broken and not (raw.isascii() and ESCAPE in raw):
        return mostly, 0, "utf-8"
    try:
        from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
    except ImportError:
        raise UsageError("web pages need pip install 'pretrain[web]'") from None
    own = detect_encoding(raw[:1024], from_html_meta=True) if b"charset" in raw[:1024].lower() else None
    header = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    # Servers that know nothing of the page say ISO-8859-1, in which anything is valid.
    declared = sorted(filter(None, (header, own)), key=lambda name: name == "cp1252")
    for encoding in declared:
        text, faults, encoding = _replaced(raw, encoding)
        if not faults:
            return text, 0, encoding
    if 20 * broken < len(raw.translate(None, BELOW_LEAD)):  # characters of more than one byte
        return mostly, broken, "utf-8"
    guess = detect_encoding(raw, max_len=DETECTED_BYTES)
    return min((_replaced(raw, name) for name in (*declared, guess or "utf-8")), key=lambda found: found[1])


def sniffed(raw: bytes) -> str:
    """The media type of a page that comes without one, such as text/html.

    Raises:
        UsageError: resiliparse is not installed.
    """
    try:
        from resiliparse.parse.encoding import detect_mime
    except ImportError:
        raise UsageError("web pages need pip install 'pretrain[web]'") from None
    return detect_mime(raw[:DETECTED_BYTES])


def _replaced(raw: bytes, encoding: str) -> tuple[str, int, str]:
    codec = WIDER.get(encoding, encoding)
    try:
        return raw.decode(codec), 0, encoding
    except UnicodeDecodeError:
        text = raw.decode(codec, errors="replace")
    own = raw.count(REPLACEMENT.encode()) if encoding == "utf-8" else 0
    return text, text.count(REPLACEMENT) - own, encoding


def main_text(html: str, extractor: Extractor) -> str:
    """The main text of a page, or nothing where there is none.

    Raises:
        Unreadable: the page is built to take forever.
        UsageError: the extractor is not installed.
    """
    if len(html) > PAGE_BYTES:
        raise Unreadable("too_large", f"{len(html):,} characters in one page, more than {PAGE_BYTES:,}")
    if tangled(html):
        raise Unreadable("tangled", f"a tag of {ATTRIBUTES:,} attributes, or {DEPTH:,} elements inside each other")
    return (_by_resiliparse if extractor == "resiliparse" else _by_trafilatura)(html)


def html_text(raw: bytes, charset: str | None, extractor: Extractor) -> str:
    """The main text of a page in bytes, or nothing where there is none.

    Args:
        charset: what is known of its encoding from elsewhere.
    Raises:
        Unreadable: the page is too large, or built to take forever.
        UsageError: the extractor is not installed.
    """
    return main_text(decoded_page(raw, charset)[0], extractor)


def tangled(html: str) -> bool:
    """Whether a tag has too many attributes, or elements stand too deep inside each other."""
    parts = html.split(">")
    if max(map(len, parts)) > 2 * ATTRIBUTES:
        for part in parts:
            tag = TAG_BEGINS.search(part)
            if tag and len(part[tag.end() :].split(maxsplit=ATTRIBUTES)) > ATTRIBUTES:
                return True
    if html.count("<") - html.count("</") <= DEPTH:
        return False
    depth = 0
    for element in TAG.finditer(html):
        depth = max(0, depth - 1) if element[1] else depth + 1
        if depth > DEPTH:
            return True
    return False


def _by_resiliparse(html: str) -> str:
    try:
        from resiliparse.extract.html2text import extract_plain_text
    except ImportError:
        raise UsageError("extractor=resiliparse needs pip install 'pretrain[web]'") from None
    return extract_plain_text(
        html, preserve_formatting=True, main_content=True, alt_texts=False, comments=False, post_meta=False
    )


def _by_trafilatura(html: str) -> str:
    try:
        import trafilatura
    except ImportError:
        raise UsageError("extractor=trafilatura needs pip install 'pretrain[web]'") from None
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # that a page is empty is told by its refusal
    # Its own removal of duplicates remembers other pages: the text of one would depend on those before it.
    return trafilatura.extract(html, include_comments=False, favor_precision=True, deduplicate=False) or ""
