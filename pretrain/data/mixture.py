"""How much comes from which source: a closed-form schedule of rows, so that a resume starts anywhere in O(1).

Without weights an epoch holds every row of every source once. With weights the rows come in blocks, each with its
sources' shares in whole rows, in an order chosen by a key; a source that reaches its maximum epochs leaves, and the
others share what it had.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretrain.data.permutation import mixed, permuted

BLOCK = 1 << 16  # rows in which the shares are kept exactly


class Share(NamedTuple):
    """What the config says of a source.

    Attributes:
        weight: relative to the other sources' weights; None: by size.
        max_epochs: times that its rows are read at most; None: no limit.
    """

    weight: float | None = None
    max_epochs: float | None = None


@dataclass(frozen=True)
class _Segment:
    """Blocks with the same shares.

    Attributes:
        first: row of the schedule.
        quotas: (S,) rows of each source in a block.
        before: (S,) rows of each source in earlier segments.
    """

    first: int
    quotas: NDArray[np.int64]
    before: NDArray[np.int64]


class Mixture:
    """The schedule: row number i of the run is row number j of source s.

    Args:
        sizes: (S,) rows of each source.
        shares: of each source; either all have a weight, or none.
        seed: of the order.

    Attributes:
        most_rows: after which every source has reached its maximum epochs; None: never.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[Share], seed: int) -> None:
        self.sizes = np.array(sizes, np.int64)
        self.seed = seed
        self.most_rows: int | None = None
        weights = [share.weight for share in shares if share.weight is not None]
        assert len(weights) in (0, len(shares))
        self._segments = [_Segment(0, self.sizes, np.zeros_like(self.sizes))]
        if weights or any(share.max_epochs is not None for share in shares):
            self._schedule(np.array(weights or self.sizes, float) * (self.sizes > 0), shares)

    def places(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each row of the schedule its source, and how many rows of that source came before it."""
        firsts = np.array([segment.first for segment in self._segments])
        numbers = np.searchsorted(firsts, rows, side="right") - 1
        sources, counts = np.empty_like(rows), np.empty_like(rows)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            sources[here], counts[here] = self._places(number, rows[here])
        return sources, counts

    def _places(self, number: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        segment = self._segments[number]
        size = int(segment.quotas.sum())
        blocks, places = (rows - segment.first) // size, (rows - segment.first) % size
        places = permuted(places, size, mixed(mixed(self.seed, number), blocks))
        ends = np.cumsum(segment.quotas)
        sources = np.searchsorted(ends, places, side="right")
        inside = places - (ends - segment.quotas)[sources]
        return sources, segment.before[sources] + blocks * segment.quotas[sources] + inside

    def _schedule(self, weights: NDArray[np.float64], shares: Sequence[Share]) -> None:
        limits = [np.inf if share.max_epochs is None else share.max_epochs for share in shares]
        left = np.floor([size * limit if size else 0.0 for size, limit in zip(self.sizes, limits, strict=True)])
        first, before = 0, np.zeros_like(self.sizes)
        self._segments = []
        while (live := (weights > 0) & (left > 0)).any():
            quotas = _quotas(np.where(live, weights, 0.0))
            self._segments.append(_Segment(first, quotas, before))
            ending = live & np.isfinite(left)
            if not ending.any():
                return
            part = float(np.min(left[ending] / quotas[ending]))
            blocks = int(part)
            if not blocks:  # the source that ends first fills a last, smaller block
                quotas = np.where(live, np.minimum(np.ceil(quotas * part), left), 0).astype(np.int64)
                blocks = 1
                self._segments[-1] = _Segment(first, quotas, before)
            first += blocks * int(quotas.sum())
            before = before + blocks * quotas
            left = left - blocks * quotas
        self.most_rows = first


def _quotas(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """BLOCK rows, shared by weight, at least one for each source that has any."""
    exact = BLOCK * weights / weights.sum()
    quotas = np.where(weights > 0, np.maximum(1, np.floor(exact)), 0).astype(np.int64)
    quotas[int(np.argmax(quotas))] += BLOCK - int(quotas.sum())
    return quotas
