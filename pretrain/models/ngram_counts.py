"""Counts of all n-grams up to an order: sorted runs of the text, merged bucket by bucket.

A stream is EOT document EOT document ... EOT. Before a document EOT plays <s>, behind it </s>; no n-gram holds one in
between, so none crosses from one document to the next.

What occurs once goes on in one way only. So an n-gram that occurs twice or more is a node, under which longer n-grams
hang, and one that occurs once is a leaf with the tokens behind it, its tail: sorting stops where a text becomes unique.

Shapes: N tokens of the stream, V ids of the vocabulary, E_n entries of order n (n-grams of which the first n-1 tokens
are a node), M_n of them nodes and L_n leaves, P windows of a bucket.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

import numpy as np

from pretrain.errors import DataError
from pretrain.models.ngram_runs import Text, bucket_bounds, single_threads, sorted_keys, sorted_runs, token_type
from pretrain.models.ngram_storage import Ints, disk_errors, mapped, pieces, temporary_file

LARGEST_KEY = 2**63 - 1


@dataclass(frozen=True)
class OrderCounts:
    """The entries of one order: children of the nodes of the order before, side by side.

    Attributes:
        keys: (E_n,) int64 ascending; the index of the first n-1 tokens among the nodes of order n-1, times V, plus the
            last token. So any order of any vocabulary fits 64 bits, where V**n would not. The unigrams are all V ids,
            and all of them nodes.
        links: (E_n,) the entry's index among the nodes, or -1 minus its index among the leaves.
        counts: (M_n,) how often each node occurs.
        preceding: (M_n,) how many different tokens stand before it; its count where it begins a document. For a leaf
            both numbers are 1.
        tails: (L_n, order - n) the tokens behind each leaf, up to the end of its document; V where there is none.
    """

    keys: Ints
    links: Ints
    counts: Ints
    preceding: Ints
    tails: Ints


def count_ngrams(
    tokens: Ints, order: int, *, vocab_size: int, end_of_text: int, memory_bytes: int | None = None
) -> list[OrderCounts]:
    """Counts of the n-grams of orders 1 to `order`; the stream's first token is a context only.

    Args:
        tokens: (N,) ids of any integer type; a document that is cut at the stream's end is taken to end there.
        memory_bytes: a stream that needs more is sorted on disk, where the tables stay (see ngram_storage); what they
            hold is the same. None: never. All that begins with one pair of tokens is counted in memory, in some 90
            bytes a token, whatever the bound: much only where a few ids make up the text.
    Raises:
        DataError: no target to count, an id outside the vocabulary, or more than 64-bit keys can hold.
        PretrainError: the disk is full.
    """
    _check(tokens, vocab_size, end_of_text)
    text = Text(tokens, len(tokens) + int(tokens[-1] != end_of_text), order, vocab_size, end_of_text)
    on_disk = exceeds(memory_bytes, text.length, order, vocab_size)
    with ExitStack() as files, single_threads() as threads, ThreadPoolExecutor(threads) as pool:
        tables = _Tables(text, files if on_disk else None)
        if order > 1:
            bounds = bucket_bounds(tokens, vocab_size)
            runs = sorted_runs(pool, text, bounds, on_disk=on_disk)

            def count(bucket: int) -> list[OrderCounts]:
                columns = np.concatenate([run.part(bucket) for run in runs], axis=1)
                return _count_bucket(columns, order, vocab_size, end_of_text)

            for entries in _in_order(pool, count, len(bounds) + 1, ahead=2 * threads):
                tables.append(entries)
        return tables.finished()


def exceeds(memory_bytes: int | None, tokens: int, order: int, vocab_size: int) -> bool:
    """Whether an n-gram model of so many tokens is too large for memory: runs, tables and hash tables, about."""
    return memory_bytes is not None and tokens * (30 + 2 * order * token_type(vocab_size)().itemsize) > memory_bytes


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[int], list[OrderCounts]], count: int, ahead: int
) -> Iterator[list[OrderCounts]]:
    """The results for 0 to `count` - 1, of which at most `ahead` wait to be taken."""
    waiting: deque[Future[list[OrderCounts]]] = deque()
    for number in range(count):
        waiting.append(pool.submit(work, number))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def distinct(orders: list[OrderCounts], vocab_size: int) -> list[int]:
    """How many different n-grams each order has, those inside tails included; the unigrams are those that occur."""
    found = [int((orders[0].counts > 0).sum()), *(len(level.keys) for level in orders[1:])]
    for n, level in enumerate(orders[1:], start=2):
        for here in pieces(len(level.tails)):
            in_tails = (level.tails[here, : len(orders) - n] != vocab_size).sum(0)  # of orders n + 1, n + 2 ...
            for longer, kinds in enumerate(in_tails.tolist(), start=n):
                found[longer] += kinds
    return found


def _check(tokens: Ints, vocab_size: int, end_of_text: int) -> None:
    if vocab_size < 1:
        raise DataError("the vocabulary is empty: there is nothing to count")
    if len(tokens) < 2:
        raise DataError(f"nothing to count: the stream has {len(tokens)} tokens, and its first is only a context")
    for token in (int(tokens.min()), int(tokens.max()), end_of_text):
        if not 0 <= token < vocab_size:
            raise DataError(f"token id {token} is not in a vocabulary of {vocab_size} ids; is it the right tokenizer?")
    if max(len(tokens), vocab_size) * (vocab_size + 1) > LARGEST_KEY:
        raise DataError(f"{len(tokens)} tokens of {vocab_size} ids overflow 64-bit keys; count a part of them")


def _count_bucket(columns: Ints, order: int, vocab_size: int, end_of_text: int) -> list[OrderCounts]:
    """The entries of orders 2 to `order` among windows (order + 1, P): a token before, then `order` tokens.

    Nodes of a bucket are counted from 0, but for those of order 1, which are ids.
    """
    before, windows = columns[0], columns[1:]
    orders = []
    members = np.arange(windows.shape[1])  # windows of which the first n-1 tokens are a node, and their nodes
    nodes, size = windows[0], vocab_size
    for n in range(2, order + 1):
        keys, places = sorted_keys(nodes, windows[n - 1].take(members), size, vocab_size)
        members = members.take(places)
        starts = np.flatnonzero(np.append(len(keys) > 0, keys[1:] != keys[:-1]))
        repeats = np.diff(starts, append=len(keys))
        is_node = repeats > 1
        nodes_so_far = np.cumsum(is_node, dtype=np.int32)
        links = np.where(is_node, nodes_so_far - 1, nodes_so_far - np.arange(1, len(starts) + 1, dtype=np.int32))
        leaves = members.take(starts.compress(~is_node))
        tails = _tails(windows[n - 1 :, leaves], vocab_size, end_of_text)

        members = members.compress(np.repeat(is_node, repeats))
        counts = repeats.compress(is_node)
        size = len(counts)
        nodes = np.repeat(np.arange(size, dtype=np.int32), counts)
        preceding = counts
        if n < order:
            begins = windows[0].take(members.take(np.cumsum(counts) - counts)) == end_of_text
            preceding = np.where(begins, counts, _preceding(nodes, counts, before.take(members), vocab_size))
        orders.append(OrderCounts(keys.take(starts), links, counts, preceding, tails))
        if n < order:
            goes_on = windows[n - 1].take(members) != end_of_text
            members, nodes = members.compress(goes_on), nodes.compress(goes_on)
    return orders


def _preceding(nodes: Ints, counts: Ints, before: Ints, vocab_size: int) -> Ints:
    """How many different tokens stand before each node (M,), given those before its occurrences; V is none."""
    pairs, _ = sorted_keys(nodes, before, len(counts), vocab_size + 1)
    differs = np.append(len(pairs) > 0, pairs[1:] != pairs[:-1])
    last = np.cumsum(counts) - 1
    none = pairs[last] % (vocab_size + 1) == vocab_size  # V is the greatest of a node's
    different: Ints = np.diff(np.cumsum(differs, dtype=np.int64)[last], prepend=0) - none
    return different


def _tails(windows: Ints, vocab_size: int, end_of_text: int) -> Ints:
    """The tokens (L, T) behind the first of each column of `windows` (1 + T, L); V behind an end of text."""
    tails = windows[1:].copy()
    ended = windows[0] == end_of_text
    for tail in tails:
        tail[ended] = vocab_size
        ended |= tail == end_of_text
    return np.ascontiguousarray(tails.T)


class _Tables:
    """The entries of all buckets, joined in their order, which is that of the keys.

    Args:
        files: closes the files in which they are joined; None: they are joined in memory.
    """

    def __init__(self, text: Text, files: ExitStack | None) -> None:
        self.order, self.vocab_size = order, vocab_size = text.order, text.vocab_size
        self.unigrams = np.zeros(vocab_size, np.int64)
        for here in pieces(len(text.tokens)):
            self.unigrams += np.bincount(text.tokens[here], minlength=vocab_size)
        self.unigrams[text.tokens[0]] -= 1
        self.unigrams[text.end_of_text] += text.length - len(text.tokens)
        self.preceding = np.zeros(vocab_size, np.int64)
        self.nodes, self.leaves = [0] * (order + 1), [0] * (order + 1)
        small = np.int32 if text.length < 2**31 else np.int64
        types = {"keys": np.int64, "links": small, "counts": small, "preceding": small}
        self.types = types | {"tails": token_type(vocab_size)}
        self.sizes = {(n, name): 0 for n in range(2, order + 1) for name in self.types}
        self.files: dict[tuple[int, str], IO[bytes]] = {}
        self.arrays: dict[tuple[int, str], Ints] = {}
        for n, name in self.sizes:
            if files is not None:
                self.files[n, name] = files.enter_context(temporary_file())
            else:  # room for the most that there can be; what is not filled takes no memory
                self.arrays[n, name] = np.empty(text.length * (order - n if name == "tails" else 1), self.types[name])

    def append(self, bucket: list[OrderCounts]) -> None:
        before, small = 0, self.types["links"]  # nodes of the order before, in earlier buckets
        for n, entries in enumerate(bucket, start=2):
            if n == 2:
                self.preceding += np.bincount(entries.keys % self.vocab_size, minlength=self.vocab_size)
            tables = {
                "keys": np.add(entries.keys, before * self.vocab_size, dtype=np.int64),
                "links": entries.links + np.where(entries.links < 0, small(-self.leaves[n]), small(self.nodes[n])),
                "counts": entries.counts,
                "preceding": entries.preceding,
                "tails": entries.tails.ravel(),
            }
            before = self.nodes[n]
            self.nodes[n] += len(entries.counts)
            self.leaves[n] += len(entries.tails)
            for name, table in tables.items():
                start, self.sizes[n, name] = self.sizes[n, name], self.sizes[n, name] + len(table)
                if file := self.files.get((n, name)):
                    with disk_errors():
                        file.write(table.astype(self.types[name], copy=False).data)
                else:
                    self.arrays[n, name][start : start + len(table)] = table

    def finished(self) -> list[OrderCounts]:
        ids = np.arange(self.vocab_size)
        none = np.zeros((0, self.order - 1), token_type(self.vocab_size))
        orders = [OrderCounts(ids, ids, self.unigrams, self.preceding if self.order > 1 else self.unigrams, none)]
        for n in range(2, self.order + 1):
            tables = {name: self._joined(n, name) for name in self.types}
            tables["tails"] = tables["tails"].reshape(self.leaves[n], self.order - n)
            orders.append(OrderCounts(**tables))
        return orders

    def _joined(self, n: int, name: str) -> Ints:
        size = self.sizes[n, name]
        if file := self.files.get((n, name)):
            with disk_errors():
                file.flush()
            return mapped(file, (size,), self.types[name])
        array = self.arrays.pop((n, name))
        array.resize(size, refcheck=False)  # gives the room that is left back
        return array
