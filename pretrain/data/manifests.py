"""Keys and files of what the pipeline builds: the same key always holds the same bytes.

A key hashes what a result depends on: the key of its input, the settings, the code's version and the versions of the
libraries that it names; never worker counts, path prefixes or times.
"""

import json
import os
import socket
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from pretrain.errors import DataError

MANIFEST = "manifest.json"
BLOCK = 1 << 20  # bytes hashed at once
UNICODE = "unicode"  # the tables of Python's re and unicodedata, named like a library


def key_of(*, settings: Mapping[str, Any], code: int, libraries: Sequence[str] = (), inputs: Sequence[str] = ()) -> str:
    """The key, 16 hex digits, of what `settings` make of `inputs`."""
    content = {
        "settings": settings,
        "code": code,
        "libraries": {name: _version(name) for name in libraries},
        "inputs": list(inputs),
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())[:16]


def _version(library: str) -> str:
    return unicodedata.unidata_version if library == UNICODE else version(library)


def temporary_name(path: Path) -> Path:
    """Where `path` is written before it is renamed: hidden, and no other process's, on whatever machine."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def write_json(path: Path, content: Any) -> None:
    """Write `content` under a temporary name, sync it, and rename it to `path`."""
    temporary = temporary_name(path)
    # A lone surrogate, such as in the path of a file whose name is not UTF-8, becomes JSON's escape of it.
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(content, file, ensure_ascii=False, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def read_json(path: Path) -> Any:
    """What `path` holds, or None where there is no such file.

    Raises:
        DataError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); remove it, or its folder, to build it again") from error


def checksum(path: Path, size: int | None = None, see: Callable[[bytes], None] | None = None) -> str:
    """xxh3-128 of a file, or of its first `size` bytes, in hex; `see` is shown each block of BLOCK bytes on the way."""
    digest = xxhash.xxh3_128()
    left = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, BLOCK))):
            digest.update(block)
            if see:
                see(block)
            left -= len(block)
    return digest.hexdigest()
