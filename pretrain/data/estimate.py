"""What a build will take, in time and on the disk, told before it begins; of a large corpus from a small sample."""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.data.excerpt import Piece, Recipe, pass_through, scattered_pieces
from pretrain.data.executors import Serial
from pretrain.data.manifests import MANIFEST
from pretrain.data.running import CorpusStage, run_stage
from pretrain.data.sources.reading import Limits, Record, Source
from pretrain.data.sources.streams import is_address, is_compressed, raw_file
from pretrain.data.splits import ALL_TRAINING, gather, place_documents
from pretrain.data.stages import Built, Silent, Workspace, row_groups
from pretrain.errors import PretrainError

SMALLEST_CORPUS = 8_000_000  # stored bytes; a smaller one is built before a sample would have been measured
SAMPLE = 600_000  # bytes of text
WARM = 0.2  # of the sample, passed by itself, so that fixed costs are told from those that grow
MOST_SECONDS = 0.3  # spent on reading the sample
CUT = 1 << 19  # bytes of a large file that is not plain text in lines, from which its sample comes
NAMED = 53  # bytes a document of its id and its place in a cluster, while duplicates are looked for
COMPRESSION = 2.5  # bytes of text a stored byte, where a file cannot be cut to measure it

# Measured in CPU seconds over English novels and made-up words: 2.5 and 4.5, and 9.8 and 12.5 million bytes a second.
TOKENIZER_SPEED = 3e6  # bytes of text a second from which byte-pair encoding learns, in one process
ENCODING_SPEED = 8e6  # bytes of text a second, a worker
TOKEN_SHARE = 0.6  # bytes of tokens for each byte of text: 2 for every 3.6
# Of a small corpus only roughly:
STAGE_SPEED = 2e7  # bytes of text a second that pass a stage
STORED_SHARE = 0.45  # bytes on the disk for each byte of text that a stage keeps
OTHERS = 4  # steps that always run: collect, shuffle, train, validation
PER_GIGABYTE = "the default recipe takes about 6 minutes of a core and 4 GB of disk for each GB of text"


@dataclass(frozen=True)
class Estimate:
    """Attributes:
    corpus_bytes: as they are stored.
    seconds: None where it is not known; of a corpus that is far away without those of the download.
    disk_bytes: the most that lies in the data folder at one time, or None; few of the duplicates meet in a sample, so
        it is told high.
    far: whether some of the corpus is not on this machine's disk.
    """

    corpus_bytes: int
    seconds: float | None
    disk_bytes: float | None
    far: bool = False


@dataclass(frozen=True)
class _Cost:
    """What a recipe took for some pieces of text, in CPU seconds, and what came of each byte of it."""

    seconds: float
    kept: float
    disk: float


def estimate(
    sources: Mapping[str, Source],
    recipe: Recipe,
    limits: Limits,
    *,
    workers: int,
    tokenizer_sample: int,
    first: str = "collect",
) -> Estimate:
    """Measure a recipe on a sample of a corpus, or tell roughly what a small corpus takes.

    Args:
        workers: processes that work at the same time.
        tokenizer_sample: bytes of text from which the tokenizer learns, at most.
        first: the stage that is the first to be built; those before it are there.
    """
    pieces = scattered_pieces(sources, seed=1)
    corpus = sum({piece.order: piece.file.size for piece in pieces}.values())
    far = any(_far(piece) for piece in pieces)
    if corpus < SMALLEST_CORPUS and not far:
        text = sum(_stored(piece) * (COMPRESSION if _is_compressed(piece) else 1) for piece in pieces)
        steps = _steps_from(first, recipe)
        return Estimate(corpus, text * steps / STAGE_SPEED, text * (steps * STORED_SHARE + TOKEN_SHARE))
    sample, stored, reading = _read(pieces, limits)
    sizes = np.cumsum([_text(piece) for piece in sample]).tolist()
    if not sizes or not sizes[-1]:
        return Estimate(corpus, None, None, far)
    some = 1 + int(np.searchsorted(sizes, WARM * sizes[-1]))
    _passed(sample[:some], recipe, limits, first)  # pays for what is imported
    warm, cost = (_passed(part, recipe, limits, first) for part in (sample[:some], sample))
    more = sizes[-1] - sizes[min(some, len(sizes)) - 1]
    passing = (cost.seconds - warm.seconds) / more if more else cost.seconds / sizes[-1]
    text = corpus * sizes[-1] / stored
    kept = text * cost.kept
    seconds = (text * ((reading if first == "collect" else 0.0) + max(0.0, passing)) + kept / ENCODING_SPEED) / workers
    seconds += min(kept, tokenizer_sample) / TOKENIZER_SPEED if first != "tokenize" else 0.0
    return Estimate(corpus, seconds, text * cost.disk + kept * TOKEN_SHARE, far)


def _steps_from(first: str, recipe: Recipe) -> int:
    """The steps from `first` on, those of the recipe and the others."""
    if first == "collect":
        return len(recipe) + OTHERS
    names = list(recipe)
    return len(names) - names.index(first) + OTHERS - 1 if first in recipe else OTHERS - 1


def _far(piece: Piece) -> bool:
    return is_address(piece.file.path) or piece.file.fingerprint is not None


