"""Sums over the scored targets of a stream, and the means, accuracies and standard errors that follow from them.

Every figure of an evaluation is a ratio of sums over units: documents, or blocks of tokens where there are few
documents. Tokens of a document depend on each other, units hardly: a standard error is the one between units.

Shapes: U units, S scored targets, D documents.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretrain.data.shards import TokenStream
from pretrain.evaluation.loss import Loss
from pretrain.evaluation.scoring import Floats, Ints, Scored

TOP = (1, 5)  # the target is among so many of the most probable ids
FEWEST_DOCUMENTS = 30  # with fewer, units are blocks
BLOCKS = 50  # units of a stream of few documents, about
SMALLEST_BLOCK = 64  # tokens
MOST_POSITIONS = 48  # bins of the number of tokens before a target


@dataclass(frozen=True)
class Sums:
    """Sums over the targets of each unit, (U,) each.

    Attributes:
        ranked: how many targets have a rank; of a costly model only some.
        top: by k, how many of these are among the k most probable ids; equals share their places.
    """

    nats: Floats
    tokens: Ints
    unseen: Ints
    ranked: Ints
    top: dict[int, Floats]

    @classmethod
    def zeros(cls, units: int) -> "Sums":
        """Nothing scored yet."""
        tokens, unseen, ranked = (np.zeros(units, np.int64) for _ in range(3))
        return cls(np.zeros(units), tokens, unseen, ranked, {k: np.zeros(units) for k in TOP})

    def add(self, units: Ints, scored: Scored) -> None:
        """Count each of the scored targets to the unit (S,) that it belongs to."""
        if not len(units):
            return
        first, size = int(units.min()), int(units.max() - units.min()) + 1
        here, units = slice(first, first + size), units - first
        self.nats[here] += np.bincount(units, scored.nats, size)
        self.tokens[here] += np.bincount(units, minlength=size)
        self.unseen[here] += np.bincount(units, np.isinf(scored.nats), size).astype(np.int64)
        ranked = scored.equal > 0
        self.ranked[here] += np.bincount(units, ranked, size).astype(np.int64)
        for k, hits in self.top.items():
            shares = ((k - scored.higher) / np.maximum(scored.equal, 1)).clip(0, 1)
            hits[here] += np.bincount(units, shares * ranked, size)

    def part(self, chosen: slice | NDArray[np.bool_] | Ints) -> "Sums":
        """Those of some units."""
        top = {k: hits[chosen] for k, hits in self.top.items()}
        return Sums(self.nats[chosen], self.tokens[chosen], self.unseen[chosen], self.ranked[chosen], top)

    @property
    def loss(self) -> Loss:
        """On all units."""
        return Loss(float(self.nats.sum()), int(self.tokens.sum()), int(self.unseen.sum()))

    def accuracy(self, k: int) -> float | None:
        """The share of the targets that are among the k most probable ids; None where no rank is known."""
        return float(self.top[k].sum() / self.ranked.sum()) if self.ranked.any() else None

    def error(self, k: int | None = None) -> float | None:
        """The standard error of the loss, or of the accuracy among the k most probable ids."""
        return ratio_error(self.nats, self.tokens) if k is None else ratio_error(self.top[k], self.ranked)


def ratio_error(totals: Floats, sizes: NDArray[np.number]) -> float | None:
    """The standard error of totals.sum() / sizes.sum() between units (U,).

    A mean over units of unequal size is a ratio of sums, and this the error of its first-order expansion (Cochran 1977,
    Sampling Techniques, 2.11).

    Returns:
        None where there are not two units with a size, or a total is not finite.
    """
    used = sizes > 0
    units = int(used.sum())
    if units < 2 or not np.isfinite(totals).all():
        return None
    residuals = totals - totals.sum() / sizes.sum() * sizes
    return float(math.sqrt(units / (units - 1) * np.square(residuals[used]).sum()) / sizes.sum())


@dataclass(frozen=True)
class Units:
    """How a stream is cut into units.

    Attributes:
        starts: (U,) where in the stream each begins; its first target is the token behind.
        documents: whether they are documents.
        sources: by name, the units of each source.
    """

    starts: Ints
    documents: bool
    sources: dict[str, slice]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def method(self) -> str:
        """What the standard error is taken between, in words."""
        if self.documents:
            return f"between {len(self):,} documents"
        return (
            f"between {len(self):,} blocks of consecutive tokens, for there are fewer than {FEWEST_DOCUMENTS} documents"
        )


def units_of(stream: TokenStream) -> Units:
    """The documents of a stream, or where there are few of them blocks of equal size, cut anew at each source."""
    spans = stream.sources()
    starts = document_starts(stream)
    documents = len(starts) >= FEWEST_DOCUMENTS
    if not documents:
        size = max(SMALLEST_BLOCK, -(-(len(stream) - 1) // BLOCKS))
        edges = sorted({0, *(first for first, _ in spans.values() if first < len(stream) - 1)})
        ends = [*edges[1:], len(stream) - 1]
        # A last block shorter than half of the others is part of the one before it.
        starts = np.concatenate(
            [np.arange(begin, max(begin + 1, end - size // 2), size) for begin, end in zip(edges, ends, strict=True)]
        )
    sources = {
        name: slice(int(np.searchsorted(starts, first)), int(np.searchsorted(starts, max(first, last - 1))))
        for name, (first, last) in spans.items()
    }
    return Units(starts, documents, sources)


def document_starts(stream: TokenStream) -> Ints:
    """(D,): where in the stream each document begins, at its end-of-text."""
    found = [start + stream.document_starts(number) for number, start in enumerate(stream.shard_starts())]
    return np.concatenate([*found, np.empty(0, np.int64)])


@dataclass(frozen=True)
class Measured:
    """What a model makes of a stream.

    Attributes:
        units: how the sums are cut; None for rows of an objective, one a unit.
        sums: one a unit.
        documents: one a document; none for rows of an objective.
        positions: sums by how many tokens the model was shown before the target; see bounds.
    """

    units: Units | None
    sums: Sums
    documents: Sums
    positions: Sums

    @property
    def method(self) -> str:
        """What standard errors are taken between, in words."""
        return self.units.method if self.units else f"between {len(self.sums.tokens):,} rows"


def measured(found: Iterable[Scored], stream: TokenStream) -> Measured:
    """The sums of all that is `found` in a stream."""
    units, starts = units_of(stream), document_starts(stream)
    sums, positions = Sums.zeros(len(units)), Sums.zeros(MOST_POSITIONS)
    documents = sums if units.documents else Sums.zeros(len(starts))
    for scored in found:
        once = scored if not scored.again.any() else scored.only(~scored.again)
        sums.add(np.searchsorted(units.starts, once.places) - 1, once)
        if not units.documents:
            documents.add(np.searchsorted(starts, once.places) - 1, once)
        positions.add(position_of(scored.seen), scored)
    return Measured(units, sums, documents, positions)


def measured_rows(found: Iterable[Scored], tokens: int, row: int) -> Measured:
    """The sums of an objective's rows of `row` tokens in a stream of `tokens`."""
    sums = Sums.zeros(max(1, (tokens - 1) // row))
    for scored in found:
        sums.add((scored.places - 1) // row, scored)
    return Measured(None, sums, Sums.zeros(0), Sums.zeros(MOST_POSITIONS))


def position_of(seen: Ints) -> Ints:
    """The bin of each number of tokens: 0, 1, 2, 3 to 4, 5 to 8 and so on."""
    return np.where(seen > 0, np.ceil(np.log2(np.maximum(seen, 1))) + 1, 0).astype(np.int64)


def bounds(position: int) -> tuple[int, int]:
    """The first and the last number of tokens in a bin."""
    return (0, 0) if position == 0 else ((1 << position - 1) // 2 + 1, 1 << position - 1)
