"""Keys and files of what the pipeline builds: the same key always holds the same bytes.

A key hashes what a result depends on: the key of its input, the settings, the code's version and the versions of the
libraries that it names; never worker counts, path prefixes or times.
"""

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from pretrain.errors import DataError

MANIFEST = "manifest.json"


def key_of(*, settings: Mapping[str, Any], code: int, libraries: Sequence[str] = (), inputs: Sequence[str] = ()) -> str:
    """The key, 16 hex digits, of what `settings` make of `inputs`."""
    content = {
        "settings": settings,
        "code": code,
        "libraries": {name: version(name) for name in libraries},
        "inputs": list(inputs),
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())[:16]


def write_json(path: Path, content: Any) -> None:
    """Write `content` under a temporary name, sync it, and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
        raise DataError(f"{path} is damaged ({error}); remove its folder to build it again") from error


def checksum(path: Path) -> str:
    """xxh3-128 of a file, in hex."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
