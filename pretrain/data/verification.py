"""Token files are compared with their checksums before a training where they are new, and beside it where they are not.

So a start takes as long for a terabyte as for a megabyte. Which files were found to be as written is kept beside them,
with their sizes, times of change and inodes; what differs in any of these is new.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pretrain.data.manifests import read_json, write_json
from pretrain.data.shards import TokenStream
from pretrain.errors import DataError

Stamps = dict[str, list[Any]]  # by file: its checksum, and what tells that it was not touched


@contextmanager
def verification(streams: list[TokenStream], *, beside: bool) -> Iterator[Callable[[], None]]:
    """What verifies the files of `streams` when it is called: new ones at once, the others while the block goes on.

    Where one of the others is damaged, its stream gives no more tokens but raises the error, and it is new next time.

    Args:
        beside: whether this process reads the others, or leaves that to another one.
    """
    ended = threading.Event()
    others: list[tuple[TokenStream, Stamps]] = []
    reader = threading.Thread(target=lambda: _read_beside(others, ended), name="verification", daemon=True)

    def verify() -> None:
        others.extend((stream, _verify_new(stream)) for stream in streams)
        if beside:
            reader.start()

    try:
        yield verify
    finally:
        ended.set()
        if reader.ident is not None:
            reader.join()


def _verify_new(stream: TokenStream) -> Stamps:
    """Compare with its checksum each file that is not known to be as written; all stamps but those of such files.

    Raises:
        DataError: one is damaged; the message names it.
    """
    known = _stamps_of(stream)
    now = {name: _stamp(stream.folder / name, checksum) for name, checksum in stream.files()}
    for name, stamp in now.items():
        if known.get(name) != stamp:
            stream.verify_file(name, stamp[0])
    if now != known:
        _keep(stream, now)
    return {name: stamp for name, stamp in now.items() if known.get(name) == stamp}


def _read_beside(others: list[tuple[TokenStream, Stamps]], ended: threading.Event) -> None:
    class Ended(Exception):
        pass

    def go_on(block: bytes) -> None:
        if ended.is_set():
            raise Ended

    for stream, stamps in others:
        for name, stamp in stamps.items():
            try:
                stream.verify_file(name, stamp[0], go_on)
            except Ended:
                return
            except (DataError, OSError) as error:
                _keep(stream, {other: kept for other, kept in _stamps_of(stream).items() if other != name})
                stream.damage = error
                return


def _stamp(path: Path, checksum: str) -> list[Any]:
    found = path.stat()
    return [checksum, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _path(stream: TokenStream) -> Path:
    return stream.folder / f".verified-{stream.name}.json"


def _stamps_of(stream: TokenStream) -> Stamps:
    known = None
    with suppress(DataError):  # a damaged list is no list
        known = read_json(_path(stream))
    return known if isinstance(known, dict) else {}


def _keep(stream: TokenStream, stamps: Stamps) -> None:
    with suppress(OSError):  # a folder that one may only read is verified at each start
        write_json(_path(stream), stamps)
