"""From counts of n-grams to log-probabilities: interpolated modified Kneser-Ney, add-k and maximum likelihood.

Shapes: V ids of the vocabulary, K_n distinct n-grams of order n.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretrain.models.ngram_counts import Ints, OrderCounts

Floats = NDArray[np.float64]

FALLBACK_DISCOUNTS = (0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Estimates:
    """Natural logarithms of all orders.

    Attributes:
        log_probs: for n from 1 to the order, (K_n,): of each n-gram's last token after those before it.
        log_unseen: for n from 0 to the order - 1, (K_n,): what each context of n tokens gives a token never seen after
            it: with Kneser-Ney a back-off weight on the shorter context's probability, else the probability itself.
    """

    log_probs: list[Floats]
    log_unseen: list[Floats]


def kneser_ney(orders: list[OrderCounts], vocab_size: int) -> Estimates:
    """Interpolated modified Kneser-Ney, as KenLM's `lmplz --discount_fallback` estimates it.

    Chen and Goodman 1998 (https://dash.harvard.edu/handle/1/25104739), in the form of Heafield et al. 2013
    (https://aclanthology.org/P13-2121/):

        p(w | h) = (a(h w) - D(a(h w))) / a(h) + gamma(h) p(w | h without its first token)

    where a is the adjusted count, a(h) its sum over w, and gamma(h) the share that the discounts D have freed.
    """
    estimates = Estimates([], [])
    probs = _base_distribution(orders[0].counts)
    for n, order in enumerate(orders, start=1):
        counts = order.counts if n == len(orders) else _adjusted(order, orders[n])
        discounts = _discounts(counts)[np.minimum(counts, 3)]  # (K_n,)
        contexts, totals = _contexts(orders, n, counts, vocab_size)
        freed = np.bincount(contexts, weights=discounts, minlength=len(totals))
        gamma = np.divide(freed, totals, out=np.ones(len(totals)), where=totals > 0)  # 1 where nothing ever followed
        probs = (counts - discounts) / totals[contexts] + gamma[contexts] * probs[order.suffixes]
        estimates.log_probs.append(np.log(probs))
        estimates.log_unseen.append(np.log(gamma))
    return estimates


def additive(orders: list[OrderCounts], vocab_size: int, k: float) -> Estimates:
    """(count + k) / (count of the context + k V) in each order by itself; k = 0 is maximum likelihood.

    With k = 0 what was never seen has log-probability -inf.
    """
    estimates = Estimates([], [])
    for n, order in enumerate(orders, start=1):
        contexts, totals = _contexts(orders, n, order.counts, vocab_size)
        totals += k * vocab_size
        with np.errstate(divide="ignore"):  # the log of 0 is meant: a unigram never seen, k = 0
            estimates.log_probs.append(np.log((order.counts + k) / totals[contexts]))
        estimates.log_unseen.append(np.log(k / totals) if k else np.full(len(totals), -np.inf))
    return estimates


def _contexts(orders: list[OrderCounts], n: int, counts: Ints, vocab_size: int) -> tuple[Ints, Floats]:
    """For each n-gram the index of its context (K_n,), and for each context the sum of its n-grams (K_{n-1},)."""
    contexts = orders[n - 1].keys // vocab_size
    size = len(orders[n - 2].keys) if n > 1 else 1  # the one context of the unigrams is empty
    return contexts, np.bincount(contexts, weights=counts, minlength=size).astype(np.float64, copy=False)


def _base_distribution(counts: Ints) -> Floats:
    """What the unigrams are interpolated with (V,): uniform over the ids with a count and one <unk> for all others.

    KenLM's vocabulary is that of the text plus <unk>; ours is the tokenizer's. The ids that the training text lacks
    share the part of <unk> equally, so that the others have KenLM's probabilities. Without such ids there is no <unk>.
    """
    unseen = int((counts == 0).sum())
    words = len(counts) - unseen + (unseen > 0)
    return np.where(counts == 0, 1 / max(1, unseen), 1.0) / words


def _adjusted(order: OrderCounts, longer: OrderCounts) -> Ints:
    """How many different tokens precede each n-gram (K,); its count where none can, as at a document's start."""
    preceding = np.bincount(longer.suffixes, minlength=len(order.keys))
    return np.where(preceding > 0, preceding, order.counts)


def _discounts(counts: Ints) -> Floats:
    """D of the adjusted counts 0, 1, 2 and 3 or more (Chen and Goodman 1998, equation 26).

    A departure from KenLM: a discount of exactly 0 falls back too. It frees nothing for unseen tokens, whose loss
    would be infinite.
    """
    n1, n2, n3, n4 = np.bincount(counts[(counts > 0) & (counts < 5)], minlength=5)[1:].tolist()
    if not n1 * n2 * n3:
        return np.array(FALLBACK_DISCOUNTS)
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return discounts if (discounts[1:] > 0).all() else np.array(FALLBACK_DISCOUNTS)
