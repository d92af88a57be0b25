"""From counts of n-grams to probabilities: what an n-gram weighs, and what a context leaves to shorter ones.

All kinds have one form. With h' the context h without its first token,

    p(w | h) = weight(h w) scale(h) + rest(h) p(w | h')

where weight is 0 for an n-gram never seen. Some kinds depart from it: add-k and maximum likelihood have 1 in the place
of p(w | h'), for they do not ask shorter contexts; stupid backoff has 0 in the place of rest(h) where h w was seen.

Shapes: V ids of the vocabulary, E_n entries, M_n nodes of order n; see ngram_counts.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.models.ngram_counts import OrderCounts, distinct
from pretrain.models.ngram_runs import single_threads
from pretrain.models.ngram_storage import Ints, empty, pieces
from pretrain.models.ngram_trie import joined_tails

Floats = NDArray[np.float64]
Smoothing = Literal["kneser_ney", "absolute", "witten_bell", "add_k", "none", "stupid_backoff", "arpa"]

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # KenLM's --discount_fallback
STUPID_WEIGHT = 0.4

NODES = 3  # rows of nodes_n before those of the nodes: of a leaf, of ABSENT, of UNSEEN (see ngram_trie)


def estimated(
    orders: list[OrderCounts], vocab_size: int, smoothing: Smoothing, k: float, *, on_disk: bool = False
) -> dict[str, Ints]:
    """The tables of an NGram with one kind of smoothing; k is added to every count by add_k.

    Args:
        on_disk: where the tables lie; what they hold is the same.
    """
    total = len(orders)
    counts = chosen_counts(orders, smoothing)
    discounts = _discounts(orders, counts, vocab_size, smoothing)

    def table(n: int) -> Floats:
        size = len(counts[n - 1])
        rows: Floats = empty((NODES + size, 3 if n < total else 1), np.float64, on_disk=on_disk)
        rows[:] = 0.0
        rows[0, 0] = 1 - discounts[n - 1][0]
        nodes = rows[NODES:]
        if n < total:
            _add_entries(nodes, orders[n], counts[n], discounts[n], vocab_size)
            rows[0, 1:] = _scale_and_rest(np.array([[1.0, discounts[n][0], 1.0]]), vocab_size, smoothing, k)
            rows[1:NODES, 1:] = (0.0, 1.0), _unseen(vocab_size, smoothing, k)
        for here in pieces(size):
            if n < total:
                nodes[here, 1:] = _scale_and_rest(nodes[here], vocab_size, smoothing, k)
            nodes[here, 0] = _weights(counts[n - 1][here], discounts[n - 1])
        return rows

    with single_threads() as threads, ThreadPoolExecutor(threads) as pool:
        nodes = list(pool.map(table, range(1, total + 1)))
    tables: dict[str, Ints] = {f"nodes_{n}": table for n, table in enumerate(nodes, start=1)}
    tables["unigrams"] = _unigrams(counts[0], nodes[0][NODES:, 0], smoothing, k)
    tables["tails"] = joined_tails(orders, vocab_size, on_disk=on_disk)
    for n, level in enumerate(orders[1:], start=2):
        tables |= {f"keys_{n}": level.keys, f"links_{n}": level.links}
    return tables


def chosen_counts(orders: list[OrderCounts], smoothing: Smoothing) -> list[Ints]:
    """The counts (M_n,) that a kind of smoothing looks at: Kneser-Ney at preceding tokens, below the last order."""
    adjusted = len(orders) - 1 if smoothing == "kneser_ney" else 0
    return [level.preceding if n < adjusted else level.counts for n, level in enumerate(orders)]


def _discounts(
    orders: list[OrderCounts], counts: list[Ints], vocab_size: int, smoothing: Smoothing
) -> list[tuple[float, ...]]:
    """What is taken from counts of 1, 2 and 3 or more, for each order."""
    if smoothing not in ("kneser_ney", "absolute"):
        return [(0.0, 0.0, 0.0)] * len(orders)
    found = []
    for count, kinds in zip(counts, distinct(orders, vocab_size), strict=True):
        times = np.zeros(6, np.int64)
        for here in pieces(len(count)):
            times += np.bincount(np.minimum(count[here], 5), minlength=6)
        n1, n2, n3, n4 = times[1:5].tolist()
        n1 += kinds - int(times[1:].sum())  # what occurs once, but for the nodes
        found.append(_modified(n1, n2, n3, n4) if smoothing == "kneser_ney" else _one(n1, n2))
    return found


def _modified(n1: int, n2: int, n3: int, n4: int) -> tuple[float, ...]:
    """Chen and Goodman 1998, equation 26 (https://dash.harvard.edu/handle/1/25104739).

    A departure from KenLM: a discount of exactly 0 falls back too. It frees nothing for unseen tokens, whose loss
    would be infinite.
    """
    if not n1 * n2 * n3:
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return discounts if min(discounts) > 0 else FALLBACK_DISCOUNTS


def _one(n1: int, n2: int) -> tuple[float, ...]:
    """One discount for all counts (Ney, Essen and Kneser 1994, https://doi.org/10.1006/csla.1994.1001); 0.5 where n1
    or n2 is 0."""
    discount = n1 / (n1 + 2 * n2) if n1 * n2 else 0.5
    return (discount, discount, discount)


def _weights(counts: Ints, discounts: tuple[float, ...]) -> Floats:
    """(M,) counts less what is taken from them."""
    weights: Floats = counts - np.array([0.0, *discounts]).take(np.minimum(counts, 3))
    return weights


def _add_entries(
    sums: Floats, entries: OrderCounts, counts: Ints, discounts: tuple[float, ...], vocab_size: int
) -> None:
    """Add to sums (M, 3) of contexts: their entries' counts, what discounts take from these, and how many they are.

    Args:
        counts: of the nodes among the entries; that of a leaf is 1.
    """
    seen = 0  # nodes of earlier pieces
    for here in pieces(len(entries.keys)):
        contexts = entries.keys[here] // vocab_size
        first, last = int(contexts[0]), int(contexts[-1]) + 1
        parents = (contexts - first).compress(entries.links[here] >= 0)
        own = counts[seen : seen + len(parents)]
        seen += len(parents)
        kinds = np.bincount(contexts - first, minlength=last - first)
        more = np.array([0.0, *discounts]).take(np.minimum(own, 3)) - discounts[0]  # than from a leaf
        sums[first:last, 0] += np.bincount(parents, own - 1.0, last - first) + kinds
        sums[first:last, 1] += np.bincount(parents, more, last - first) + kinds * discounts[0]
        sums[first:last, 2] += kinds


def _scale_and_rest(sums: Floats, vocab_size: int, smoothing: Smoothing, k: float) -> Floats:
    """(M, 2) of contexts with these sums (M, 3); where nothing ever followed, all is the rest."""
    totals, taken, kinds = sums.T
    if smoothing == "witten_bell":
        totals, taken = totals + kinds, kinds
    elif smoothing == "add_k":
        totals, taken = totals + k * vocab_size, np.full(len(totals), k)
    elif smoothing == "stupid_backoff":
        taken = STUPID_WEIGHT * totals
    there = totals > 0
    rows = np.empty((len(totals), 2))
    rows[:, 0] = np.divide(1.0, totals, out=np.zeros(len(totals)), where=there)
    rows[:, 1] = np.divide(taken, totals, out=np.full(len(totals), _unseen(vocab_size, smoothing, k)[1]), where=there)
    return rows


def _unseen(vocab_size: int, smoothing: Smoothing, k: float) -> tuple[float, float]:
    """Scale and rest of a context that the training text does not have."""
    rest = {"add_k": 1 / vocab_size, "none": 0.0, "stupid_backoff": STUPID_WEIGHT}
    return (0.0, rest.get(smoothing, 1.0))


def _unigrams(counts: Ints, weights: Floats, smoothing: Smoothing, k: float) -> Floats:
    """(V,) probabilities without a context.

    KenLM's vocabulary is that of the text and <unk>; ours is the tokenizer's. The ids that the training text lacks
    share the part of <unk> equally, so that the others have KenLM's probabilities. Without such ids there is no <unk>.
    """
    total, unseen = int(counts.sum()), int((counts == 0).sum())
    if smoothing in ("add_k", "none", "stupid_backoff"):
        k = k if smoothing == "add_k" else 0.0
        return (counts + k) / (total + k * len(counts))
    words = len(counts) - unseen + (unseen > 0)
    uniform = np.where(counts == 0, 1 / max(1, unseen), 1.0) / words
    if smoothing == "witten_bell":
        kinds = len(counts) - unseen
        return (counts + kinds * uniform) / (total + kinds)
    return weights / total + float((counts - weights).sum()) / total * uniform
