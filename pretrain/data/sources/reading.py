"""What all sources share: files, the records in them, and decoding bytes that may not be UTF-8."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol


@dataclass(frozen=True)
class SourceFile:
    """One file of a source; the name is the same on every machine, the path is not."""

    name: str
    path: Path


@dataclass(frozen=True)
class Record:
    """One document as a source finds it, or, with a reason, one that cannot be read.

    Attributes:
        name: the record's own id, or its file.
        replaced: bytes or surrogates that UTF-8 cannot hold, replaced by U+FFFD.
        line: line in the file, where it has lines.
        reason: why it is quarantined.
    """

    name: str
    text: str
    meta: str = "{}"
    replaced: int = 0
    line: int | None = None
    reason: str | None = None


class Source(Protocol):
    version: ClassVar[int]

    def files(self) -> list[SourceFile]:
        """The files, in an order that is the same on every machine."""
        ...

    def read(self, file: SourceFile) -> Iterator[Record]:
        """The records of one file, in order."""
        ...


def decoded(raw: bytes) -> tuple[str, int]:
    """`raw` as UTF-8 text, a byte order mark removed, and how many broken pieces became U+FFFD."""
    try:
        return raw.decode("utf-8-sig"), 0
    except UnicodeDecodeError:
        text = raw.decode("utf-8-sig", errors="replace")
        return text, text.count("\ufffd") - raw.count("\ufffd".encode())


def without_surrogates(text: str) -> tuple[str, int]:
    """`text` with lone surrogates, which UTF-8 cannot hold, replaced by U+FFFD, and their number."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        clean = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
        return clean, sum(new != old for new, old in zip(clean, text, strict=True))
    return text, 0
