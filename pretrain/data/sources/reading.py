"""What all sources share: files, the records in them, what is refused, and text from bytes that may be no text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from pretrain.errors import DataError

REPLACEMENT = "\ufffd"
SURROGATES = re.compile("[\ud800-\udfff]")
HEAD = 1000  # characters of a refused record that are kept to look at


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, or a piece of one.

    Attributes:
        name: the same on every machine, which the path is not.
        path: a local path, or any address that fsspec knows.
        size: bytes as they are stored.
        fingerprint: what changes when the content does; None for a local file, whose content is hashed.
        splittable: whether the piece between any two bytes can be read alone (a local file of plain text in lines).
        start, end: the piece, in bytes; a line belongs to the piece in which it starts.
        lines_before: line ends before `start`.
        refusal: why it is not read, as rule and reason.
    """

    name: str
    path: str
    size: int
    fingerprint: str | None = None
    splittable: bool = False
    start: int = 0
    end: int | None = None
    lines_before: int = 0
    refusal: tuple[str, str] | None = None


class Limits(NamedTuple):
    """What is too much.

    Attributes:
        document_bytes: the longest document, in bytes of UTF-8.
        expansion: bytes that a compressed byte may become, on average.
        replaced: the share of a text's characters that may be broken bytes.
    """

    document_bytes: int
    expansion: float
    replaced: float


class Record(NamedTuple):
    """One document as a source finds it.

    Attributes:
        position: its place in the file: the same in every reading, and no other record's.
        name: the record's own id, or its file and line.
        meta: JSON, whatever else the record held.
        replaced: broken bytes and NULs that are U+FFFD in the text.
        surrogates: lone surrogates, which UTF-8 cannot hold, that are U+FFFD in the text.
        line: in the file, where it has lines.
    """

    position: int
    name: str
    text: str
    meta: str = "{}"
    replaced: int = 0
    surrogates: int = 0
    line: int | None = None


class Refused(NamedTuple):
    """A record, or the rest of a file, that cannot be read.

    Attributes:
        rule: the kind of fault, in one word with underscores.
        reason: one line for people.
        head: the beginning of it, to look at.
    """

    position: int
    rule: str
    reason: str
    line: int | None = None
    head: str = ""


class Unreadable(DataError):
    """A file that cannot be read on; what was read of it before stays."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule


class Source(Protocol):
    """Attributes:
    version: raised whenever the same files give other records.
    libraries: whose versions the records depend on.
    """

    version: ClassVar[int]

    @property
    def libraries(self) -> tuple[str, ...]: ...

    def files(self) -> list[SourceFile]:
        """The files, in an order that is the same on every machine.

        Raises:
            UsageError: a path does not exist.
        """
        ...

    def read(self, file: SourceFile, limits: Limits) -> Iterator[Record | Refused]:
        """The records of one file, in order; a bad one is told, and those behind it are read.

        Raises:
            Unreadable: the file cannot be read on.
        """
        ...


def too_large(position: int, size: int | None, limits: Limits, line: int | None = None, head: str = "") -> Refused:
    """The refusal of a document of `size` bytes (None: not known, but too many)."""
    found = "more" if size is None else f"{size:,} bytes"
    reason = f"{found} in one document; data.max_document_bytes={limits.document_bytes} allows no more"
    return Refused(position, "too_large", reason, line, head)


def decoded(raw: bytes) -> tuple[str, int]:
    """`raw` as text, a byte order mark removed, and how many broken pieces and NULs became U+FFFD.

    The text is UTF-8, or UTF-16 where a byte order mark says so.
    """
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text, broken = raw.decode(encoding), 0
    except UnicodeDecodeError:
        text = raw.decode(encoding, errors="replace")
        broken = text.count(REPLACEMENT) - (raw.count(REPLACEMENT.encode()) if encoding == "utf-8-sig" else 0)
    nulls = text.count("\0")
    return (text.replace("\0", REPLACEMENT), broken + nulls) if nulls else (text, broken)


def mended(text: str) -> tuple[str, int, int]:
    """`text` that JSON or another library made: NULs and lone surrogates replaced by U+FFFD, and their numbers."""
    nulls = text.count("\0")
    if nulls:
        text = text.replace("\0", REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        text, surrogates = SURROGATES.subn(REPLACEMENT, text)
        return text, nulls, surrogates
    return text, nulls, 0


def printable(name: str) -> str:
    """A file's name in UTF-8; bytes of it that are not become \\udcXX, so that no two names become one."""
    return name.encode("utf-8", "backslashreplace").decode()
