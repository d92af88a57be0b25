"""The n-grams of a text as a trie that a whole batch walks at once.

An n-gram's state says where it stands: a node's index, or a place in the tails behind what occurs once. The state of
the first n-1 tokens and one token more give the state of the n-gram, by one look into a hash table.

Shapes: R look-ups, V ids of the vocabulary, E_n entries, M_n nodes and L_n leaves of order n; see ngram_counts.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.models.ngram_counts import OrderCounts, single_threads

Ints = NDArray[Any]

UNSEEN = -1  # the training text does not have it
ABSENT = -2  # there is none of this length: it would cross the row's start or the document's
LEAF = -3  # a leaf's state is LEAF minus the place of the token behind it in the tails

MIX = np.int64(-7046029254386353131)  # 2**64 over the golden ratio: Knuth's multiplicative hashing
NO_LINK = -2
SPARE = 2**12  # slots behind the last place, far more than keys ever stand in a row
AT_ONCE = 2**16  # keys put into a hash table at a time


class NGramTrie:
    """Finds n-grams of orders 2 to `order`.

    Args:
        keys: for n from 2, (E_n,) int64, ascending: the node of the first n-1 tokens times V, plus the last token.
        links: for n from 2, (E_n,) the node, or -1 minus the leaf.
        tails: the tokens behind the leaves of order 2, then of order 3 ..., order - n of each; V for none.
    """

    def __init__(self, order: int, vocab_size: int, keys: Sequence[Ints], links: Sequence[Ints], tails: Ints) -> None:
        self.order = order
        self.vocab_size = vocab_size
        none: list[Ints] = [np.zeros(0, np.int64)] * 2  # of orders 0 and 1
        self.keys, self.links, self.tails = [*none, *keys], [*none, *links], tails
        leaves = [int((table < 0).sum()) for table in self.links]
        widths = [count * (order - n) for n, count in enumerate(leaves)]
        self.bases = [0, *np.cumsum(widths).tolist()]  # where the tails of each order begin
        pairs = zip(self.links, leaves, strict=True)
        # Bits of a link in the hash table: twice the node, or twice the leaf and one.
        self.bits = [(2 * max(count, len(table) - count)).bit_length() for table, count in pairs]
        with single_threads() as threads, ThreadPoolExecutor(threads) as pool:
            self.slots = list(pool.map(self._hash_table, range(order + 1)))

    def ngrams(self) -> int:
        """How many different n-grams of two or more tokens there are, those inside tails included."""
        return sum(map(len, self.keys)) + int((self.tails != self.vocab_size).sum())

    def find(self, n: int, contexts: Ints, following: Ints) -> Ints:
        """States (R,) of n-grams, from those (R,) of their first n-1 tokens, and the last tokens (R,)."""
        nodes = np.flatnonzero(contexts >= 0)
        keys = contexts.take(nodes)
        keys *= self.vocab_size
        keys += following.take(nodes)
        states = self._states(n, self._look_up(n, keys))
        if len(nodes) == len(contexts):
            return states
        found = np.full(len(contexts), UNSEEN)
        found[nodes] = states
        if n > 2:
            leaves = np.flatnonzero(contexts <= LEAF)
            states = contexts.take(leaves)
            same = self.tails.take(LEAF - states) == following.take(leaves)
            found[leaves] = np.where(same, states - 1, UNSEEN)
        return found

    def children(self, n: int, contexts: Ints) -> tuple[Ints, Ints, Ints]:
        """All n-grams of order n that begin with one of `contexts` (R,), states of order n - 1.

        Returns:
            three arrays of one length: which of the contexts, the n-gram's last token, and its state.
        """
        rows = np.flatnonzero(contexts >= 0)
        nodes = contexts.take(rows)
        first = np.searchsorted(self.keys[n], nodes * self.vocab_size)
        counts = np.searchsorted(self.keys[n], (nodes + 1) * self.vocab_size) - first
        rows = np.repeat(rows, counts)
        entries = np.arange(len(rows)) + np.repeat(first - np.cumsum(counts) + counts, counts)
        states = self._states(n, _doubled(self.links[n].take(entries)))
        leaves = np.flatnonzero(contexts <= LEAF)
        tails = self.tails.take(LEAF - contexts.take(leaves)) if n > 2 else self.tails[:0]
        leaves, tails = leaves[: len(tails)].compress(tails != self.vocab_size), tails[tails != self.vocab_size]
        return (
            np.concatenate([rows, leaves]),
            np.concatenate([self.keys[n].take(entries) % self.vocab_size, tails.astype(np.int64)]),
            np.concatenate([states, contexts.take(leaves) - 1]),
        )

    def _states(self, n: int, links: Ints) -> Ints:
        """What doubled links of order n stand for; NO_LINK is UNSEEN."""
        halves = links >> 1
        leaf = (LEAF - self.bases[n]) - halves * (self.order - n)
        states: Ints = np.where(links & 1, leaf, halves)
        return states

    def _look_up(self, n: int, keys: Ints) -> Ints:
        """(R,) the doubled link of each key, NO_LINK where it is in no table."""
        slots, bits = self.slots[n], self.bits[n]
        if not len(slots):
            return self._search(n, keys)
        places = _hashed(keys, _places(len(self.keys[n])))
        values = slots.take(places, mode="clip")
        same = (values >> bits) == keys
        links: Ints = np.where(same, values & (2**bits - 1), NO_LINK)
        rows = np.flatnonzero(~same & (values >= 0))
        keys, places = keys.take(rows), places.take(rows)
        while len(rows):
            places += 1
            values = slots.take(places, mode="clip")
            same = (values >> bits) == keys
            links[rows.compress(same)] = values.compress(same) & (2**bits - 1)
            on = np.flatnonzero(~same & (values >= 0))
            rows, keys, places = rows.take(on), keys.take(on), places.take(on)
        return links

    def _search(self, n: int, keys: Ints) -> Ints:
        """The same by binary search, which is slower."""
        if not len(self.keys[n]):
            return np.full(len(keys), NO_LINK)
        entries = np.minimum(np.searchsorted(self.keys[n], keys), len(self.keys[n]) - 1)
        links: Ints = np.where(self.keys[n].take(entries) == keys, _doubled(self.links[n].take(entries)), NO_LINK)
        return links

    def _hash_table(self, n: int) -> Ints:
        """Key and link in one number, each in the first free slot from its place on; -1 is free.

        Empty where a key and a link do not fit 63 bits together.
        """
        keys, links, bits = self.keys[n], self.links[n], self.bits[n]
        if not len(keys) or int(keys[-1]).bit_length() + bits > 63:
            return np.zeros(0, np.int64)
        slots = np.full(_places(len(keys)) + SPARE, -1)
        for start in range(0, len(keys), AT_ONCE):
            waiting = (keys[start : start + AT_ONCE] << bits) | _doubled(links[start : start + AT_ONCE])
            places = _hashed(keys[start : start + AT_ONCE], _places(len(keys)))
            while len(waiting):
                free = np.flatnonzero(slots.take(places) < 0)
                slots[places.take(free)] = waiting.take(free)  # of several with one place, one stays
                lost = np.flatnonzero(slots.take(places) != waiting)
                waiting, places = waiting.take(lost), places.take(lost) + 1
        assert slots[-1] == -1, "the look-up ends at a free slot"
        return slots


def _places(count: int) -> int:
    """Places for so many keys, of which half are then taken."""
    return 2 * count


def _doubled(links: Ints) -> Ints:
    """Twice the node, or twice the leaf and one."""
    links = links.astype(np.int64)
    doubled: Ints = np.where(links < 0, -1 - 2 * links, 2 * links)
    return doubled


def _hashed(keys: Ints, size: int) -> Ints:
    """A place below `size` for each key, by the highest 31 bits of a product of its mixed bits."""
    hashed = keys * MIX
    hashed ^= hashed >> 32
    hashed *= MIX
    hashed >>= 33
    hashed &= 2**31 - 1
    hashed *= size
    hashed >>= 31
    return hashed


def joined_tails(orders: Sequence[OrderCounts], vocab_size: int) -> Ints:
    """The tails of all leaves of counts, cut to the order that `orders` end with."""
    width = np.int16 if vocab_size < 2**15 else np.int32
    tails = [level.tails[:, : len(orders) - n].ravel() for n, level in enumerate(orders, start=1)]
    return np.concatenate(tails).astype(width)


def mismatches(tables: Mapping[str, Ints], nodes: Mapping[int, int], order: int, vocab_size: int) -> list[str]:
    """What is wrong with saved keys_n, links_n and tails, where order n has nodes[n] nodes."""
    wrong, tails = [], 0
    for n in range(2, order + 1):
        keys, links, bound = tables[f"keys_{n}"], tables[f"links_{n}"], nodes[n - 1] * vocab_size
        if keys.dtype != np.int64 or (len(keys) and not (keys[0] >= 0 and keys[-1] < bound and _ascending(keys))):
            wrong.append(f"keys_{n} {keys.shape} are not ascending from 0 to below {bound}")
        here, leaves = links[links >= 0], -1 - links[links < 0]
        if links.shape != keys.shape:
            wrong.append(f"links_{n} {links.shape} are not one for each of keys_{n} {keys.shape}")
        elif len(here) != nodes[n] or not (_counts_up(here) and _counts_up(leaves)):
            wrong.append(f"links_{n} {links.shape} do not number {nodes[n]} nodes and the leaves in order")
        tails += len(leaves) * (order - n)
    found = tables["tails"]
    if found.shape != (tails,):
        wrong.append(f"tails is {found.shape}, not ({tails},)")
    elif tails and not (found.min() >= 0 and found.max() <= vocab_size):
        wrong.append(f"tails has ids outside the vocabulary of {vocab_size}")
    return wrong


def _ascending(values: Ints) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _counts_up(values: Ints) -> bool:
    return bool((values == np.arange(len(values))).all())
