"""Token shards: what training reads.

A shard is a file of little-endian uint16 or uint32 ids and, beside it, the document index: little-endian uint64
positions at which its documents start. The shards of a split, joined, are the stream EOT doc EOT doc ... EOT. The
manifest holds checksums, sizes, and the hash of the tokenizer.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pretrain.data.manifests import MANIFEST, checksum, key_of, read_json, temporary_name, write_json
from pretrain.data.stages import Built, Watch, Workspace
from pretrain.errors import DataError
from pretrain.tokenizers.loading import load
from pretrain.tokenizers.tokenizer import Tokenizer, TokenizerTrainer

VERSION = 2
DOCUMENTS_AT_ONCE = 256
MOST_OF_ONE = 1_000_000  # characters of one document in the tokenizer's sample: none shall make the vocabulary alone


@dataclass
class TokenShard:
    """One file of tokens, and what the text in it measures."""

    file: str
    checksum: str
    tokens: int
    documents: int
    bytes: int  # UTF-8
    characters: int
    words: int  # separated by white space
    source: str  # the one that all its documents come from


def train_tokenizer(trainer: TokenizerTrainer, settings: dict[str, Any], train: Built, workspace: Workspace) -> Path:
    """Train a tokenizer on the first `sample_bytes` of the shuffled training documents, or find it trained.

    Returns:
        its tokenizer.json, in a folder of its key.
    """
    settings = {name: value for name, value in settings.items() if name != "path"}  # its content counts
    inputs = [trainer.fingerprint(), *([train.key] if trainer.sample_bytes else [])]
    key = key_of(settings=settings, code=trainer.version, libraries=trainer.libraries, inputs=inputs)
    path = workspace.folder / "tokenizers" / key / "tokenizer.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        trainer.train(_sample(train, trainer.sample_bytes, workspace.watch)).save(temporary)
        temporary.rename(path)
    return path


def write_shards(
    tokenizer_file: Path, sides: dict[str, Built], workspace: Workspace, made_of: Sequence[Built] = ()
) -> Path:
    """Encode the documents of each side into token shards, or find them written.

    Args:
        made_of: every stage on the way, named in the manifest so that `pretrain data clean` knows what it needs.
    Returns:
        the folder of shards and manifest.
    Raises:
        DataError: the tokenizer gives an id outside its vocabulary.
    """
    tokenizer_hash = checksum(tokenizer_file)
    key = key_of(settings={}, code=VERSION, inputs=[tokenizer_hash, *(f"{n} {b.key}" for n, b in sides.items())])
    folder = workspace.folder / "tokens" / key
    if read_json(folder / MANIFEST) is not None:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)  # of a build that was killed
    tasks = [
        _Task(
            tokenizer_file,
            file,
            shard.bytes_out,
            folder,
            f"{name}-{index:05d}",
            last=index == len(built.shards) - 1,
        )
        for name, built in sides.items()
        for index, (file, shard) in enumerate(zip(built.files(), built.shards, strict=True))
    ]
    shards: dict[str, TokenShard] = {}
    workspace.watch.begin("tokenize", sum(task.bytes for task in tasks))
    for task, shard in workspace.executor.map(_encode, tasks, workspace.watch.idle):
        shards[task.name] = shard
        workspace.watch.done("tokenize", task.bytes, [])
    tokenizer = load(tokenizer_file)
    manifest = {
        "key": key,
        "tokenizer": tokenizer_hash,
        "vocab_size": tokenizer.vocab_size,
        "end_of_text": tokenizer.end_of_text,
        "dtype": _dtype(tokenizer).name,
        "made_of": [f"tokenizers/{tokenizer_file.parent.name}", *(f"stages/{built.folder.name}" for built in made_of)],
        "splits": {
            name: [asdict(shards[f"{name}-{index:05d}"]) for index in range(len(built.shards))]
            for name, built in sides.items()
        },
    }
    write_json(folder / MANIFEST, manifest)
    return folder


class TokenStream:
    """The shards of one split as one array of token ids, read from memory maps.

    Attributes:
        bytes, characters, words: of the text that the tokens stand for.
    """

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
        self.shards = [TokenShard(**shard) for shard in manifest["splits"][split]]
        self.folder = folder
        self.name = split
        self.bytes = sum(shard.bytes for shard in self.shards)
        self.characters = sum(shard.characters for shard in self.shards)
        self.words = sum(shard.words for shard in self.shards)
        self._maps: list[np.ndarray] = []
        for shard in self.shards:
            path = folder / shard.file
            if not path.exists() or path.stat().st_size != shard.tokens * dtype.itemsize:
                raise DataError(f"the token shard {path} is missing or cut; remove {folder} to write it again")
            self._maps.append(np.memmap(path, dtype, mode="r") if shard.tokens else np.zeros(0, dtype))
        self._starts = np.cumsum([0, *(len(tokens) for tokens in self._maps)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def sources(self) -> dict[str, tuple[int, int]]:
        """Where the tokens of each source begin and end, in order; the end-of-text behind a source is its own too."""
        spans: dict[str, tuple[int, int]] = {}
        for shard, start in zip(self.shards, self._starts.tolist(), strict=False):
            if shard.documents:
                first, _ = spans.get(shard.source, (start, start))
                spans[shard.source] = (first, min(start + shard.tokens + 1, len(self)))
        return spans

    def verify(self) -> None:
        """Compare every shard with its checksum.

        Raises:
            DataError: a shard is not what was written; the message names it.
        """
        for shard in self.shards:
            if checksum(self.folder / shard.file) != shard.checksum:
                raise DataError(
                    f"the token shard {self.folder / shard.file} is damaged (checksum); "
                    f"remove {self.folder} to write it again"
                )

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop), as int64."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        pieces = []
        for tokens, begin in zip(self._maps[first:], self._starts[first:], strict=False):
            if begin >= stop:
                break
            pieces.append(tokens[max(start - begin, 0) : stop - begin])
        return np.concatenate(pieces).astype(np.int64) if pieces else np.zeros(0, np.int64)

    def array(self) -> np.ndarray:
        """All tokens in the shards' own type: a memory map where there is one shard, else a copy."""
        return self._maps[0] if len(self._maps) == 1 else np.concatenate(self._maps)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of token shards.

    Raises:
        DataError: there is none.
    """
    manifest: dict[str, Any] | None = read_json(folder / MANIFEST)
    if manifest is None:
        raise DataError(f"{folder} holds no token shards; build them with the same data settings: pretrain data ...")
    return manifest


@dataclass(frozen=True)
class _Task:
    tokenizer: Path
    documents: Path
    bytes: int
    folder: Path
    name: str
    last: bool


def _encode(task: _Task) -> TokenShard:
    """Write one shard, unless it is there."""
    record = task.folder / f"{task.name}.json"
    done = read_json(record)
    if done is not None:
        return TokenShard(**done)
    tokenizer = load(task.tokenizer)
    dtype = _dtype(tokenizer)
    shard = TokenShard(f"{task.name}.bin", "", 0, 0, 0, 0, 0, "")
    starts: list[int] = []
    path = task.folder / shard.file
    temporary = temporary_name(path)
    with temporary.open("wb") as file:
        for names, texts, shard.source in _batches(task.documents):
            for name, text, ids in zip(names, texts, tokenizer.encode_batch(texts), strict=True):
                if len(ids) and int(ids.max()) >= tokenizer.vocab_size:
                    raise DataError(f"document {name}: token id {ids.max()} is outside {tokenizer.vocab_size} ids")
                starts.append(shard.tokens)
                file.write(np.array([tokenizer.end_of_text], dtype).tobytes() + ids.astype(dtype).tobytes())
                shard.tokens += 1 + len(ids)
                shard.documents += 1
                shard.bytes += len(text.encode())
                shard.characters += len(text)
                shard.words += len(text.split())
        if task.last:
            file.write(np.array([tokenizer.end_of_text], dtype).tobytes())
            shard.tokens += 1
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    np.array(starts, "<u8").tofile(path.with_suffix(".idx"))
    shard.checksum = checksum(path)
    write_json(record, asdict(shard))
    return shard


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")


def _batches(file: Path) -> Iterator[tuple[list[str], list[str], str]]:
    """Ids and texts of some documents at a time, and the source that all documents of the shard come from."""
    for batch in pq.ParquetFile(file).iter_batches(DOCUMENTS_AT_ONCE, columns=["id", "text", "source"]):
        if len(batch):
            yield batch["id"].to_pylist(), batch["text"].to_pylist(), batch["source"][0].as_py()


def _sample(train: Built, most: int, watch: Watch) -> Iterator[str]:
    """Training texts, of each source in order and by its size, until `most` bytes are out."""
    sizes: Counter[str] = Counter()
    files: dict[str, list[Path]] = {}
    for shard, file in zip(train.shards, train.files(), strict=True):
        source = next((source for _, _, source in _batches(file)), None)
        if source is not None:
            sizes[source] += shard.bytes_out
            files.setdefault(source, []).append(file)
    watch.begin("tokenizer", min(most, train.total("bytes_out")))
    texts = {source: _texts(files[source]) for source in files}
    taken: Counter[str] = Counter()
    while most > 0 and texts:
        source = min(texts, key=lambda source: taken[source] / max(1, sizes[source]))
        whole = next(texts[source], None)
        if whole is None:
            del texts[source]
            continue
        taken[source] += len(whole.encode())
        text = whole[:MOST_OF_ONE]
        size = len(text.encode())
        most -= size
        watch.idle()
        watch.done("tokenizer", size, [])
        yield text


def _texts(files: Sequence[Path]) -> Iterator[str]:
    for file in files:
        for _, texts, _ in _batches(file):
            yield from texts
