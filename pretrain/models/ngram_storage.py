"""Arrays of n-grams in memory, or on disk: in files without a name that are mapped into memory.

What is written to such an array the system may bring to the disk and drop from memory, so that a corpus larger than
memory is fitted by the same steps as a small one, if these go through the arrays piece by piece. The files lie in the
folder for temporary files (TMPDIR), which must be on a disk, and vanish with their arrays, whatever ends the process.
"""

import math
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pretrain.errors import PretrainError

Ints = NDArray[Any]  # of any integer type

PIECE = 2**18  # elements at a time: their arrays fit a CPU's cache


def pieces(length: int) -> Iterator[slice]:
    """Slices of at most PIECE that go through an array of `length`."""
    for start in range(0, length, PIECE):
        yield slice(start, min(start + PIECE, length))


def empty(shape: tuple[int, ...], dtype: DTypeLike, *, on_disk: bool) -> Ints:
    """An array to be filled.

    Raises:
        PretrainError: the disk is full.
    """
    if not on_disk:
        return np.empty(shape, dtype)
    with temporary_file() as file:
        with disk_errors():  # reserved now, for a write into a map has no way to fail but to kill the process
            _reserve(file.fileno(), math.prod(shape) * np.dtype(dtype).itemsize)
        return mapped(file, shape, dtype)


def temporary_file() -> IO[bytes]:
    """A file without a name, to which an array can be written bit by bit."""
    with disk_errors():
        return tempfile.TemporaryFile(prefix="pretrain-ngrams-")


def mapped(file: IO[bytes], shape: tuple[int, ...], dtype: DTypeLike) -> Ints:
    """The content of a file as an array, which holds it when the file is closed."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.empty(shape, dtype)
    return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Let an error of the disk name the folder."""
    try:
        yield
    except OSError as error:
        raise PretrainError(
            f"n-grams that exceed model.memory_bytes are kept in {tempfile.gettempdir()}: {error.strerror}; "
            "set TMPDIR to a folder with more room"
        ) from error


def _reserve(descriptor: int, size: int) -> None:
    if size and hasattr(os, "posix_fallocate"):  # macOS has none
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)
