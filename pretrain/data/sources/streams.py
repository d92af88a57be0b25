"""Opening files, wherever they lie and however they are compressed, without trusting what they say of themselves."""

import bz2
import io
import lzma
import os
import zlib
from typing import Any, BinaryIO, Protocol, cast

import fsspec
from backports import zstd

from pretrain.data.sources.reading import Limits, SourceFile, Unreadable

CHUNK = 1 << 18  # bytes read, and decompressed, at once
SMALL = 1 << 24  # bytes that any file may become, whatever it was before


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the interface that those of bz2, lzma and zstd share."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.unused_data = self._inner.unused_data
        return out


# By the bytes that a file begins with: names lie.
MAGIC: dict[bytes, tuple[str, Any]] = {
    b"\x1f\x8b": ("gzip", _Gzip),
    b"\x28\xb5\x2f\xfd": ("zstd", zstd.ZstdDecompressor),
    # frames that hold no content, such as an index: https://www.rfc-editor.org/rfc/rfc8878#name-skippable-frames
    **{bytes([first]) + b"\x2a\x4d\x18": ("zstd", zstd.ZstdDecompressor) for first in range(0x50, 0x60)},
    b"BZh": ("bz2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMADecompressor),
}
DAMAGE = (zlib.error, zstd.ZstdError, lzma.LZMAError, OSError, ValueError)


def opened(file: SourceFile, limits: Limits) -> BinaryIO:
    """A file's content, decompressed, as far as its listed size goes: what is appended meanwhile is not read.

    Raises:
        Unreadable: (while it is read) the compressed data is cut, damaged, or grows beyond `limits`.
    """
    raw = _Span(raw_file(file.path), file.size)
    return decompressed(cast(BinaryIO, io.BufferedReader(raw, CHUNK)), limits)


def raw_file(path: str) -> BinaryIO:
    """The bytes of a file at a local path or any address that fsspec knows."""
    if is_address(path):
        return cast(BinaryIO, fsspec.open(path, "rb").open())
    return open(path, "rb", buffering=0)  # noqa: PTH123  the caller closes it


def is_address(path: str) -> bool:
    """Whether `path` names a protocol, such as s3://bucket/key."""
    return "://" in path


def decompressed(raw: BinaryIO, limits: Limits) -> BinaryIO:
    """`raw`, or what it holds compressed by gzip, zstd, bz2 or xz."""
    magic = _magic(cast(io.BufferedReader, raw).peek(8))
    if magic is None:
        return raw
    kind, make = MAGIC[magic]
    return cast(BinaryIO, io.BufferedReader(_Decompressed(raw, kind, make, limits.expansion), CHUNK))


def is_compressed(head: bytes) -> bool:
    """Whether a file that begins with `head` is compressed."""
    return _magic(head) is not None


def _magic(head: bytes) -> bytes | None:
    found = next((magic for magic in MAGIC if head.startswith(magic)), None)
    return None if found == b"BZh" and not head[3:4].isdigit() else found


class _Span(io.RawIOBase):
    """The first `size` bytes of a raw file."""

    def __init__(self, raw: BinaryIO, size: int) -> None:
        self._raw = raw
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = self._raw.seek(min(max(0, base + offset), self._size))
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._size - self._at]
        count = self._raw.readinto(view) or 0  # type: ignore[attr-defined]  # every binary file has it
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Decompressed(io.RawIOBase):
    """One or several compressed streams, one behind the other, as the content of all."""

    def __init__(self, raw: BinaryIO, kind: str, make: Any, expansion: float) -> None:
        self._raw = raw
        self._kind = kind
        self._make = make
        self._magics = [magic for magic, (name, _) in MAGIC.items() if name == kind]
        self._expansion = expansion
        self._stream: _Decompressor = make()
        self._read = 0
        self._out = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        while True:
            chunk = self._next(len(view))
            if chunk is None:
                return 0
            if chunk:
                view[: len(chunk)] = chunk
                return len(chunk)

    def _next(self, most: int) -> bytes | None:
        """Some of the content (b"" while a stream begins or ends), or None at the end."""
        if self._stream.eof:
            rest = self._stream.unused_data or self._more()
            while len(rest) < max(map(len, self._magics)) and (more := self._more()):
                rest += more
            if not rest:
                return None
            if any(len(rest) < len(magic) and magic.startswith(rest) for magic in self._magics):
                raise self._truncated()
            if _magic(rest) not in self._magics:  # zeros, or what else may pad a file
                if rest.strip(b"\0"):
                    raise Unreadable("damaged", f"the {self._kind} data is followed by something else")
                return self._skip_padding()
            self._stream = self._make()
            return self._inflated(rest, most)
        if getattr(self._stream, "needs_input", True):
            data = self._more()
            chunk = self._inflated(data, most)
            if not (data or chunk or self._stream.eof):
                raise self._truncated()
            return chunk
        return self._inflated(b"", most)

    def _more(self) -> bytes:
        data = self._raw.read(CHUNK)
        self._read += len(data)
        return data

    def _truncated(self) -> Unreadable:
        return Unreadable("truncated", f"the {self._kind} data is cut after {self._out:,} bytes of content")

    def _inflated(self, data: bytes, most: int) -> bytes:
        try:
            chunk = self._stream.decompress(data, most)
        except DAMAGE as error:
            raise Unreadable(
                "damaged", f"the {self._kind} data is damaged after {self._out:,} bytes of content: {error}"
            ) from error
        self._out += len(chunk)
        if self._out > SMALL and self._out > self._expansion * self._read:
            raise Unreadable(
                "bomb", f"{self._read:,} bytes of {self._kind} became {self._out:,}, more than {self._expansion:g} each"
            )
        return chunk

    def _skip_padding(self) -> bytes | None:
        while data := self._raw.read(CHUNK):
            if data.strip(b"\0"):
                raise Unreadable("damaged", f"the {self._kind} data is followed by something else")
        return None

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
