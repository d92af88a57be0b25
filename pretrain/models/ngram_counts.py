"""Counts of all n-grams up to an order, by one sort of the text.

A stream is EOT document EOT document ... EOT. Before a document EOT plays <s>, behind it </s>; no n-gram holds one in
between, so none crosses from one document to the next.

Shapes: N tokens of the stream, V ids of the vocabulary, K distinct n-grams of one order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretrain.errors import DataError

Ints = NDArray[np.int64]

LARGEST_KEY = 2**63 - 1


@dataclass(frozen=True)
class OrderCounts:
    """The distinct n-grams of one order, linked as a trie: an n-gram is a shorter n-gram and one token more.

    Attributes:
        keys: (K,) ascending; the index of the first n-1 tokens among the n-grams of order n-1, times V, plus the last
            token. So any order of any vocabulary fits 64 bits, where V**n would not. The unigrams are all V ids.
        counts: (K,) how often each occurs as context and target.
        suffixes: (K,) the index of the last n-1 tokens among the n-grams of order n-1; a unigram's is the id itself.
    """

    keys: Ints
    counts: Ints
    suffixes: Ints


def count_ngrams(tokens: NDArray[np.integer], order: int, *, vocab_size: int, end_of_text: int) -> list[OrderCounts]:
    """Counts of the n-grams of orders 1 to `order`; the stream's first token is a context only.

    All positions are sorted once by the `order` tokens that start there. The n-grams of every order then lie side by
    side, each order in the order of its keys, and are counted by comparing neighbours.

    Args:
        tokens: (N,) ids of any integer type; a stream cut at either end is counted as far as it goes.
    Raises:
        DataError: no target to count, or an id outside the vocabulary.
    """
    _check(tokens, vocab_size, end_of_text)
    count = len(tokens)
    reach = _reach(tokens, order, end_of_text)
    places = _sorted_positions(tokens, reach, order, vocab_size)  # (N,) positions, in the order of what starts there
    ranks = np.empty_like(places)
    ranks[places] = np.arange(count)
    reach = reach[places]

    ids = np.arange(vocab_size, dtype=np.int64)
    orders = [OrderCounts(ids, np.bincount(tokens[1:], minlength=vocab_size), ids)]
    index = tokens[places].astype(np.int64)  # (N,) which n-gram starts at each sorted place, one order after another
    differs = np.append(True, index[1:] != index[:-1])  # (N,) from the place before, in the first n tokens
    for n in range(2, order + 1):
        whole = reach >= n
        last = np.where(whole, tokens[np.minimum(places + n - 1, count - 1)], -1)
        differs[1:] |= last[1:] != last[:-1]
        first = np.flatnonzero(differs & whole)  # (K,)
        begins = np.flatnonzero(differs)
        repeats = np.diff(begins, append=count)[whole[begins]]
        keys = index[first] * vocab_size + last[first]
        orders.append(OrderCounts(keys, repeats, index[ranks[places[first] + 1]]))
        index = np.cumsum(differs & whole) - 1
    return orders


def _check(tokens: NDArray[np.integer], vocab_size: int, end_of_text: int) -> None:
    if len(tokens) < 2:
        raise DataError(f"nothing to count: the stream has {len(tokens)} tokens, and its first is only a context")
    for token in (int(tokens.min()), int(tokens.max()), end_of_text):
        if not 0 <= token < vocab_size:
            raise DataError(f"token id {token} is not in a vocabulary of {vocab_size} ids; is it the right tokenizer?")
    if len(tokens) * (vocab_size + 1) > LARGEST_KEY:
        raise DataError(f"{len(tokens)} tokens of {vocab_size} ids overflow 64-bit keys; count a part of them")


def _reach(tokens: NDArray[np.integer], order: int, end_of_text: int) -> Ints:
    """How many tokens an n-gram that starts at each position can have: to the document's end, at most `order`."""
    is_end = tokens == end_of_text
    ends = np.append(np.flatnonzero(is_end), len(tokens) - 1)  # a stream may be cut before its last EOT
    next_end = ends[np.cumsum(is_end)]  # (N,) strictly behind each position
    reach: Ints = np.minimum(next_end - np.arange(len(tokens)) + 1, order)
    return reach


def _sorted_positions(tokens: NDArray[np.integer], reach: Ints, order: int, vocab_size: int) -> Ints:
    """All positions, sorted by the first `reach` tokens that start at each, a shorter text before its continuations."""
    base = vocab_size + 1  # the tokens plus 1, and 0 where the reach has ended
    keys, distinct = np.zeros(len(tokens), dtype=np.int64), 1
    for offset in range(order):
        if distinct * base > LARGEST_KEY:
            keys = _dense_ranks(keys)
            distinct = len(tokens)
        keys *= base
        inside = np.flatnonzero(reach > offset)
        keys[inside] += tokens[inside + offset].astype(np.int64) + 1
        distinct *= base
    return np.argsort(keys)


def _dense_ranks(keys: Ints) -> Ints:
    """Small numbers that sort as `keys` do."""
    places = np.argsort(keys)
    ordered = keys[places]
    ranks = np.empty_like(keys)
    ranks[places] = np.cumsum(np.append(False, ordered[1:] != ordered[:-1]))
    return ranks
