"""Counts of all n-grams up to an order: sorted runs of the text, merged bucket by bucket.

A stream is EOT document EOT document ... EOT. Before a document EOT plays <s>, behind it </s>; no n-gram holds one in
between, so none crosses from one document to the next.

What occurs once goes on in one way only. So an n-gram that occurs twice or more is a node, under which longer n-grams
hang, and one that occurs once is a leaf with the tokens behind it, its tail: sorting stops where a text becomes unique.

Shapes: N tokens of the stream, V ids of the vocabulary, E_n entries of order n (n-grams of which the first n-1 tokens
are a node), M_n of them nodes and L_n leaves, P windows of a bucket.
"""

import mmap
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.errors import DataError

Ints = NDArray[Any]  # of any integer type

LARGEST_KEY = 2**63 - 1
RUN = 2**20  # positions of a run
BUCKET = 2**18  # positions of a bucket, about: its arrays fit a CPU's cache, and most keys 31 bits
SAMPLES = 64  # positions of a bucket that are looked at to find where it begins
BYTES_A_TOKEN = 50  # of runs and tables together, about


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
        memory_bytes: a stream that would take more is sorted in runs on disk, and its tables are maps of files that
            vanish with them; what they hold is the same. None: never.
    Raises:
        DataError: no target to count, an id outside the vocabulary, or more than 64-bit keys can hold.
    """
    _check(tokens, vocab_size, end_of_text)
    if tokens[-1] != end_of_text:
        tokens = np.append(tokens, np.array(end_of_text, tokens.dtype))
    spilled = memory_bytes is not None and len(tokens) * BYTES_A_TOKEN > memory_bytes
    with tempfile.TemporaryDirectory(prefix="pretrain-ngrams-") as folder, single_threads() as threads:
        disk = Path(folder) if spilled else None
        tables = _Tables(tokens, order, vocab_size, disk)
        if order > 1:
            bounds = _bounds(tokens, vocab_size)
            with ThreadPoolExecutor(threads) as pool:
                starts = range(0, len(tokens) - 1, RUN)
                runs = list(pool.map(lambda start: _Run(tokens, start, order, vocab_size, bounds, disk), starts))

                def count(bucket: int) -> list[OrderCounts]:
                    columns = np.concatenate([run.part(bucket) for run in runs], axis=1)
                    return _count_bucket(columns, order, vocab_size, end_of_text)

                for first in range(0, len(bounds) + 1, 8 * threads):  # few at once, whatever the corpus
                    some = range(first, min(first + 8 * threads, len(bounds) + 1))
                    for entries in pool.map(count, some):
                        tables.append(entries)
        return tables.finished()


@contextmanager
def single_threads() -> Iterator[int]:
    """Let torch use one thread for each of our own, of which there are as many as the number that is given.

    torch's own threads wait for each other after every operation: slower, and far slower on a machine that is shared.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def distinct(orders: list[OrderCounts], vocab_size: int) -> list[int]:
    """How many different n-grams each order has, those inside tails included; the unigrams are those that occur."""
    found = [int((orders[0].counts > 0).sum())]
    for n in range(2, len(orders) + 1):
        shorter = [(orders[m - 1].tails[:, n - m - 1] != vocab_size).sum() for m in range(2, n)]
        found.append(len(orders[n - 1].keys) + int(sum(shorter)))
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


