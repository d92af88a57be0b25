"""Token shards from ready token ids, data=tokens: no text passes, so no stage does.

Documents stay in the order of the files; rows are shuffled in any case. Validation is the files named for it, or else
a share of the documents by the hash of their tokens, so that copies never part.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import xxhash

from pretrain.data.manifests import MANIFEST, checksum, key_of, read_json, write_json
from pretrain.data.shards import VERSION, ShardWriter, TokenShard, shard_dtype, write_manifest
from pretrain.data.splits import ALL_TRAINING, PLACES, Ranges
from pretrain.data.stages import Watch, Workspace
from pretrain.data.token_files import Tokens, read_documents
from pretrain.errors import ConfigError, DataError, UsageError
from pretrain.tokenizers.loading import load
from pretrain.tokenizers.tokenizer import Tokenizer

IMPORT_VERSION = 1
SHARD_TOKENS = 1 << 25  # in a shard, about
AT_ONCE = 1 << 20  # tokens that are written, or decoded, together
NANOGPT_VALIDATION = "val.bin"


class TokenFiles:
    """Files of ids that another program wrote; which format it is, the file tells.

    Args:
        paths: NAME.bin of nanoGPT, or of Megatron-LM with NAME.idx beside it; folders (not those inside) and
            patterns (ids/**/*.bin) of such.
    """

    version: ClassVar[int] = IMPORT_VERSION
    libraries: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, paths: list[str]) -> None:
        self.paths = paths

    def files(self) -> list[Path]:
        """Refuse: there are no texts for the stages.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("data=tokens brings token ids and no texts: they pass no stage, and do not mix with texts")

    def token_files(self) -> list[Path]:
        """The files of all paths, in order.

        Raises:
            UsageError: a path does not exist, or has no .bin file.
        """
        return [file for path in self.paths for file in _found(path, "data.paths")]


def _found(path: str, setting: str) -> list[Path]:
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(place.glob("*.bin"))
    elif place.is_file() and place.suffix == ".idx":
        files = [place.with_suffix(".bin")]
    else:
        root = Path(place.absolute().anchor)
        pattern = str(place.absolute().relative_to(root))
        files = sorted(root.glob(pattern)) or sorted(root.glob(f"{pattern}.bin"))
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise UsageError(f"{setting}: {missing[0] if missing else path} does not exist, or has no .bin file")
    return files


def import_tokens(
    sources: Mapping[str, TokenFiles],
    validation_paths: Sequence[str],
    tokenizer_file: Path,
    *,
    fraction: float,
    seed: int,
    workspace: Workspace,
) -> Path:
    """Write the documents of `sources` as token shards, or find them written.

    Args:
        validation_paths: files with the validation documents; none: nanoGPT's val.bin where there is one in a folder,
            else a share of the documents.
        tokenizer_file: the tokenizer that made the ids.
        fraction: that share.
        seed: of the choice.
    Returns:
        the folder of shards and manifest.
    Raises:
        DataError: a file is damaged, an id is outside the vocabulary, or there is no token at all.
    """
    training = {name: source.token_files() for name, source in sources.items()}
    validation = [file for path in validation_paths for file in _found(path, "data.validation_paths")]
    if not validation:
        validation = [file for files in training.values() for file in files if file.name == NANOGPT_VALIDATION]
        training = {name: [file for file in files if file not in validation] for name, files in training.items()}
    tokenizer_hash = checksum(tokenizer_file)
    known = _Checksums(workspace.folder / "token_files.json")
    inputs = [f"train {name} {known.of(file)}" for name, files in training.items() for file in files]
    inputs += [f"validation {known.of(file)}" for file in validation]
    known.save()
    key = key_of(
        settings={"fraction": None if validation else fraction, "seed": seed, "sources": list(sources)},
        code=1000 * VERSION + IMPORT_VERSION,
        inputs=[tokenizer_hash, *inputs],
    )
    folder = workspace.folder / "tokens" / key
    if read_json(folder / MANIFEST) is not None:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)  # of a build that was killed
    tokenizer = load(tokenizer_file)
    sides = _written(folder, training, validation, tokenizer, fraction, seed, workspace.watch)
    manifest = {
        "key": key,
        "tokenizer": tokenizer_hash,
        "vocab_size": tokenizer.vocab_size,
        "end_of_text": tokenizer.end_of_text,
        "dtype": shard_dtype(tokenizer.vocab_size).name,
        "made_of": [f"tokenizers/{tokenizer_file.parent.name}"],
        "splits": {name: [asdict(shard) for shard in shards] for name, shards in sides.items()},
    }
    write_manifest(folder, manifest)
    return folder


def _written(
    folder: Path,
    training: Mapping[str, Sequence[Path]],
    validation: Sequence[Path],
    tokenizer: Tokenizer,
    fraction: float,
    seed: int,
    watch: Watch,
) -> dict[str, list[TokenShard]]:
    """The shards of both sides, written."""
    total = sum(file.stat().st_size for files in (*training.values(), validation) for file in files)
    watch.begin("tokens", total)
    where = ALL_TRAINING if validation else _ranges(training, tokenizer, fraction, seed)
    sides = {name: _Side(folder, name, tokenizer) for name in ("train", "validation")}
    try:
        for source, files in training.items():
            for file in files:
                for name, document in _named(file, tokenizer):
                    watch.idle()
                    for part_of, part in _parted(document, where, seed):
                        sides[part_of].add(source, name, part)
                watch.done("tokens", file.stat().st_size, [])
        for file in validation:
            for name, document in _named(file, tokenizer):
                sides["validation"].add("validation", name, document)
            watch.done("tokens", file.stat().st_size, [])
        return {name: side.finish() for name, side in sides.items()}
    except BaseException:
        for side in sides.values():
            side.abandon()
        raise


