"""What a build will take, in time and on the disk, told from a small sample of the corpus before it begins."""

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
from pretrain.data.running import CorpusStage
from pretrain.data.sources.reading import Limits, Record, Source
from pretrain.data.sources.streams import is_address
from pretrain.data.splits import ALL_TRAINING, gather, place_documents
from pretrain.data.stages import Built, Silent, Workspace, row_groups
from pretrain.errors import PretrainError

SMALLEST_CORPUS = 8_000_000  # stored bytes; a smaller one is built before anyone would have read an estimate
SAMPLE = 600_000  # bytes of text
WARM = 0.2  # of the sample, passed by itself, so that fixed costs are told from those that grow
MOST_SECONDS = 0.3  # spent on reading the sample
CUT = 1 << 19  # bytes of a large file that is not plain text in lines, from which its sample comes
COMPRESSION = 2.5  # bytes of text a stored byte, where a file cannot be cut to measure it

# Measured on a core of a shared machine, over English novels and made-up words, where they ranged from 1.4 to 4e6.
TOKENIZER_SPEED = 4e6  # bytes of text a second from which byte-pair encoding learns, in one process
ENCODING_SPEED = 2e6  # bytes of text a second, a worker
TOKEN_SHARE = 0.6  # bytes of tokens for each byte of text: 2 for every 3.6


@dataclass(frozen=True)
class Estimate:
    """Attributes:
    corpus_bytes: as they are stored.
    text_bytes: of all documents.
    kept: the share of the text that is left at the end; few of the duplicates meet in a sample, so it is a bound.
    disk_bytes: the most that lies in the data folder at one time.
    """

    corpus_bytes: int
    text_bytes: float
    kept: float
    seconds: float
    disk_bytes: float


@dataclass(frozen=True)
class _Cost:
    """What a recipe took for some pieces of text, in CPU seconds, and what came of each byte of it."""

    seconds: float
    kept: float
    disk: float


def estimate(
    sources: Mapping[str, Source], recipe: Recipe, limits: Limits, *, workers: int, tokenizer_sample: int
) -> Estimate | None:
    """Measure a recipe on a sample of a corpus; None where it is small, far away, or cannot be sampled.

    Args:
        workers: processes that work at the same time.
        tokenizer_sample: bytes of text from which the tokenizer learns, at most.
    """
    pieces = scattered_pieces(sources, seed=1)
    corpus = sum({piece.order: piece.file.size for piece in pieces}.values())
    if corpus < SMALLEST_CORPUS or any(is_address(piece.file.path) or piece.file.fingerprint for piece in pieces):
        return None
    sample, stored, reading = _read(pieces, limits)
    sizes = np.cumsum([_text(piece) for piece in sample]).tolist()
    if not sizes or not sizes[-1]:
        return None
    first = 1 + int(np.searchsorted(sizes, WARM * sizes[-1]))
    _passed(sample[:first], recipe, limits)  # pays for what is imported
    warm, cost = _passed(sample[:first], recipe, limits), _passed(sample, recipe, limits)
    more = sizes[-1] - sizes[min(first, len(sizes)) - 1]
    passing = (cost.seconds - warm.seconds) / more if more else cost.seconds / sizes[-1]
    text = corpus * sizes[-1] / stored
    kept = text * cost.kept
    seconds = (text * (reading + max(0.0, passing)) + kept / ENCODING_SPEED) / workers
    seconds += min(kept, tokenizer_sample) / TOKENIZER_SPEED
    return Estimate(corpus, text, cost.kept, seconds, text * cost.disk + kept * TOKEN_SHARE)


def refuse_full_disk(expected: Estimate, folder: Path) -> None:
    """Raise PretrainError where the disk of `folder` is too small."""
    there = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    begun = [
        path for path in folder.glob("stages/collect-*") if not (path / MANIFEST).exists()
    ]  # by a broken off build
    there_already = sum(file.stat().st_size for path in begun for file in path.rglob("*.parquet"))
    free = shutil.disk_usage(there).free + there_already
    if expected.disk_bytes > free:
        raise PretrainError(
            f"the build needs about {expected.disk_bytes / 1e9:,.1f} GB of disk, and where data_dir={folder} lies "
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
    if size <= CUT:
        piece.read(size, limits)  # a record has a byte at least
        return piece, size
    beginning = dataclasses.replace(piece, file=dataclasses.replace(piece.file, size=CUT))
    beginning.read(CUT, limits)
    if text := _text(beginning):
        beginning.failure = None
        lost = max(len(item.text) for item in beginning.items if isinstance(item, Record)) / 2  # by the cut, on average
        return beginning, CUT * text / (text + lost)
    while _text(piece) < SAMPLE / 4 and piece.read(16, limits):
        pass
    return piece, _text(piece) / COMPRESSION


def _passed(pieces: Sequence[Piece], recipe: Recipe, limits: Limits) -> _Cost:
    """Run the recipe in a temporary folder, up to the shuffled documents."""
    with tempfile.TemporaryDirectory() as folder:
        at = Workspace(Path(folder), Serial(), Silent())
        started = time.process_time()
        stages = pass_through(pieces, recipe, limits, at)
        text = max(1, stages[0].total("bytes_out"))
        kept = stages[-1].total("bytes_out")
        if kept:
            placed = place_documents(stages[-1], seed=1, workspace=at)
            stages = [*stages, placed, gather(placed, "train", ALL_TRAINING, shard_bytes=text, workspace=at)]
        seconds = time.process_time() - started
        sizes = [sum(file.stat().st_size for file in built.folder.rglob("*.parquet")) for built in stages]
        sketches = _sketches(stages, recipe)
    most = max([sum(sizes), *(sum(sizes[: before + 1]) + size for before, size in sketches)])
    return _Cost(seconds, kept / text, most / text)


def _sketches(stages: Sequence[Built], recipe: Recipe) -> list[tuple[int, int]]:
    """For each stage that sees the whole corpus: the place of the one before it, and the bytes that it sketches."""
    found = []
    for before, (_, stage) in enumerate(recipe.values()):
        if isinstance(stage, CorpusStage):
            size = 0
            for documents in (table for file in stages[before].files() for table in row_groups(file)):
                keys, details = stage.sketch(documents)
                size += keys.nbytes + (0 if details is None else details.nbytes)
            found.append((before, size))
    return found


def _stored(piece: Piece) -> int:
    return (piece.file.end or piece.file.size) - piece.file.start


def _text(piece: Piece) -> int:
    return sum(len(item.text.encode()) for item in piece.items if isinstance(item, Record))
