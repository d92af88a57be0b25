"""Web crawls compressed by gzip, a member for each record: a damaged member does not end the reading of the file.

https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/#annex-d-informative-compression-recommendations
"""

import io
import zlib
from typing import Any, BinaryIO, cast

from pretrain.data.sources.reading import Limits, SourceFile, Unreadable
from pretrain.data.sources.streams import CHUNK, SMALL, opened, raw_file

MAGIC = b"\x1f\x8b\x08"  # a member begins, compressed by deflate

DAMAGE = b"\r\nhere a gzip member is damaged\r\n"  # stands for what is lost, so that it is told as no record


def opened_archive(file: SourceFile, limits: Limits) -> BinaryIO:
    """The content of a file, decompressed; of a damaged gzip member, what was good, `DAMAGE`, and then the next one.

    Raises:
        Unreadable: (while it is read) the file is cut, or grows beyond `limits`; not compressed by gzip, also: damaged.
    """
    raw = raw_file(file.path)
    if raw.read(len(MAGIC)) != MAGIC:
        raw.close()
        return opened(file, limits)
    raw.seek(0)
    return cast(BinaryIO, io.BufferedReader(_Members(raw, file.size, limits.expansion), CHUNK))


class _Members(io.RawIOBase):
    """The content of the gzip members in the first `size` bytes of a file."""

    def __init__(self, raw: BinaryIO, size: int, expansion: float) -> None:
        self._raw = raw
        self._left = size
        self._expansion = expansion
        self._input = b""
        self._member: Any = None  # zlib's type has no name
        self._read = 0
        self._out = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        while self._member or self._found():
            if not self._input and not self._more():
                raise Unreadable("truncated", f"the gzip data is cut after {self._out:,} bytes of content")
            if content := self._inflated(len(view)):
                view[: len(content)] = content
                return len(content)
        return 0

    def _found(self) -> bool:
        """Go to where the next member begins; False where there is none."""
        while (at := self._input.find(MAGIC)) < 0:
            self._input = self._input[-len(MAGIC) + 1 :]
            if not self._more():
                return False
        self._input = self._input[at:]
        self._member = zlib.decompressobj(wbits=31)
        return True

    def _more(self) -> bool:
        data = self._raw.read(min(CHUNK, self._left))
        self._left -= len(data)
        self._read += len(data)
        self._input += data
        return bool(data)

    def _inflated(self, most: int) -> bytes:
        try:
            content = cast(bytes, self._member.decompress(self._input, most))
        except zlib.error:
            self._member, self._input = None, self._input[1:]
            return DAMAGE
        self._input = self._member.unconsumed_tail
        if self._member.eof:
            self._input, self._member = self._member.unused_data, None
        self._out += len(content)
        if self._out > SMALL and self._out > self._expansion * self._read:
            raise Unreadable(
                "bomb", f"{self._read:,} bytes of gzip became {self._out:,}, more than {self._expansion:g} each"
            )
        return content

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
