"""What a document is: one row of an Arrow table, the currency of the whole data pipeline."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

DOCUMENT = pa.schema(
    [
        ("id", pa.string()),  # stable across runs and machines: a hash of the source and the position in it
        ("text", pa.string()),
        ("source", pa.string()),  # the source's name in the config
        ("source_id", pa.string()),  # the record's own id, or its file
        ("meta", pa.string()),  # JSON, whatever else the record held
    ]
)

DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("source_id", pa.string()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("stage", pa.string()),
        ("rule", pa.string()),
        ("value", pa.float64()),  # what the rule measured
        ("threshold", pa.float64()),  # what it allows
        ("reason", pa.string()),  # one readable line
        ("survivor", pa.string()),  # for duplicates: the id of the document that stays
    ]
)

# What a stage that sees the whole corpus finds: two documents, by their places in the corpus, and how alike they are.
LINK = pa.schema([("one", pa.int64()), ("other", pa.int64()), ("value", pa.float64())])

# What is known of some documents, given by their places, ascending: where what belongs to each begins, and last where
# the last one's ends; and all of it in one array.
Details = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[Any]]]


@dataclass(frozen=True)
class Drop:
    """Why one document was dropped."""

    rule: str
    value: float
    threshold: float
    reason: str
    survivor: str | None = None


@dataclass(frozen=True)
class StageOutput:
    """What a stage makes of a batch of documents.

    Attributes:
        kept: rows of DOCUMENT, in the order of the input.
        dropped: rows of DROPPED (the `stage` column is filled in by whoever runs the stage).
        counters: what else the stage counted, such as characters that it replaced.
    """

    kept: pa.Table
    dropped: pa.Table
    counters: dict[str, int] = field(default_factory=dict)


def partition(documents: pa.Table, drops: list[Drop | None], counters: dict[str, int] | None = None) -> StageOutput:
    """Split `documents` into the kept rows (where `drops` holds None) and the dropped ones with their reasons."""
    kept = documents.filter(pa.array([drop is None for drop in drops], pa.bool_()))
    gone = documents.filter(pa.array([drop is not None for drop in drops], pa.bool_()))
    reasons = [drop for drop in drops if drop is not None]
    dropped = pa.table(
        {
            "id": gone["id"],
            "source_id": gone["source_id"],
            "text": gone["text"],
            "source": gone["source"],
            "stage": pa.nulls(len(reasons), pa.string()),
            "rule": pa.array([drop.rule for drop in reasons], pa.string()),
            "value": pa.array([drop.value for drop in reasons], pa.float64()),
            "threshold": pa.array([drop.threshold for drop in reasons], pa.float64()),
            "reason": pa.array([drop.reason for drop in reasons], pa.string()),
            "survivor": pa.array([drop.survivor for drop in reasons], pa.string()),
        },
        schema=DROPPED,
    )
    return StageOutput(kept, dropped, counters or {})


def without_repeats(documents: pa.Table, found: pa.Table, rule: str, threshold: float) -> StageOutput:
    """Drop the documents that repeat another one.

    Args:
        found: their `row`, the `survivor`'s id, and the `value` that tells how alike they are; the first one counts.
    """
    drops: list[Drop | None] = [None] * len(documents)
    for row, survivor, value in zip(*(found[name].to_pylist() for name in ("row", "survivor", "value")), strict=True):
        drops[row] = drops[row] or Drop(rule, value, threshold, f"repeats document {survivor}", survivor)
    return partition(documents, drops)
