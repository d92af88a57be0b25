"""Rules that measure all documents of a batch at once, and what the first broken one says of a document."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.errors import ConfigError

EXCERPT = 4_000_000  # characters of a document that are looked at; what comes behind them is not
AT_ONCE = 100_000  # characters measured together: more would not fit into a processor's cache


class Rule(NamedTuple):
    """What a rule finds in a batch of documents.

    Attributes:
        values: (N,), nan where the rule does not apply.
        least, most: what it allows; None for no bound.
        meaning: completes "30%", or "30" where it is no share.
    """

    name: str
    values: NDArray[np.float64]
    least: float | None
    most: float | None
    meaning: str
    share: bool = True


def check_bounds(name: str, least: float | None, most: float | None) -> None:
    """Raises ConfigError where min_`name` is above max_`name`, as every document would break one of the two."""
    if least is not None and most is not None and least > most:
        raise ConfigError(
            f"min_{name}={least} is above max_{name}={most}, so that nothing would be kept; change one, or set it null"
        )


def judged(documents: pa.Table, rules: Callable[[list[str], list[str]], Iterable[Rule]]) -> StageOutput:
    """Drop each document that breaks a rule, by the first one.

    Args:
        rules: of texts and their source ids gives the rules, in order.
    """
    drops: list[Drop | None] = []
    for texts, names in _batches(documents):
        found: list[Drop | None] = [None] * len(texts)
        for rule in rules(texts, names):
            low = rule.values < (-np.inf if rule.least is None else rule.least)
            high = rule.values > (np.inf if rule.most is None else rule.most)
            for number in np.flatnonzero(low | high).tolist():
                found[number] = found[number] or _drop(rule, float(rule.values[number]), low=bool(low[number]))
        drops += found
    return partition(documents, drops)


def _batches(documents: pa.Table) -> Iterator[tuple[list[str], list[str]]]:
    """The texts and source ids of a table, a few at a time, as each text takes several times its size to measure."""
    texts: list[str] = []
    names: list[str] = []
    size = 0
    for column, name in zip(documents["text"], documents["source_id"], strict=True):
        text = column.as_py()[:EXCERPT]
        if texts and size + len(text) > AT_ONCE:
            yield texts, names
            texts, names, size = [], [], 0
        texts.append(text)
        names.append(name.as_py() or "")
        size += len(text)
    if texts:
        yield texts, names


def _drop(rule: Rule, value: float, *, low: bool) -> Drop:
    bound = rule.least if low else rule.most
    assert bound is not None
    shown, limit = (f"{value:.2%}", f"{100 * bound:g}%") if rule.share else (f"{value:.4g}", f"{bound:g}")
    reason = f"{shown} {rule.meaning}; at {'least' if low else 'most'} {limit} {'must' if low else 'may'} be"
    return Drop(rule.name, value, bound, reason)
