"""Sorted runs: the windows of one piece of a text after the other, each sorted by its first two tokens.

Shapes: N tokens of the stream, V ids of the vocabulary, P windows of a bucket, B buckets.
"""

import math
import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.models.ngram_storage import Ints, empty

RUN = 2**20  # positions of a run
BUCKET = 2**18  # positions of a bucket, about: its arrays fit a CPU's cache, and most keys 31 bits
SAMPLES = 64  # positions of a bucket that are looked at to find where it begins


@dataclass(frozen=True)
class Text:
    """A stream that ends with an EOT, which `tokens` may lack.

    Attributes:
        tokens: (N,) or (N - 1,)
        length: N.
        order: of the longest n-gram.
    """

    tokens: Ints
    length: int
    order: int
    vocab_size: int
    end_of_text: int

    def windows(self, start: int, count: int) -> Ints:
        """The token before `start`, `count` tokens from it on, and order - 1 behind; V where there is none."""
        text = np.full(count + self.order, self.vocab_size, token_type(self.vocab_size))
        left, right = max(0, start - 1), min(len(self.tokens), start + count + self.order - 1)
        text[left - start + 1 : right - start + 1] = self.tokens[left:right]
        if right == len(self.tokens) < self.length:
            text[right - start + 1 : right - start + 2] = self.end_of_text
        return text


class Run:
    """The windows that start in one piece of the text, sorted by their first two tokens.

    Attributes:
        columns: (order + 1, P) the token before each window, then its own.
        ends: (B + 1,) where the windows of each bucket begin and end.
    """

    def __init__(self, text: Text, start: int, bounds: Ints, *, on_disk: bool) -> None:
        count = min(RUN, text.length - 1 - start)
        tokens = text.windows(start, count)
        keys, places = sorted_keys(tokens[1 : count + 1], tokens[2 : count + 2], text.vocab_size, text.vocab_size)
        self.ends = np.concatenate([[0], np.searchsorted(keys, bounds), [count]]).astype(np.int32)
        shape = text.order + 1, count
        if on_disk:
            self.columns = empty(shape, tokens.dtype, on_disk=True)
        else:  # given back as a whole, which a heap does not do
            self.columns = np.frombuffer(mmap.mmap(-1, math.prod(shape) * tokens.itemsize), tokens.dtype).reshape(shape)
        for offset, column in enumerate(self.columns):
            tokens[offset : offset + count].take(places, out=column, mode="clip")

    def part(self, bucket: int) -> Ints:
        """The columns (order + 1, P) of the windows of one bucket."""
        return self.columns[:, self.ends[bucket] : self.ends[bucket + 1]]


def sorted_runs(pool: ThreadPoolExecutor, text: Text, bounds: Ints, *, on_disk: bool) -> list[Run]:
    """All runs of a text, parted into buckets."""
    return list(pool.map(lambda start: Run(text, start, bounds, on_disk=on_disk), range(0, text.length - 1, RUN)))


def bucket_bounds(tokens: Ints, vocab_size: int) -> Ints:
    """(B-1,) the first pair of tokens of each bucket but the first, so that all hold about BUCKET positions."""
    buckets = -(-len(tokens) // BUCKET)
    places = np.linspace(0, len(tokens) - 2, min(len(tokens) - 1, buckets * SAMPLES)).astype(np.int64)
    pairs = np.sort(tokens[places].astype(np.int64) * vocab_size + tokens[places + 1])
    chosen = pairs[SAMPLES::SAMPLES]
    return chosen[np.append(True, chosen[1:] != chosen[:-1])] if len(chosen) else chosen


def sorted_keys(first: Ints, second: Ints, firsts: int, seconds: int) -> tuple[Ints, NDArray[np.int64]]:
    """first * seconds + second, ascending, and where each stood; first is below `firsts`, second below `seconds`.

    torch sorts integers by their digits where NumPy compares: 32-bit keys on one thread take half the time.
    """
    keys: NDArray[np.int64] = first.astype(np.int32 if firsts * seconds < 2**31 else np.int64)
    keys *= seconds
    keys += second.astype(keys.dtype)
    values, places = torch.sort(torch.from_numpy(keys))
    return values.numpy(), places.numpy()


def token_type(vocab_size: int) -> type[np.integer]:
    """The smallest type that holds the ids, and V for no token."""
    return np.uint16 if vocab_size < 2**16 else np.uint32


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
