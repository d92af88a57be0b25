"""Finding files under paths and addresses, each under a name that is the same on every machine."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from pretrain.data.sources.reading import SourceFile, printable
from pretrain.data.sources.streams import is_address
from pretrain.errors import UsageError


def find(paths: Sequence[str], wanted: Callable[[str], bool]) -> list[SourceFile]:
    """The files at `paths`, in order; a path that names a file is taken as it is, a folder is searched.

    What cannot be looked at, and links that lead out of the folder in which they stand, come with their refusal.

    Args:
        paths: files, folders, patterns with `*`, or addresses such as s3://bucket/folder.
        wanted: whether a file inside a folder is meant, by its name.
    Raises:
        UsageError: a path does not exist.
    """
    found = []
    for root, path in enumerate(paths):
        prefix = f"{root}/" if len(paths) > 1 else ""  # keeps names apart that two folders share
        path = path.removeprefix("file://")
        found += list(_remote(path, prefix, wanted) if is_address(path) else _local(path, prefix, wanted))
    return found


def _local(named: str, prefix: str, wanted: Callable[[str], bool]) -> Iterator[SourceFile]:
    path = Path(named).expanduser()
    if path.is_file():
        yield _file(path, prefix + path.name)
    elif path.is_dir():
        yield from _inside(path, path, prefix, wanted)
    elif any(mark in named for mark in "*?["):
        root = Path(path.anchor) if path.is_absolute() else Path()
        matches = sorted(match for match in root.glob(str(path.relative_to(path.anchor))) if match.is_file())
        if not matches:
            raise UsageError(f"data.paths: nothing matches {named}")
        base = Path(*_before_pattern(path.parts))
        for match in matches:
            yield _file(match, prefix + match.relative_to(base).as_posix())
    else:
        raise UsageError(f"data.paths: {named} does not exist")


def _before_pattern(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if any(mark in part for mark in "*?["):
            return
        yield part


def _inside(root: Path, folder: Path, prefix: str, wanted: Callable[[str], bool]) -> Iterator[SourceFile]:
    """The wanted files below `folder`, by name; the names count from `root`."""
    name = printable(prefix + folder.relative_to(root).as_posix())
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        refusal = ("unreadable", f"the folder cannot be read: {_why(error)}")
        yield SourceFile(name + "/", str(folder), 0, refusal=refusal)
        return
    for entry in entries:
        path = Path(entry.path)
        own = printable(prefix + path.relative_to(root).as_posix())
        if entry.is_symlink():
            yield from _link(root, path, own, wanted)
        elif entry.is_dir(follow_symlinks=False):
            yield from _inside(root, path, prefix, wanted)
        elif wanted(entry.name) and path.is_file():
            yield _file(path, own)


def _link(root: Path, path: Path, name: str, wanted: Callable[[str], bool]) -> Iterator[SourceFile]:
    """A link to a file in the folder that is not found by itself; one that leads out comes with its refusal."""
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # it leads in a circle
        return
    if not target.is_relative_to(root.resolve()):
        if target.is_dir() or wanted(path.name):
            refusal = ("link", f"the link leads out of the folder; name {path.readlink()} in data.paths")
            yield SourceFile(name, str(path), 0, refusal=refusal)
    elif target.is_file() and wanted(path.name) and not wanted(target.name):
        yield _file(path, name)


def _file(path: Path, name: str) -> SourceFile:
    refusal = None
    if not os.access(path, os.R_OK):
        refusal = ("unreadable", "the file cannot be read: permission denied")
    # Whoever reads the file may stand in another folder.
    return SourceFile(printable(name), str(path.absolute()), path.stat().st_size, refusal=refusal)


def _remote(address: str, prefix: str, wanted: Callable[[str], bool]) -> Iterator[SourceFile]:
    try:
        system, root = fsspec.core.url_to_fs(address)
        listed = system.glob(root, detail=True) if "*" in root else system.find(root, detail=True)
    except (ImportError, ValueError) as error:  # no library for the protocol, or no such protocol
        raise UsageError(f"data.paths: {address} cannot be opened: {error}") from error
    except OSError as error:
        raise UsageError(f"data.paths: {address} cannot be listed: {_why(error)}") from error
    entries = {path: entry for path, entry in sorted(listed.items()) if entry["type"] == "file"}
    if not entries:
        raise UsageError(f"data.paths: {address} does not exist")
    base = root.partition("*")[0].rpartition("/")[0] if "*" in root or root in entries else root
    for path, entry in entries.items():
        name = path.removeprefix(base).lstrip("/")
        if wanted(name) or "*" in root or root in entries:
            size, refusal = entry.get("size"), None
            if size is None:
                size, refusal = 0, ("unreadable", "the server does not tell its size")
            yield SourceFile(
                printable(prefix + name), system.unstrip_protocol(path), int(size), _version(entry), refusal=refusal
            )


def _version(entry: Mapping[str, Any]) -> str:
    """What changes when a remote file does, as far as its server tells."""
    known = (
        "size",
        "ETag",
        "etag",
        "md5Hash",
        "crc32c",
        "LastModified",
        "last_modified",
        "updated",
        "mtime",
        "created",
    )
    return " ".join(f"{name}={entry[name]}" for name in known if entry.get(name) is not None)


def _why(error: OSError) -> str:
    return error.strerror or str(error)
