"""The n-grams of a text as a trie that a whole batch walks at once.

An n-gram's state says where it stands: a node's index, or a place in the tails behind what occurs once. The state of
the first n-1 tokens and one token more give the state of the n-gram, by one look into a hash table.

Shapes: R look-ups, V ids of the vocabulary, E_n entries, M_n nodes and L_n leaves of order n; see ngram_counts.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pretrain.models.ngram_counts import OrderCounts
from pretrain.models.ngram_runs import single_threads
from pretrain.models.ngram_storage import Ints, empty, pieces

UNSEEN = -1  # the training text does not have it
ABSENT = -2  # there is none of this length: it would cross the row's start or the document's
LEAF = -3  # a leaf's state is LEAF minus the place of the token behind it in the tails

MIX = np.int64(-7046029254386353131)  # 2**64 over the golden ratio: Knuth's multiplicative hashing
NO_LINK = -2
SPARE = 2**12  # slots behind the last place, far more than keys ever stand in a row
AT_ONCE = 2**16  # keys put into a hash table at a time
FEW = 256  # look-ups that are finished at once, instead of slot by slot


class NGramTrie:
    """Finds n-grams of orders 2 to `order`.

    Args:
        keys: for n from 2, (E_n,) int64, ascending: the node of the first n-1 tokens times V, plus the last token.
        links: for n from 2, (E_n,) the node, or -1 minus the leaf.
        tails: the tokens behind the leaves of order 2, then of order 3 ..., order - n of each; V for none.
        hashed: whether there is memory for hash tables; without them look-ups are binary searches, which are slower.
    """

    def __init__(
        self, order: int, vocab_size: int, keys: Sequence[Ints], links: Sequence[Ints], tails: Ints, *, hashed: bool
    ) -> None:
        self.order = order
        self.vocab_size = vocab_size
        none: list[Ints] = [np.zeros(0, np.int64)] * 2  # of orders 0 and 1
        self.keys, self.links, self.tails = [*none, *keys], [*none, *links], tails
        leaves = [sum(int((table[here] < 0).sum()) for here in pieces(len(table))) for table in self.links]
        widths = [count * (order - n) for n, count in enumerate(leaves)]
        self.bases = [0, *np.cumsum(widths).tolist()]  # where the tails of each order begin
        nodes = [len(table) - count for table, count in zip(self.links, leaves, strict=True)]
        # Bits of a link in the hash table: twice the node, or twice the leaf and one.
        self.bits = [(2 * max(pair)).bit_length() for pair in zip(leaves, nodes, strict=True)]
        self.bounds = [0, 0, *(count * vocab_size for count in (vocab_size, *nodes[2:-1]))]  # of keys, seen or not
        with single_threads() as threads, ThreadPoolExecutor(threads) as pool:
            tables = range(order + 1) if hashed else ()
            built = list(pool.map(self._hash_table, tables))
        self.slots = dict(zip(tables, (slots for slots, _ in built), strict=True))
        self.farthest = [farthest for _, farthest in built]  # slots from a key's first to its own, at most

    def ngrams(self) -> int:
        """How many different n-grams of two or more tokens there are, those inside tails included."""
        in_tails = sum(int((self.tails[here] != self.vocab_size).sum()) for here in pieces(len(self.tails)))
        return sum(map(len, self.keys)) + in_tails

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
        slots, bits = self.slots.get(n), self.bits[n]
        if slots is None:
            return self._search(n, keys)
        places = _hashed(keys, _places(len(self.keys[n])))
        keys = keys << bits
        # Zeros where the keys agree, so that the link is left; a free slot makes it negative.
        apart = slots.take(places, mode="clip") ^ keys
        links: Ints = np.where(apart.view(np.uint64) < 2**bits, apart, NO_LINK)
        rows = np.flatnonzero(apart >= 2**bits)
        keys, places = keys.take(rows), places.take(rows)
        while len(rows) > FEW:
            places += 1
            apart = slots.take(places, mode="clip") ^ keys
            same = np.flatnonzero(apart.view(np.uint64) < 2**bits)
            links[rows.take(same)] = apart.take(same)
            on = np.flatnonzero(apart >= 2**bits)
            rows, keys, places = rows.take(on), keys.take(on), places.take(on)
        if len(rows):  # the last few have the farthest to go: all places that theirs may be in, at once
            apart = slots.take(places[:, None] + np.arange(1, self.farthest[n] + 1), mode="clip") ^ keys[:, None]
            same, at = np.nonzero(apart.view(np.uint64) < 2**bits)
            links[rows.take(same)] = apart[same, at]
        return links

    def _search(self, n: int, keys: Ints) -> Ints:
        """The same by binary search, for keys in ascending order, so that it goes once through the table."""
        links = np.full(len(keys), NO_LINK)
        if len(self.keys[n]):
            order = np.argsort(keys)
            keys = keys.take(order)
            entries = np.searchsorted(self.keys[n], keys)
            found = np.flatnonzero(self.keys[n].take(entries, mode="clip") == keys)
            links[order.take(found)] = _doubled(self.links[n].take(entries.take(found)))
        return links

    def _hash_table(self, n: int) -> tuple[Ints | None, int]:
        """Key and link in one number, each in the first free slot from its place on, which is -1; and how far, at most.

        None where a key and a link do not fit 63 bits together, or a place 31 bits.
        """
        keys, links, bits = self.keys[n], self.links[n], self.bits[n]
        if not len(keys) or self.bounds[n].bit_length() + bits > 63 or _places(len(keys)) >= 2**31:
            return None, 0
        slots, farthest = np.full(_places(len(keys)) + SPARE, -1), 0
        for start in range(0, len(keys), AT_ONCE):
            waiting = (keys[start : start + AT_ONCE] << bits) | _doubled(links[start : start + AT_ONCE])
            places = _hashed(keys[start : start + AT_ONCE], _places(len(keys)))
            distance = 0
            while True:
                free = np.flatnonzero(slots.take(places) < 0)
                slots[places.take(free)] = waiting.take(free)  # of several with one place, one stays
                lost = np.flatnonzero(slots.take(places) != waiting)
                if not len(lost):
                    break
                waiting, places, distance = waiting.take(lost), places.take(lost) + 1, distance + 1
            farthest = max(farthest, distance)
        assert slots[-1] == -1, "the look-up ends at a free slot"
        return slots, farthest


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


def joined_tails(orders: Sequence[OrderCounts], vocab_size: int, *, on_disk: bool) -> Ints:
    """The tails of all leaves of counts, cut to the order that `orders` end with."""
    widths = [len(orders) - n for n, _ in enumerate(orders, start=1)]
    ends = np.cumsum([len(level.tails) * width for level, width in zip(orders, widths, strict=True)])
    joined = empty((int(ends[-1]),), np.int16 if vocab_size < 2**15 else np.int32, on_disk=on_disk)
    for level, width, part in zip(orders, widths, np.split(joined, ends[:-1]), strict=True):
        for here in pieces(len(level.tails)):
            part.reshape(len(level.tails), width)[here] = level.tails[here, :width]
    return joined


def mismatches(tables: Mapping[str, Ints], nodes: Mapping[int, int], order: int, vocab_size: int) -> list[str]:
    """What is wrong with saved keys_n, links_n and tails, where order n has nodes[n] nodes."""
    wrong, tails = [], 0
    for n in range(2, order + 1):
        keys, links, bound = tables[f"keys_{n}"], tables[f"links_{n}"], nodes[n - 1] * vocab_size
        if keys.dtype != np.int64 or (len(keys) and not (keys[0] >= 0 and keys[-1] < bound and _ascending(keys))):
            wrong.append(f"keys_{n} {keys.shape} are not ascending from 0 to below {bound}")
        found, leaves = _numbered(links)
        if links.shape != keys.shape:
            wrong.append(f"links_{n} {links.shape} are not one for each of keys_{n} {keys.shape}")
        elif found != nodes[n]:
            wrong.append(f"links_{n} {links.shape} do not number {nodes[n]} nodes and the leaves in order")
        tails += leaves * (order - n)
    found_tails = tables["tails"]
    if found_tails.shape != (tails,):
        wrong.append(f"tails is {found_tails.shape}, not ({tails},)")
    elif tails and not (found_tails.min() >= 0 and found_tails.max() <= vocab_size):
        wrong.append(f"tails has ids outside the vocabulary of {vocab_size}")
    return wrong


def _ascending(values: Ints) -> bool:
    return all(bool((np.diff(values[here.start : here.stop + 1]) > 0).all()) for here in pieces(len(values)))


def _numbered(links: Ints) -> tuple[int, int]:
    """How many nodes and leaves there are; -1 nodes where one of them is not numbered in order."""
    nodes = leaves = 0
    ordered = True
    for here in pieces(len(links)):
        is_node = links[here] >= 0
        found, others = links[here].compress(is_node), links[here].compress(~is_node)
        ordered &= bool((found == np.arange(nodes, nodes + len(found))).all())
        ordered &= bool((others == -1 - np.arange(leaves, leaves + len(others))).all())
        nodes, leaves = nodes + len(found), leaves + len(others)
    return nodes if ordered else -1, leaves
