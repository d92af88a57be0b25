"""Ready token ids in the files of other programs, read and written.

nanoGPT's NAME.bin (https://github.com/karpathy/nanoGPT/blob/master/data/openwebtext/prepare.py) is uint16 ids without a
header, an end-of-text behind each document where there are several.

Megatron-LM's NAME.bin has the ids, and NAME.idx beside it says where its sequences lie
(https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/core/datasets/indexed_dataset.py). All numbers are
little-endian: nine bytes of magic, uint64 version, uint8 code of the ids' type, uint64 number of sequences S, uint64
length D of the list of documents, int32 (S,) tokens of each sequence, int64 (S,) its first byte in NAME.bin, int64 (D,)
the first sequence of each document and, behind the last one, S. A list of int8 modes may follow; it is not read.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretrain.data.manifests import temporary_name
from pretrain.data.shards import TokenStream
from pretrain.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floating-point numbers
UINT16, INT32 = 8, 4
LONGEST = 2**31 - 1  # tokens in a sequence

Tokens = NDArray[np.integer]

SCANNED_AT_ONCE = 1 << 22  # tokens in which ends of text are looked for


def read_documents(path: Path, end_of_text: int) -> Iterator[Tokens]:
    """The documents of NAME.bin, ends of text aside; empty ones are left out.

    Raises:
        DataError: the file, or the index beside it, is not of either format; the message names it.
    """
    if path.with_suffix(".idx").exists():
        yield from _megatron(path, end_of_text)
    else:
        yield from _split(_mapped(path, np.dtype("<u2")), end_of_text)


def write_nanogpt(stream: TokenStream, path: Path) -> None:
    """Write a split as nanoGPT's train.bin or val.bin.

    Raises:
        DataError: ids need more than 16 bits.
    """
    if stream.dtype != np.uint16:
        raise DataError(
            f"ids of {stream.dtype} in {stream.folder} do not fit nanoGPT's uint16; Megatron's form holds them"
        )
    _write_tokens(stream, path, stream.dtype)


def write_megatron(stream: TokenStream, path: Path) -> None:
    """Write a split as NAME.bin, which `path` names, and NAME.idx; a sequence is a document with its end-of-text.

    Raises:
        DataError: a document has 2^31 tokens or more.
    """
    starts = [first + stream.document_starts(number) for number, first in enumerate(stream.shard_starts())]
    lengths = np.diff(np.concatenate([*starts, [len(stream) - 1]]))
    if len(lengths) and lengths.max() > LONGEST:
        raise DataError(f"a document of {lengths.max():,} tokens is too long for Megatron's index")
    code = UINT16 if stream.dtype == np.uint16 else INT32
    dtype = np.dtype(DTYPES[code])
    _write_tokens(stream, path, dtype)
    index = path.with_suffix(".idx")
    temporary = temporary_name(index)
    with temporary.open("wb") as file:
        file.write(HEADER.pack(MAGIC, 1, code, len(lengths), len(lengths) + 1))
        file.write(lengths.astype("<i4").data)
        file.write(((np.cumsum(lengths) - lengths) * dtype.itemsize).astype("<i8").data)
        file.write(np.arange(len(lengths) + 1, dtype="<i8").data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(index)


def _write_tokens(stream: TokenStream, path: Path, dtype: np.dtype[np.integer]) -> None:
    """All tokens but the first end-of-text, so that one stands behind each document."""
    temporary = temporary_name(path)
    with temporary.open("wb") as file:
        for start in range(1, len(stream), SCANNED_AT_ONCE):
            file.write(stream.read(start, start + SCANNED_AT_ONCE).astype(dtype).data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


class MegatronIndex(NamedTuple):
    """What NAME.idx says.

    Attributes:
        lengths: (S,) tokens of each sequence.
        pointers: (S,) the first byte of each.
        documents: (D,) the first sequence of each document, and S.
    """

    dtype: np.dtype[np.integer]
    lengths: NDArray[np.int32]
    pointers: NDArray[np.int64]
    documents: NDArray[np.int64]


def read_index(path: Path) -> MegatronIndex:
    """Read NAME.idx.

    Raises:
        DataError: it is not Megatron's, or damaged.
    """
    content = path.read_bytes()
    if len(content) < HEADER.size or not content.startswith(MAGIC):
        raise DataError(f"{path} is not an index of Megatron-LM: it does not begin with MMIDIDX")
    _, version, code, sequences, listed = HEADER.unpack_from(content)
    if version != 1:
        raise DataError(f"{path} is of version {version} of Megatron-LM's index; version 1 is known")
    if code not in DTYPES:
        raise DataError(f"{path}: code {code} is no type of token ids; {', '.join(map(str, DTYPES))} are")
    end = HEADER.size + 12 * sequences + 8 * listed
    if len(content) not in (end, end + sequences):
        raise DataError(f"{path} is cut or damaged: {len(content)} bytes, and {sequences} sequences take {end}")
    offset = HEADER.size
    lengths = np.frombuffer(content, "<i4", sequences, offset)
    pointers = np.frombuffer(content, "<i8", sequences, offset + 4 * sequences)
    documents = np.frombuffer(content, "<i8", listed, offset + 12 * sequences)
    if not (len(documents) and documents[0] == 0 and documents[-1] == sequences and (np.diff(documents) >= 0).all()):
        raise DataError(f"{path} is damaged: its list of documents does not go from 0 to {sequences}")
    if sequences and (lengths.min() < 0 or pointers.min() < 0):
        raise DataError(f"{path} is damaged: a length or a place is negative")
    return MegatronIndex(np.dtype(DTYPES[code]), lengths, pointers, documents)


def _megatron(path: Path, end_of_text: int) -> Iterator[Tokens]:
    index = read_index(path.with_suffix(".idx"))
    tokens = _mapped(path, index.dtype)
    size = index.dtype.itemsize
    ends = index.pointers // size + index.lengths
    if (index.pointers % size).any() or (len(ends) and ends.max() > len(tokens)):
        raise DataError(f"{path} and {path.with_suffix('.idx').name} do not belong together, or {path} is cut")
    for first, last in zip(index.documents[:-1].tolist(), index.documents[1:].tolist(), strict=True):
        begins = (index.pointers[first:last] // size).tolist()
        parts = [tokens[a:b] for a, b in zip(begins, ends[first:last].tolist(), strict=True)]
        if parts:
            yield from _split(parts[0] if len(parts) == 1 else np.concatenate(parts), end_of_text)


def _mapped(path: Path, dtype: np.dtype[np.integer]) -> Tokens:
    size = path.stat().st_size
    if not size or size % dtype.itemsize:
        raise DataError(f"{path} is empty or cut: {size} bytes are not a number of {dtype.name} ids")
    tokens: Tokens = np.memmap(path, dtype, mode="r").view(np.ndarray)
    return tokens


def _split(tokens: Tokens, end_of_text: int) -> Iterator[Tokens]:
    """What stands between ends of text, where that is anything."""
    begin = 0
    for start in range(0, len(tokens), SCANNED_AT_ONCE):
        for end in (start + np.flatnonzero(tokens[start : start + SCANNED_AT_ONCE] == end_of_text)).tolist():
            if end > begin:
                yield tokens[begin:end]
            begin = end + 1
    if begin < len(tokens):
        yield tokens[begin:]