class _Side:
    """The shards of one split, as they are written."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer) -> None:
        self._folder = folder
        self._name = name
        self._tokenizer = tokenizer
        self._shards: list[TokenShard] = []
        self._writer: ShardWriter | None = None
        self._waiting: list[tuple[str, Tokens]] = []
        self._tokens_waiting = 0

    def add(self, source: str, name: str, document: Tokens) -> None:
        if self._writer is None or self._writer.shard.source != source or self._writer.shard.tokens >= SHARD_TOKENS:
            self._close(last=False)
            shard = f"{self._name}-{len(self._shards):05d}"
            sizes = (self._tokenizer.vocab_size, self._tokenizer.end_of_text)
            self._writer = ShardWriter(self._folder, shard, vocab_size=sizes[0], end_of_text=sizes[1], source=source)
        if len(document) > AT_ONCE:
            self._flush()
            self._writer.write_long(name, _pieces(document))
            self._measure(self._writer.shard, document)
            return
        self._waiting.append((name, document))
        self._tokens_waiting += len(document)
        if self._tokens_waiting >= AT_ONCE:
            self._flush()

    def finish(self) -> list[TokenShard]:
        if self._writer is None:
            raise DataError(f"the token files hold no document for {self._name}; bring more of them")
        self._close(last=True)
        return self._shards

    def abandon(self) -> None:
        """Leave no half-written shard behind."""
        if self._writer:
            self._writer.abandon()

    def _flush(self) -> None:
        if self._writer and self._waiting:
            self._writer.write([name for name, _ in self._waiting], [document for _, document in self._waiting])
            for _, document in self._waiting:
                self._measure(self._writer.shard, document)
        self._waiting, self._tokens_waiting = [], 0

    def _measure(self, shard: TokenShard, document: Tokens) -> None:
        """Count the text that bits per byte are measured by; that of training is not asked for, and costs time."""
        if self._name != "validation":
            return
        for piece in _pieces(document):
            text = self._tokenizer.decode(piece.tolist())
            shard.bytes += len(text.encode())
            shard.characters += len(text)
            shard.words += len(text.split())

    def _close(self, *, last: bool) -> None:
        self._flush()
        if self._writer:
            self._shards.append(self._writer.close(last=last))
            self._writer = None


def _pieces(document: Tokens) -> Iterator[Tokens]:
    for start in range(0, len(document), AT_ONCE):
        yield document[start : start + AT_ONCE]


def _named(file: Path, tokenizer: Tokenizer) -> Iterator[tuple[str, Tokens]]:
    for number, document in enumerate(read_documents(file, tokenizer.end_of_text)):
        yield f"{number} of {file}", document


def _ranges(training: Mapping[str, Sequence[Path]], tokenizer: Tokenizer, fraction: float, seed: int) -> Ranges:
    """Which places are validation, as splits.ranges says it of texts."""
    lowest, highest = PLACES, -1
    for files in training.values():
        for file in files:
            for document in read_documents(file, tokenizer.end_of_text):
                place = _place(document, seed)
                lowest, highest = min(lowest, place), max(highest, place)
    if highest < 0:
        raise DataError("the token files hold no document: ends of text at most")
    if lowest == highest:
        return Ranges(0, cut=fraction)
    border = int(fraction * PLACES)
    return Ranges(border if lowest < border <= highest else lowest + 1)


def _place(document: Tokens, seed: int) -> int:
    """A place in [0, PLACES) by the hash of the tokens, whatever their type."""
    digest = xxhash.xxh3_64(seed=seed)
    for piece in _pieces(document):
        digest.update(piece.astype("<i8").data)
    return digest.intdigest() >> 2


def _parted(document: Tokens, where: Ranges, seed: int) -> Iterator[tuple[str, Tokens]]:
    """The sides that a document, or its parts, belong to."""
    if where.cut:
        border = int(len(document) * (1 - where.cut))
        parts = (("train", document[:border]), ("validation", document[border:]))
        yield from ((side, part) for side, part in parts if len(part))
    elif not where.border or _place(document, seed) >= where.border:
        yield "train", document
    else:
        yield "validation", document


@dataclass
class _Checksums:
    """Checksums of files, kept with size and time of change, so that large ones are not read at every start."""

    path: Path

    def __post_init__(self) -> None:
        self._known: dict[str, list[int | str]] = read_json(self.path) or {}
        self._used: dict[str, list[int | str]] = {}

    def of(self, file: Path) -> str:
        """The checksum of a .bin file and of the index beside it."""
        sums = []
        for part in (file, file.with_suffix(".idx")):
            if not part.exists():
                continue
            stat, name = part.stat(), str(part.resolve())
            known = self._known.get(name)
            if known is None or known[:2] != [stat.st_size, stat.st_mtime_ns]:
                known = [stat.st_size, stat.st_mtime_ns, checksum(part)]
            self._used[name] = known
            sums.append(str(known[2]))
        return " ".join(sums)

    def save(self) -> None:
        if any(self._known.get(name) != known for name, known in self._used.items()):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self._known | self._used)
