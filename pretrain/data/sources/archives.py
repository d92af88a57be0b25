"""Reading what is packed into tar and zip archives, member by member, without unpacking anything to disk."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from pretrain.data.sources.reading import Limits, Record, Refused, Unreadable, printable
from pretrain.data.sources.streams import DAMAGE, SMALL, decompressed

MEMBER = 1 << 40  # positions of the records of one member; a larger one would break every other limit before

ReadMember = Callable[[str, BinaryIO], Iterator[Record | Refused] | None]


def read_tar(stream: BinaryIO, limits: Limits, read: ReadMember) -> Iterator[Record | Refused]:
    """The records of all members of a tar archive.

    Args:
        read: gives the records of a member by its name and content, or None where it is not wanted.
    Raises:
        Unreadable: the archive is cut or damaged; the members before are read.
    """
    number = -1
    try:
        with tarfile.open(fileobj=cast(BinaryIO, _AsItComes(stream)), mode="r|", tarinfo=_Header) as archive:
            for number, member in enumerate(archive):
                if member.isdir():
                    continue
                if not member.isfile():
                    yield Refused(number * MEMBER, "link", f"{printable(member.name)} is a link or a device")
                    continue
                content = cast(BinaryIO, _Forward(cast(io.BufferedReader, archive.extractfile(member))))
                yield from _member(number, member.name, content, limits, read)
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:  # the last two: in headers made for it
        rule = "wrong_format" if number < 0 else "damaged" if isinstance(error, _BadHeader) else "truncated"
        raise Unreadable(rule, f"the tar archive cannot be read behind member {number + 1}: {error}") from error


class _BadHeader(tarfile.ReadError):
    """What stands where a member begins is no header."""


class _Header(tarfile.TarInfo):
    """The header of a member. tarfile takes a bad one that is not the first for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.TruncatedHeaderError as error:  # type: ignore[attr-defined]  # typeshed lacks it
            raise tarfile.ReadError(str(error)) from error
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]  # typeshed lacks it
            raise _BadHeader(str(error)) from error


class _Forward(io.RawIOBase):
    """The content of a member of a tar archive, which is read once and from the beginning to the end."""

    def __init__(self, content: io.BufferedReader) -> None:
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)


class _AsItComes:
    """What tarfile reads: less than it asks for, rather than a fault that takes what comes before it along."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = cast(io.BufferedReader, stream)

    def read(self, most: int) -> bytes:
        return self._stream.read1(most)


def read_zip(stream: BinaryIO, limits: Limits, read: ReadMember) -> Iterator[Record | Refused]:
    """The records of all members of a zip archive; see `read_tar`."""
    if not stream.seekable():
        raise Unreadable("wrong_format", "a zip archive inside another file cannot be read; unpack it")
    try:
        most = max(SMALL, limits.expansion * stream.seek(0, io.SEEK_END))
        with zipfile.ZipFile(stream) as archive:
            for number, member in enumerate(archive.infolist()):
                if member.is_dir():
                    continue
                bomb = member.file_size > max(SMALL, limits.expansion * member.compress_size)
                most -= 0 if bomb else member.file_size
                if bomb or most < 0:  # by itself, or together with those before
                    reason = f"{member.compress_size:,} bytes of zip become {member.file_size:,}"
                    yield Refused(number * MEMBER, "bomb", f"{printable(member.filename)}: {reason}")
                    continue
                try:
                    with archive.open(member) as content:
                        yield from _member(number, member.filename, cast(BinaryIO, content), limits, read)
                except (*DAMAGE, zipfile.BadZipFile, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
                    yield Refused(number * MEMBER + MEMBER - 1, "damaged", f"{printable(member.filename)}: {error}")
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise Unreadable("damaged", f"the zip archive cannot be read: {error}") from error


def _member(number: int, name: str, content: BinaryIO, limits: Limits, read: ReadMember) -> Iterator[Record | Refused]:
    """The records of one member, each at its place in the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    name = printable(name)
    if path.is_absolute() or ".." in path.parts:
        yield Refused(number * MEMBER, "unsafe_path", f"{name} leads out of the archive")
        return
    position = 0
    try:
        found = read(name, decompressed(cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, content))), limits))
        for item in found or ():
            position = item.position
            if isinstance(item, Refused):
                item = item._replace(reason=f"{name}: {item.reason}")
            yield item._replace(position=number * MEMBER + position)
    except Unreadable as error:
        yield Refused(number * MEMBER + position + 1, error.rule, f"{name}: {error}")
