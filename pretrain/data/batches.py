"""Which tokens make batch number i: a pure function of (seed, i), so that a resume starts anywhere in O(1).

A row is a fixed slice of the stream of one source, `sequence_length` + 1 tokens, so that every token of it is a target
once. An epoch of a source visits all of its rows in the order of a keyed permutation, which needs no table; which
source a row comes from is told by the mixture.
"""

from collections.abc import Mapping

import numpy as np

from pretrain.data.mixture import Mixture, Share
from pretrain.data.permutation import mixed, permuted
from pretrain.data.shards import TokenStream
from pretrain.errors import DataError


class Batches:
    """Batches of rows of a stream.

    Args:
        stream: the training tokens.
        sequence_length: targets a row.
        rows: rows a batch.
        seed: of the order.
        shares: of the sources, by name; one that is not named counts by its size.
    Raises:
        DataError: the stream, or a source that has a weight, is shorter than one row.
    """

    def __init__(
        self,
        stream: TokenStream,
        sequence_length: int,
        rows: int,
        seed: int,
        shares: Mapping[str, Share] | None = None,
    ) -> None:
        self.stream = stream
        self.sequence_length = sequence_length
        self.rows = rows
        self.seed = seed
        spans = stream.sources()
        chosen = [(shares or {}).get(name, Share()) for name in spans]
        self._starts = [start for start, _ in spans.values()]
        self._sizes = [(stop - start - 1) // sequence_length for start, stop in spans.values()]
        for (name, (start, stop)), size, share in zip(spans.items(), self._sizes, chosen, strict=True):
            if size < 1 and share.weight is not None:
                raise _too_short(f"the source {name}", stop - start, sequence_length)
        self.rows_per_epoch = sum(self._sizes)
        if self.rows_per_epoch < 1:
            raise _too_short(f"the {stream.name} split", len(stream), sequence_length)
        self.mixture = Mixture(self._sizes, chosen, seed)
        if self.most_batches == 0:
            raise DataError(
                f"the sources reach their max_epochs after {self.mixture.most_rows} rows, before a batch of {rows} is "
                "full; raise data.sources.NAME.max_epochs or lower trainer.batch_tokens"
            )

    @property
    def tokens(self) -> int:
        """Targets in a batch."""
        return self.rows * self.sequence_length

    @property
    def most_batches(self) -> int | None:
        """Batches after which every source has reached its maximum epochs; None: never."""
        return None if self.mixture.most_rows is None else self.mixture.most_rows // self.rows

    def __getitem__(self, number: int) -> np.ndarray:
        """Batch `number`, (rows, sequence_length + 1) int64."""
        places = np.arange(number * self.rows, (number + 1) * self.rows, dtype=np.int64)
        starts = self._token_starts(*self.mixture.places(places))
        return np.stack([self.stream.read(start, start + self.sequence_length + 1) for start in starts.tolist()])

    def _token_starts(self, sources: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Where rows start in the stream, given their sources and how many rows of the source came before each."""
        starts = np.empty_like(counts)
        for source in np.unique(sources).tolist():
            size = self._sizes[source]
            epochs, places = counts // size, counts % size
            for epoch in np.unique(epochs[sources == source]).tolist():
                here = (sources == source) & (epochs == epoch)
                rows = permuted(places[here], size, key=mixed(mixed(self.seed, source), epoch))
                starts[here] = self._starts[source] + rows * self.sequence_length
        return starts


def _too_short(what: str, tokens: int, sequence_length: int) -> DataError:
    return DataError(
        f"{what} holds {tokens} tokens, fewer than a row of trainer.sequence_length={sequence_length} + 1; "
        "bring more text or a shorter row"
    )
