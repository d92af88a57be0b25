"""Which tokens make batch number i: a pure function of (seed, i), so that a resume starts anywhere in O(1).

A row is a fixed slice of the stream of one source, `sequence_length` + 1 tokens, so that every token of it is a target
once. An epoch of a source visits all of its rows in the order of a keyed permutation, which needs no table; which
source a row comes from is told by the mixture. Packing `contiguous` keeps the stream's order instead: the stream is cut
into as many lanes as a batch has rows, and row b of batch i + 1 goes on where row b of batch i ended.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.data.mixture import Mixture, Share
from pretrain.data.objectives import NextToken, Objective
from pretrain.data.permutation import mixed, permuted
from pretrain.data.shards import TokenStream
from pretrain.errors import ConfigError, DataError

Packing = Literal["stream", "documents", "contiguous"]

ORDERED_AT_ONCE = 4096  # rows whose places are computed together: for one row alone it takes as long as reading it
BLOCKS = 8  # of such places that are remembered
OF_OBJECTIVE = 2**32  # sets the keys of an objective's random numbers apart from those of the order
AHEAD = 2  # batches that each worker may be ahead


class Batches:
    """Batches of rows of a stream.

    Args:
        stream: the training tokens.
        sequence_length: targets a row.
        rows: rows a batch, on all ranks together.
        doublings: tokens, ascending: the first batch that begins with so many or more read has twice as many rows as
            those before it, and all later ones with it.
        seed: of the order.
        shares: of the sources, by name; one that is not named counts by its size.
        objective: what a row is made into; None: into tokens and the ones after them.
        packing: stream: documents run on; documents: the same rows, in which a model shall not look from one document
            into another; contiguous: see above.
        rank, ranks: of `ranks` processes this one reads the rows of the `rank`-th, from 0 on.
        workers: threads that read the next batches while a step computes; 0 reads each when it is asked for. They
            change no batch, and pay where the shards lie on a slow disk.
    Raises:
        DataError: the stream, or a source that has a weight, is shorter than one row.
        ConfigError: the rows cannot be shared among the ranks, or shares do not go with the packing.
    """

    def __init__(
        self,
        stream: TokenStream,
        sequence_length: int,
        rows: int,
        seed: int,
        shares: Mapping[str, Share] | None = None,
        *,
        doublings: Sequence[int] = (),
        objective: Objective | None = None,
        packing: Packing = "stream",
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
    ) -> None:
        self.stream = stream
        self.sequence_length = sequence_length
        self.rows = rows
        self.seed = seed
        self.objective = objective or NextToken(stream.end_of_text)
        self.packing = packing
        if rows % ranks:
            raise ConfigError(
                f"a batch of {rows} rows cannot be shared among {ranks} ranks; "
                f"try trainer.batch_tokens={-(-rows // ranks) * ranks * sequence_length}"
            )
        self._doublings = [-(-tokens // sequence_length) for tokens in doublings]  # in rows
        if self._doublings != sorted(set(self._doublings)) or (doublings and packing == "contiguous"):
            raise ConfigError(
                f"trainer.double_batch_at={list(doublings)} is not ascending by a row at least"
                if packing != "contiguous"
                else "trainer.double_batch_at changes the rows of a batch, which trainer.packing=contiguous cannot; "
                "leave it out"
            )
        self._rank, self._ranks = rank, ranks
        self.most_batches: int | None = None  # after which every source has reached its maximum epochs
        if packing == "contiguous":
            self._batches_a_lane = self._lanes(shares or {})
            self.rows_per_epoch = self._batches_a_lane * rows
        else:
            self.mixture = self._mixed(shares or {})
            self.rows_per_epoch = sum(self._sizes)
            most = self.mixture.most_rows
            if most is not None:
                self.most_batches = bisect_right(range(most // rows + 1), most, key=self.first_row) - 1
        if self.most_batches == 0:
            raise DataError(
                f"the sources reach their max_epochs after {self.mixture.most_rows} rows, before a batch of {rows} is "
                "full; raise data.sources.NAME.max_epochs or lower trainer.batch_tokens"
            )
        self._block = lru_cache(BLOCKS)(self._ordered)
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, "batches") if workers else None
        self._coming: dict[int, Future[NDArray[np.int64]]] = {}

    @property
    def tokens(self) -> int:
        """Tokens of text in the first batch, on all ranks together."""
        return self.rows * self.sequence_length

    def first_row(self, number: int) -> int:
        """How many rows come before batch `number`, on all ranks together."""
        before, rows = 0, self.rows
        for doubled in self._doublings:
            batches = -(-max(0, doubled - before) // rows)
            if number <= batches:
                break
            before, number, rows = before + batches * rows, number - batches, 2 * rows
        return before + number * rows

    def tokens_in(self, number: int) -> int:
        """Tokens of text in batch `number`, on all ranks together."""
        return (self.first_row(number + 1) - self.first_row(number)) * self.sequence_length

    def targets(self, number: int) -> int:
        """Targets in batch `number`, on all ranks together; as many as tokens where each is to be predicted."""
        return self.objective.targets(self._keys(self._rows(number, 0, 1)), self.sequence_length)

    def pairs(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens and targets of this rank's rows of batch `number`, each (rows / ranks, P) int64."""
        return self.objective(self[number], self._keys(self._rows(number, self._rank, self._ranks)))

    def __getitem__(self, number: int) -> NDArray[np.int64]:
        """This rank's rows of batch `number`, (rows / ranks, sequence_length + 1) int64."""
        if self._pool is None:
            return self._read(number)
        wanted = range(number, number + 1 + AHEAD * self._workers)
        for later in self._coming.keys() - set(wanted):
            self._coming.pop(later).cancel()
        for later in wanted:
            if later not in self._coming and (self.most_batches is None or later < max(self.most_batches, number + 1)):
                self._coming[later] = self._pool.submit(self._read, later)
        return self._coming.pop(number).result()

    def goes_on(self, number: int) -> bool:
        """Whether the rows of batch `number` go on where those of the batch before it ended."""
        return self.packing == "contiguous" and number % self._batches_a_lane > 0

    def _rows(self, number: int, rank: int, ranks: int) -> range:
        """Which rows of the order batch `number` gives to a rank."""
        first, last = self.first_row(number), self.first_row(number + 1)
        return range(first + rank * (last - first) // ranks, first + (rank + 1) * (last - first) // ranks)

    def _keys(self, rows: range) -> NDArray[np.uint64]:
        """A random key for each of some rows, whoever reads them."""
        return mixed(mixed(self.seed, OF_OBJECTIVE), np.arange(rows.start, rows.stop))

    def _read(self, number: int) -> NDArray[np.int64]:
        rows = self._rows(number, self._rank, self._ranks)
        first, last = rows.start, rows.stop
        blocks = range(first // ORDERED_AT_ONCE, (last - 1) // ORDERED_AT_ONCE + 1)
        starts = np.concatenate([self._block(block) for block in blocks])
        offset = blocks.start * ORDERED_AT_ONCE
        return self.stream.rows(starts[first - offset : last - offset], self.sequence_length + 1)

    def _ordered(self, block: int) -> NDArray[np.int64]:
        """Where the rows of a block of the order start in the stream."""
        places = block * ORDERED_AT_ONCE + np.arange(ORDERED_AT_ONCE, dtype=np.int64)
        if self.packing == "contiguous":
            batches, lanes = places // self.rows, places % self.rows
            return (lanes * self._batches_a_lane + batches % self._batches_a_lane) * self.sequence_length
        sources, counts = self.mixture.places(places)
        starts = np.empty_like(counts)
        for source in np.unique(sources).tolist():
            here, size = sources == source, self._sizes[source]
            epochs, within = counts[here] // size, counts[here] % size
            rows = permuted(within, size, mixed(mixed(self.seed, source), epochs))
            starts[here] = self._starts[source] + rows * self.sequence_length
        return starts

    def _mixed(self, shares: Mapping[str, Share]) -> Mixture:
        spans = self.stream.sources()
        chosen = [shares.get(name, Share()) for name in spans]
        self._starts = [start for start, _ in spans.values()]
        self._sizes = [(stop - start - 1) // self.sequence_length for start, stop in spans.values()]
        for (name, (start, stop)), size, share in zip(spans.items(), self._sizes, chosen, strict=True):
            if size < 1 and share.weight is not None:
                raise self._too_short(f"the source {name}", stop - start)
        if sum(self._sizes) < 1:
            raise self._too_short(f"the {self.stream.name} split", len(self.stream))
        return Mixture(self._sizes, chosen, self.seed)

    def _lanes(self, shares: Mapping[str, Share]) -> int:
        for name, share in shares.items():
            if share != Share():
                raise ConfigError(
                    f"data.sources.{name} has a weight or max_epochs, but trainer.packing=contiguous reads all sources "
                    "once an epoch, in order; leave them out, or choose another packing"
                )
        batches = (len(self.stream) - 1) // self.tokens
        if batches < 1:
            raise DataError(
                f"the {self.stream.name} split holds {len(self.stream)} tokens, fewer than a batch of trainer.packing="
                f"contiguous, {self.rows} rows of {self.sequence_length} + 1; bring more text or lower "
                "trainer.batch_tokens"
            )
        return batches

    def _too_short(self, what: str, tokens: int) -> DataError:
        return DataError(
            f"{what} holds {tokens} tokens, fewer than a row of trainer.sequence_length={self.sequence_length} + 1; "
            "bring more text or a shorter row"
        )


def batch_of_step(step: int, skipped: Sequence[tuple[int, int]]) -> int:
    """The number of the batch that `step` reads when windows of batches are passed over, such as those of a loss spike.

    Args:
        skipped: windows [first, last) of batch numbers, ascending and apart from each other.
    """
    number = step
    for first, last in skipped:
        if first > number:
            break
        number += last - first
    return number