def _bounds(tokens: Ints, vocab_size: int) -> Ints:
    """(B-1,) the first pair of tokens of each bucket but the first, so that all hold about BUCKET positions."""
    buckets = -(-len(tokens) // BUCKET)
    places = np.linspace(0, len(tokens) - 2, min(len(tokens) - 1, buckets * SAMPLES)).astype(np.int64)
    pairs = np.sort(tokens[places].astype(np.int64) * vocab_size + tokens[places + 1])
    chosen = pairs[SAMPLES::SAMPLES]
    return chosen[np.append(True, chosen[1:] != chosen[:-1])] if len(chosen) else chosen


class _Run:
    """The windows that start in one piece of the stream, sorted by their first two tokens, in memory or in a file."""

    def __init__(
        self, tokens: Ints, start: int, order: int, vocab_size: int, bounds: Ints, folder: Path | None
    ) -> None:
        count = min(RUN, len(tokens) - 1 - start)
        text = np.full(count + order, vocab_size, _token_type(vocab_size))  # a token before, order - 1 behind the piece
        left, right = max(0, start - 1), min(len(tokens), start + count + order - 1)
        text[left - start + 1 : right - start + 1] = tokens[left:right]
        keys, places = _sorted(text[1 : count + 1], text[2 : count + 2], vocab_size, vocab_size)
        ends = [0, *np.searchsorted(keys, bounds).tolist(), count]
        room = mmap.mmap(-1, (order + 1) * count * text.itemsize)  # given back as a whole, which a heap does not do
        columns = np.frombuffer(room, text.dtype).reshape(order + 1, count)  # the token before each window, its own
        for offset, column in enumerate(columns):
            text[offset : offset + count].take(places, out=column, mode="clip")
        self.file, self.ends = (folder / f"{start}.npy" if folder else None), ends
        if self.file:
            np.save(self.file, columns)
        else:
            self.columns = columns

    def part(self, bucket: int) -> Ints:
        """The columns (order + 1, P) of the windows of one bucket."""
        columns = np.load(self.file, mmap_mode="r") if self.file else self.columns
        return columns[:, self.ends[bucket] : self.ends[bucket + 1]]


def _token_type(vocab_size: int) -> type[np.integer]:
    """The smallest type that holds the ids, and V for no token."""
    return np.uint16 if vocab_size < 2**16 else np.uint32


def _sorted(first: Ints, second: Ints, firsts: int, seconds: int) -> tuple[Ints, NDArray[np.int64]]:
    """first * seconds + second, ascending, and where each stood; first is below `firsts`, second below `seconds`.

    torch sorts integers by their digits where NumPy compares: 32-bit keys on one thread take half the time.
    """
    keys: NDArray[np.int64] = first.astype(np.int32 if firsts * seconds < 2**31 else np.int64)
    keys *= seconds
    keys += second.astype(keys.dtype)
    values, places = torch.sort(torch.from_numpy(keys))
    return values.numpy(), places.numpy()


def _count_bucket(columns: Ints, order: int, vocab_size: int, end_of_text: int) -> list[OrderCounts]:
    """The entries of orders 2 to `order` among windows (order + 1, P): a token before, then `order` tokens.

    Nodes of a bucket are counted from 0, but for those of order 1, which are ids.
    """
    before, windows = columns[0], columns[1:]
    orders = []
    members = np.arange(windows.shape[1])  # windows of which the first n-1 tokens are a node, and their nodes
    nodes, size = windows[0], vocab_size
    for n in range(2, order + 1):
        keys, places = _sorted(nodes, windows[n - 1].take(members), size, vocab_size)
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
    pairs, _ = _sorted(nodes, before, len(counts), vocab_size + 1)
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
    """The entries of all buckets, joined in their order, which is that of the keys."""

    def __init__(self, tokens: Ints, order: int, vocab_size: int, folder: Path | None) -> None:
        self.order, self.vocab_size, self.folder = order, vocab_size, folder
        self.unigrams = np.zeros(vocab_size, np.int64)
        for start in range(1, len(tokens), RUN):
            self.unigrams += np.bincount(tokens[start : start + RUN], minlength=vocab_size)
        self.preceding = np.zeros(vocab_size, np.int64)
        self.nodes, self.leaves = [0] * (order + 1), [0] * (order + 1)
        small = np.int32 if len(tokens) < 2**31 else np.int64
        types = {"keys": np.int64, "links": small, "counts": small, "preceding": small}
        self.types = types | {"tails": _token_type(vocab_size)}
        self.arrays: dict[tuple[int, str], Ints] = {}
        self.sizes = {(n, name): 0 for n in range(2, order + 1) for name in self.types}
        if folder is None:  # room for the most that there can be; what is not filled takes no memory
            for n, name in self.sizes:
                most = len(tokens) * (order - n if name == "tails" else 1)
                self.arrays[n, name] = np.empty(most, self.types[name])

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
                if self.folder:
                    with (self.folder / f"{n}.{name}").open("ab") as file:
                        file.write(table.astype(self.types[name], copy=False).data)
                else:
                    self.arrays[n, name][start : start + len(table)] = table

    def finished(self) -> list[OrderCounts]:
        ids = np.arange(self.vocab_size)
        none = np.zeros((0, self.order - 1), _token_type(self.vocab_size))
        orders = [OrderCounts(ids, ids, self.unigrams, self.preceding if self.order > 1 else self.unigrams, none)]
        for n in range(2, self.order + 1):
            tables = {name: self._joined(n, name) for name in self.types}
            tables["tails"] = tables["tails"].reshape(self.leaves[n], self.order - n)
            orders.append(OrderCounts(**tables))
        return orders

    def _joined(self, n: int, name: str) -> Ints:
        size = self.sizes[n, name]
        if self.folder and size:
            return np.memmap(self.folder / f"{n}.{name}", self.types[name], mode="c")
        array = self.arrays.pop((n, name), np.zeros(0, self.types[name]))
        array.resize(size, refcheck=False)  # gives the room that is left back
        return array
