"""Duplicate addresses: pages that were fetched more than once.

The record's own `url` counts, which sources of web pages keep in `meta`. Two spellings of an address are the same when
they differ in what RFC 3986 (https://www.rfc-editor.org/rfc/rfc3986#section-6) says does not matter, and, as crawls of
the web do, in the scheme http or https, a leading www., a closing slash, or the fragment.
"""

import json
from typing import ClassVar
from urllib.parse import urlsplit

import pyarrow as pa
import xxhash

from pretrain.data.dedup.exact import first_of_equal, hash_keys
from pretrain.data.documents import Details, StageOutput, without_repeats


class UrlDuplicates:
    """Drops every document from an address that an earlier one came from. Documents without an address are kept.

    Args:
        ignore_query: whether addresses that differ only behind the question mark are the same.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    transitive: ClassVar[bool] = False
    edits: ClassVar[bool] = False  # no text changes

    def __init__(self, *, ignore_query: bool) -> None:
        self.ignore_query = ignore_query

    def sketch(self, documents: pa.Table) -> tuple[pa.Table, None]:
        """The hash of each address, in two halves."""
        urls = [self._normalised(meta) for meta in documents["meta"].to_pylist()]
        rows = [row for row, url in enumerate(urls) if url]
        hashes = [xxhash.xxh3_128_digest(url.encode("utf-8", "surrogatepass")) for url in urls if url]
        return hash_keys(rows, hashes), None

    def link(self, keys: pa.Table, details: Details) -> pa.Table:
        """Each document with the first that has its address; the value is always 1."""
        return first_of_equal(keys)

    def apply(self, documents: pa.Table, found: pa.Table) -> StageOutput:
        """Drops what is not the first."""
        return without_repeats(documents, found, "duplicate_url", 1.0)

    def _normalised(self, meta: str | None) -> str | None:
        fields = json.loads(meta) if meta and '"url"' in meta else None
        url = fields.get("url") if isinstance(fields, dict) else None
        return normalised_url(url, ignore_query=self.ignore_query) if isinstance(url, str) else None


def normalised_url(url: str, *, ignore_query: bool) -> str | None:
    """One spelling for all of an address; None for an empty one."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").removeprefix("www."), parts.port
    except ValueError:  # it is no address, but may stand there twice all the same
        return url or None
    if not host:
        return url or None
    place = host if port in (None, 80, 443) else f"{host}:{port}"
    scheme = "" if parts.scheme in ("http", "https") else f"{parts.scheme}:"
    query = "" if ignore_query or not parts.query else f"?{parts.query}"
    return f"{scheme}//{place}{parts.path.rstrip('/')}{query}"
