"""What a row of tokens itself says about the next one: n-grams of the recent text, by Witten and Bell's rule.

For contexts of k = 0, 1, 2 ... tokens, with c(h w) of C(h) earlier occurrences and D(h) different followers,
p_k(w) = (c + D p_{k-1}(w)) / (C + D); before all, every token is alike.

Shapes: B rows, T positions, V ids of the vocabulary.
"""

import numpy as np

from pretrain.models.ngram_storage import Ints
from pretrain.models.smoothing import Floats

FACTOR = np.int64(-7046029254386353131)  # of a polynomial in 64-bit numbers, by which contexts are known


def cache_probabilities(tokens: Ints, targets: Ints, order: int, vocab_size: int) -> tuple[Floats, Ints]:
    """Of targets (B, T), which are the next tokens; and how long a context, up to `order`, the row has shown before."""
    shape = tokens.shape
    contexts = np.broadcast_to(np.arange(shape[0])[:, None], shape).astype(np.int64)
    probs, longest = np.full(tokens.size, 1 / vocab_size), np.zeros(tokens.size, np.int64)
    for k in range(order + 1):
        if k:
            earlier = np.full(shape, -1)
            earlier[:, k - 1 :] = tokens[:, : shape[1] - k + 1]
            contexts = contexts * FACTOR + earlier + 2
        pairs = contexts * FACTOR + targets + 2
        same = _earlier(pairs.ravel(), np.ones(tokens.size))
        before = _earlier(contexts.ravel(), np.ones(tokens.size))
        kinds = _earlier(contexts.ravel(), (same == 0).astype(np.float64))
        there = before > 0
        probs[there] = ((same + kinds * probs) / (before + kinds + ~there))[there]
        longest[there] = k
    return probs.reshape(shape), longest.reshape(shape)


def cache_distributions(tokens: Ints, order: int, vocab_size: int) -> tuple[Floats, Ints]:
    """The same (B, V) for all tokens after rows (B, T), and (B,) the longest context; -1 is no token."""
    length = tokens.shape[1]
    probs, longest = np.full((len(tokens), vocab_size), 1 / vocab_size), np.zeros(len(tokens), np.int64)
    same = tokens[:, 1:] >= 0
    same &= tokens[:, :-1] >= 0  # (B, T - 1) the places whose context is that of the row's end, and a token follows
    for k in range(min(order + 1, length)):
        if k:
            matches = np.zeros_like(same)
            matches[:, k - 1 :] = tokens[:, : length - k] == tokens[:, length - k, None]
            same = same & matches
        rows, places = same.nonzero()
        counts = np.bincount(rows * vocab_size + tokens[rows, places + 1], minlength=probs.size).reshape(probs.shape)
        before, kinds = counts.sum(1), (counts > 0).sum(1)
        there = before > 0
        probs[there] = (counts + kinds[:, None] * probs)[there] / (before + kinds)[there, None]
        longest[there] = k
    return probs, longest


def _earlier(groups: Ints, values: Floats) -> Floats:
    """(R,) for each place, the sum of `values` at earlier places of the same group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups.take(order)
    sums = np.cumsum(values.take(order)) - values.take(order)
    first = np.append(True, ordered[1:] != ordered[:-1])
    found = np.empty(len(groups))
    found[order] = sums - np.repeat(sums[first], np.diff(np.flatnonzero(first), append=len(groups)))
    return found
