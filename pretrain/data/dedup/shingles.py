"""Shingles: the sequences of a few words that tell how alike two documents are, as hashes of a whole batch at once.

Words are those of `words.py`, in lower case: in scripts without spaces each character is one, so that a shingle of five
words is one of five characters there, as is usual for Japanese.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

from pretrain.data.words import WordTable, portions
from pretrain.tokenizers.spans import mixed

CHARACTERS_AT_ONCE = 1 << 19  # characters whose words are found at the same time: more take more memory, and are slower
WINDOWS_AT_ONCE = 1 << 20  # shingles that are hashed at the same time
Sets = tuple[NDArray[np.int64], NDArray[np.uint32]]  # how long some sets are; and all, one after the other
MULTIPLIER = np.uint64(0xD1342543DE82EF95)  # odd, with well-mixed bits; not that of the words' own hashes


def shingle_sets(texts: Sequence[str], shingle: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """The distinct shingles of each text, as sorted 32-bit hashes.

    With 32 bits one of k shingles meets another by chance about every 2**32 / k times: no similarity notices.

    Args:
        shingle: words in a shingle. A text with fewer is one shingle, whole; without any word it is taken as it stands.
    Returns:
        (N + 1,) where each text's hashes begin, and last where the last one's end; and all hashes.
    """
    hashes, owners = word_hashes(texts)
    counts = np.bincount(owners, minlength=len(texts))
    firsts = np.cumsum(counts) - counts
    offsets = np.cumsum([0, *np.maximum(counts - shingle + 1, 1)])
    found = np.empty(offsets[-1], np.uint32)
    long = np.ones(len(found), bool)
    long[offsets[:-1][counts < shingle]] = False
    found[long] = _windows(hashes, owners, shingle)
    for size in range(1, shingle):
        few = np.flatnonzero(counts == size)
        found[offsets[few]] = _half(folded([hashes[firsts[few] + place] for place in range(size)]))
    for text in np.flatnonzero(counts == 0).tolist():
        found[offsets[text]] = xxhash.xxh3_64_intdigest(texts[text].encode()) >> 32
    for start, end in pairwise(offsets.tolist()):
        found[start:end].sort()  # text by text, which takes a third of the time of all at once
    new = np.append(True, found[1:] != found[:-1])[: len(found)]
    new[offsets[:-1]] = True
    return np.append(0, np.cumsum(new))[offsets], found[new]


def _windows(hashes: NDArray[np.uint64], owners: NDArray[np.int64], shingle: int) -> NDArray[np.uint32]:
    """A hash for each sequence of `shingle` words of the same text."""
    found = [np.zeros(0, np.uint32)]
    windows = max(0, len(hashes) - shingle + 1)
    for start in range(0, windows, WINDOWS_AT_ONCE):
        end = min(start + WINDOWS_AT_ONCE, windows)
        sequences = folded([hashes[start + place : end + place] for place in range(shingle)])
        whole = owners[start:end] == owners[start + shingle - 1 : end + shingle - 1]
        found.append(_half(sequences)[whole])
    return np.concatenate(found)


def _half(hashes: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The high half of each hash."""
    return (hashes >> np.uint64(32)).astype(np.uint32)


def word_hashes(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(W,) a hash for each word, in lower case; and (W,) the number of the text that it stands in."""
    hashes: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
    owners: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for numbers, some in portions(texts, str.lower, CHARACTERS_AT_ONCE):
        table = WordTable.of(some)
        hashes.append(table.hashes)
        owners.append(np.array(numbers, np.int64)[table.text])
    return np.concatenate(hashes), np.concatenate(owners)


def folded(columns: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """One hash for each row of some columns of hashes, all bits mixed; the order of the columns matters."""
    result = columns[0].copy()
    for column in columns[1:]:
        result *= MULTIPLIER
        result += column
    return mixed(result)


def shared(pairs: int, one: Sets, other: Sets) -> NDArray[np.int64]:
    """(pairs,) how many elements two sets have in common, for many pairs at once.

    Args:
        one, other: a set for each pair, sorted and distinct.
    """
    number = np.arange(pairs).astype(np.uint64) << np.uint64(32)
    sides = [np.repeat(number, lengths) | values for lengths, values in (one, other)]
    both = np.sort(np.concatenate(sides), kind="stable")  # two runs that are sorted: Timsort merges them
    twice = both[1:][both[1:] == both[:-1]]
    return np.bincount((twice >> np.uint64(32)).astype(np.int64), minlength=pairs)
