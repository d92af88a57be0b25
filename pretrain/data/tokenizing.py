"""From documents to token shards: train the tokenizer on a sample of the training side, and encode both sides."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pretrain.data.manifests import MANIFEST, checksum, key_of, read_json, temporary_name, write_json
from pretrain.data.memory import release_memory
from pretrain.data.shards import VERSION, ShardWriter, TokenShard, shard_dtype, write_manifest
from pretrain.data.stages import Built, Watch, Workspace
from pretrain.errors import DataError
from pretrain.tokenizers.loading import load
from pretrain.tokenizers.tokenizer import Tokenizer, TokenizerTrainer

DOCUMENTS_AT_ONCE = 256
MOST_OF_ONE = 1_000_000  # characters of one document in the tokenizer's sample: none shall make the vocabulary alone


def train_tokenizer(
    trainer: TokenizerTrainer, settings: dict[str, Any], train: Built | None, workspace: Workspace
) -> Path:
    """Train a tokenizer on the first `sample_bytes` of the shuffled training documents, or find it trained.

    Args:
        train: the training documents; None for a tokenizer that needs none.
    Returns:
        its tokenizer.json, in a folder of its key.
    Raises:
        DataError: the tokenizer found is not the one that was written there.
    """
    settings = {name: value for name, value in settings.items() if name != "path"}  # its content counts
    sample = train if trainer.sample_bytes else None
    inputs = [trainer.fingerprint(), *([sample.key] if sample else [])]
    key = key_of(settings=settings, code=trainer.version, libraries=trainer.libraries, inputs=inputs)
    path = workspace.folder / "tokenizers" / key / "tokenizer.json"
    manifest = read_json(path.with_name(MANIFEST))
    if manifest is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        texts = _sample(sample, trainer.sample_bytes, workspace.watch) if sample else iter(())
        trainer.train(texts).save(temporary)
        release_memory()  # of what was learnt from, while the workers encode
        temporary.rename(path)
        made_of = [f"stages/{sample.folder.name}"] if sample else []
        manifest = {"key": key, "settings": settings, "made_of": made_of, "checksum": checksum(path)}
        write_json(path.with_name(MANIFEST), manifest)
    elif not path.exists() or checksum(path) != manifest["checksum"]:
        raise DataError(
            f"the tokenizer {path} is missing or damaged (checksum); remove {path.parent} to train it again"
        )
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
            tokenizer_hash,
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
        "dtype": shard_dtype(tokenizer.vocab_size).name,
        "made_of": [f"tokenizers/{tokenizer_file.parent.name}", *(f"stages/{built.folder.name}" for built in made_of)],
        "splits": {
            name: [asdict(shards[f"{name}-{index:05d}"]) for index in range(len(built.shards))]
            for name, built in sides.items()
        },
    }
    write_manifest(folder, manifest)
    return folder


@dataclass(frozen=True)
class _Task:
    tokenizer: Path
    tokenizer_hash: str
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
    tokenizer = _loaded(task.tokenizer, task.tokenizer_hash)
    writer = ShardWriter(task.folder, task.name, vocab_size=tokenizer.vocab_size, end_of_text=tokenizer.end_of_text)
    shard = writer.shard
    try:
        for names, texts, shard.source in _batches(task.documents):
            writer.write(names, tokenizer.encode_batch(texts))
            shard.bytes += sum(len(text.encode()) for text in texts)
            shard.characters += sum(map(len, texts))
            shard.words += sum(len(text.split()) for text in texts)
    except BaseException:
        writer.abandon()
        raise
    writer.close(last=task.last)
    write_json(record, asdict(shard))
    return shard


@lru_cache(maxsize=1)
def _loaded(file: Path, content: str) -> Tokenizer:
    """The tokenizer, which keeps the words that it has met from shard to shard."""
    return load(file)


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
