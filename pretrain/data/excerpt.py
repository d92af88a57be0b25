"""An excerpt of a corpus: some documents from all over it, passed through a recipe to see what becomes of them."""

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from pretrain.data.collect import Found, Listing, collect
from pretrain.data.running import CorpusStage, Stage, run_stage
from pretrain.data.sources.reading import Limits, Record, Refused, Source, SourceFile, Unreadable
from pretrain.data.stages import Built, Workspace
from pretrain.errors import DataError

PIECE = 1 << 16  # bytes of a large file in lines that are read at once
PIECES = 20_000  # pieces of the whole corpus, about, at most
PLACES = 50  # places of the corpus, about, from which an excerpt comes
SHARD_BYTES = 4_000_000  # of the excerpt's own shards

Recipe = Mapping[str, tuple[dict[str, Any], Stage | CorpusStage]]  # name to settings and stage, in order


@dataclass
class Piece:
    """A file or a piece of one, and what was read of it so far.

    Attributes:
        order: of the file in the corpus.
        failure: why it cannot be read on.
    """

    order: int
    source_name: str
    source: Source
    file: SourceFile
    items: list[Record | Refused] = field(default_factory=list)
    failure: Unreadable | None = None
    _reading: Iterator[Record | Refused] | None = None

    def read(self, most: int, limits: Limits) -> int:
        """Read up to `most` more records, and return how many there were."""
        if self._reading is None:
            self._reading = iter(self.source.read(self.file, limits))
        before = len(self.items)
        try:
            for item in self._reading:
                self.items.append(self._named(item))
                if len(self.items) - before == most:
                    break
        except Unreadable as error:
            self.failure = error
        return len(self.items) - before

    def _named(self, item: Record | Refused) -> Record | Refused:
        """In the middle of a file nobody has counted the lines, so a record that is named by its line is not."""
        if self.file.start and isinstance(item, Record) and item.name == f"{self.file.name}:{item.line}":
            return item._replace(name=f"{self.file.name}, byte {item.position:,}", line=None)
        return item._replace(line=None) if self.file.start else item


def scattered_pieces(sources: Mapping[str, Source], seed: int) -> list[Piece]:
    """All pieces of a corpus, in an order by chance.

    Raises:
        DataError: the sources hold no file.
    """
    files = [(name, source, file) for name, source in sources.items() for file in source.files()]
    if not files:
        raise DataError(f"the corpus is empty: no file in {', '.join(sources) or 'any source'}")
    size = max(PIECE, sum(file.size for *_, file in files) // PIECES)
    pieces = [
        Piece(order, name, source, piece)
        for order, (name, source, file) in enumerate(files)
        if not file.refusal
        for piece in _cut(file, size)
    ]
    return [pieces[at] for at in np.random.default_rng(seed).permutation(len(pieces))]


def some_documents(pieces: Sequence[Piece], n: int, limits: Limits) -> list[Piece]:
    """Read `n` records, or all there are, a few from each piece in turn; returns the pieces that have some."""
    quota = max(1, n // PLACES)
    waiting, left = deque(pieces), n
    while waiting and left:
        piece = waiting.popleft()
        most = min(quota, left)
        found = piece.read(most, limits)
        left -= found
        if found == most:
            waiting.append(piece)
    return [piece for piece in pieces if piece.items or piece.failure]


def pass_through(pieces: Sequence[Piece], recipe: Recipe, limits: Limits, workspace: Workspace) -> list[Built]:
    """Collect what was read of `pieces`, in the order of the corpus, and run a recipe over it."""
    ordered = sorted(pieces, key=lambda piece: (piece.order, piece.file.start))
    found = [
        Found(piece.source_name, _Read(piece), dataclasses.replace(piece.file, splittable=False, fingerprint=""), "", 0)
        for piece in ordered  # a fingerprint keeps collect() from comparing the file with what was listed
    ]
    stages = [collect(Listing(found, "excerpt", limits, SHARD_BYTES), workspace)]
    for name, (settings, stage) in recipe.items():
        stages.append(run_stage(name, settings, stage, stages[-1], workspace))
    return stages


@dataclass(frozen=True)
class _Read:
    """What was read of a piece, as a source."""

    piece: Piece
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    def files(self) -> list[SourceFile]:
        return [self.piece.file]

    def read(self, file: SourceFile, limits: Limits) -> Iterator[Record | Refused]:
        yield from self.piece.items
        if self.piece.failure:
            raise self.piece.failure


def _cut(file: SourceFile, size: int) -> Iterator[SourceFile]:
    if not file.splittable:
        yield file
        return
    for start in range(0, file.size, size):
        yield dataclasses.replace(file, start=start, end=min(start + size, file.size))
