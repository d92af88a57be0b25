"""Which tokens make batch number i: a pure function of (seed, i), so that a resume starts anywhere in O(1).

A row is a fixed slice of the stream, `sequence_length` + 1 tokens, so that every token of it is a target once. An
epoch visits all rows in the order of a keyed permutation, which needs no table.
"""

import numpy as np

from pretrain.data.shards import TokenStream
from pretrain.errors import DataError

ROUNDS = 4


class Batches:
    """Batches of rows of a stream.

    Args:
        stream: the training tokens.
        sequence_length: targets a row.
        rows: rows a batch.
        seed: of the order.
    Raises:
        DataError: the stream is shorter than one row.
    """

    def __init__(self, stream: TokenStream, sequence_length: int, rows: int, seed: int) -> None:
        self.stream = stream
        self.sequence_length = sequence_length
        self.rows = rows
        self.seed = seed
        self.rows_per_epoch = (len(stream) - 1) // sequence_length
        if self.rows_per_epoch < 1:
            raise DataError(
                f"the {stream.name} split holds {len(stream)} tokens, fewer than a row of "
                f"trainer.sequence_length={sequence_length} + 1; bring more text or a shorter row"
            )

    @property
    def tokens(self) -> int:
        """Targets in a batch."""
        return self.rows * self.sequence_length

    def __getitem__(self, number: int) -> np.ndarray:
        """Batch `number`, (rows, sequence_length + 1) int64."""
        places = np.arange(number * self.rows, (number + 1) * self.rows, dtype=np.int64)
        epochs, places = places // self.rows_per_epoch, places % self.rows_per_epoch
        rows = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = permuted(places[here], self.rows_per_epoch, key=_mixed(self.seed, int(epoch)))
        length = self.sequence_length
        return np.stack([self.stream.read(row * length, row * length + length + 1) for row in rows.tolist()])


def permuted(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a permutation of range(size), chosen by `key`, puts each of `places`.

    A Feistel network permutes the next power of four; what falls outside `size` is sent through again until it falls
    inside (cycle walking, Black & Rogaway 2002, https://web.cs.ucdavis.edu/~rogaway/papers/subset.pdf).
    """
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.uint64(_mixed(key, turn)) for turn in range(ROUNDS)]
    result = places.astype(np.uint64)
    outside = np.ones(len(result), bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for turn in keys:
            left, right = right, left ^ (_scrambled(right + turn) & mask)
        result[outside] = (left << half) | right
        outside = result >= size
    return result.astype(np.int64)


def _scrambled(values: np.ndarray) -> np.ndarray:
    """A well mixed 64-bit number for each value (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _mixed(first: int, second: int) -> int:
    """One 64-bit key from two numbers."""
    golden = 0x9E3779B97F4A7C15
    value = np.array([(first * golden + second + 1) % 2**64], np.uint64)
    return int(_scrambled(value * np.uint64(golden))[0])