def _is_compressed(piece: Piece) -> bool:
    with raw_file(piece.file.path) as file:
        return is_compressed(file.read(8))


def refuse_full_disk(disk_bytes: float, folder: Path) -> None:
    """Raise PretrainError where `disk_bytes` are more than the disk of `folder` has."""
    there = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    begun = [
        path for path in folder.glob("stages/collect-*") if not (path / MANIFEST).exists()
    ]  # by a broken off build
    there_already = sum(file.stat().st_size for path in begun for file in path.rglob("*.parquet"))
    free = shutil.disk_usage(there).free + there_already
    if disk_bytes > free:
        raise PretrainError(
            f"the build needs about {disk_bytes / 1e9:,.1f} GB of disk, and where data_dir={folder} lies "
            f"{free / 1e9:,.1f} GB are free; make room or choose another data_dir"
        )


def _read(pieces: Sequence[Piece], limits: Limits) -> tuple[list[Piece], float, float]:
    """Read a sample, drawing pieces by their size.

    Returns:
        the pieces, the stored bytes that they stand for, and CPU seconds for each byte of text.
    """
    weights = np.array([max(1, _stored(piece)) for piece in pieces])
    order = np.argsort(np.random.default_rng(1).exponential(size=len(pieces)) / weights)
    started = time.perf_counter()
    sample: list[Piece] = []
    stored, text, seconds, timed = 0.0, 0, 0.0, 0
    for at in order.tolist():
        before = time.process_time()
        piece, size = _sampled(pieces[at], limits)
        if sample:  # the first one pays for what is imported
            seconds += time.process_time() - before
            timed += _text(piece)
        sample.append(piece)
        stored += size
        text += _text(piece)
        if text >= SAMPLE or time.perf_counter() - started > MOST_SECONDS:
            break
    return sample, stored, seconds / timed if timed else 0.0


def _sampled(piece: Piece, limits: Limits) -> tuple[Piece, float]:
    """A piece that is read to its end, or a large file's beginning, and the stored bytes that it stands for."""
    size = _stored(piece)
    if piece.file.fingerprint is not None and not is_address(piece.file.path):  # a hub's: no bytes to be cut
        return _beginning(piece, limits)
    if size <= CUT:
        piece.read(size, limits)  # a record has a byte at least
        return piece, size
    beginning = dataclasses.replace(piece, file=dataclasses.replace(piece.file, size=CUT))
    beginning.read(CUT, limits)
    if text := _text(beginning):
        beginning.failure = None
        lost = max(len(item.text) for item in beginning.items if isinstance(item, Record)) / 2  # by the cut, on average
        return beginning, CUT * text / (text + lost)
    return _beginning(piece, limits)


def _beginning(piece: Piece, limits: Limits) -> tuple[Piece, float]:
    """Some of the first records of a piece, and a guess at the stored bytes that they stand for."""
    while _text(piece) < SAMPLE / 4 and piece.read(16, limits):
        pass
    return piece, _text(piece) / COMPRESSION


def _passed(pieces: Sequence[Piece], recipe: Recipe, limits: Limits, first: str) -> _Cost:
    """Run the recipe in a temporary folder, up to the shuffled documents, and measure it from the stage `first` on."""
    names = list(recipe)
    there = 0 if first == "collect" else names.index(first) if first in recipe else len(names)
    before = dict(list(recipe.items())[:there])
    with tempfile.TemporaryDirectory() as folder:
        at = Workspace(Path(folder), Serial(), Silent())
        started = time.process_time()
        stages = pass_through(pieces, before, limits, at)
        text = max(1, stages[0].total("bytes_out"))
        if first != "collect":
            started = time.process_time()
        for name in names[there:]:
            stages.append(run_stage(name, *recipe[name], stages[-1], at))
        kept = stages[-1].total("bytes_out")
        new = stages if first == "collect" else stages[there + 1 :]
        if kept and not first.startswith("tokeniz"):
            placed = place_documents(stages[-1], seed=1, workspace=at)
            new = [*new, placed, gather(placed, "train", ALL_TRAINING, shard_bytes=text, workspace=at)]
        seconds = time.process_time() - started
        sizes = {built.name: sum(file.stat().st_size for file in built.folder.rglob("*.parquet")) for built in new}
        sketches = _sketches(stages, recipe, sizes)
    return _Cost(seconds, kept / text, max([sum(sizes.values()), *sketches]) / text)


def _sketches(stages: Sequence[Built], recipe: Recipe, sizes: Mapping[str, int]) -> list[int]:
    """For each stage that sees the whole corpus: what it sketches, and what is new by then, in bytes."""
    found = []
    for before, (name, (_, stage)) in zip(stages, recipe.items(), strict=False):
        if isinstance(stage, CorpusStage) and name in sizes:
            size = 0
            for documents in (table for file in before.files() for table in row_groups(file)):
                keys, details = stage.sketch(documents)
                size += keys.nbytes + (0 if details is None else details.nbytes) + NAMED * len(documents)
            earlier = list(sizes)[: list(sizes).index(name)]
            found.append(size + sum(sizes[name] for name in earlier))
    return found


def _stored(piece: Piece) -> int:
    return (piece.file.end or piece.file.size) - piece.file.start


def _text(piece: Piece) -> int:
    return sum(len(item.text.encode()) for item in piece.items if isinstance(item, Record))
