"""What is measured of each text of a batch, in any language: lines, runs, repetition, order, markup, compression.

Each function takes the texts, or their table of characters, and gives one number a text.
"""

import re
from collections.abc import Sequence

import numpy as np
from backports import zstd
from numpy.typing import NDArray

from pretrain.data.filters.characters import HAN, HIRAGANA, KATAKANA, SPACE, CharacterTable

RUN = 10  # times that a character stands in a row before it counts as a run
SHORT_LINE = 10  # visible characters in a short line, at most
NGRAM = 5  # characters in a sequence whose repetition counts
ORDERED = 1000  # characters of a text whose order is looked at
SHORTEST_ORDERED = 50  # characters of a text whose order tells something, at least
COINCIDENCES = 4.0  # pairs of equal neighbours that chance must bring about before their number tells something
COMPRESSION_LEVEL = 1

FULL_STOPS = "。！？!?｡．"
ELLIPSES = "…‥"
DOTS = ".・。"  # three of one of them are an ellipsis too
SEPARATORS = "|¦/\\<>«»‹›•·∙●■◦▪→–—-*~+:"  # between the items of a menu, each with a space before and behind
MARKUP = re.compile(r"<[/!]?[a-zA-Z][^<>]{0,1000}>|&(?:[a-zA-Z]{2,8}|#[0-9]{1,7});")


def sentence_length(table: CharacterTable) -> NDArray[np.float64]:
    """Visible characters of each text a full stop; of a text without one, all.

    A period ends a sentence where Japanese stands before it, as in 3.5 it does not. Several stops in a row are one.
    """
    stops = table.where(*FULL_STOPS)
    japanese = (table.kinds[:-1] == HIRAGANA) | (table.kinds[:-1] == KATAKANA) | (table.kinds[:-1] == HAN)
    stops[1:] |= japanese & (table.points[1:] == ord("."))
    stops[:-1] &= ~stops[1:]
    sentences: NDArray[np.float64] = table.visible / np.maximum(table.per_text(stops), 1)
    return sentences


def longest_run(table: CharacterTable) -> NDArray[np.float64]:
    """How many times one visible character stands in a row in each text, at most."""
    texts, lengths = _runs(table, 2)
    longest = np.minimum(table.visible, 1).astype(np.float64)
    np.maximum.at(longest, texts, lengths)
    return longest


def run_share(table: CharacterTable) -> NDArray[np.float64]:
    """Of the visible characters of each text, those in runs of RUN or more of the same."""
    texts, lengths = _runs(table, RUN)
    return _share(np.bincount(texts, lengths, minlength=len(table.visible)), table.visible)


def _runs(table: CharacterTable, least: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The text and the length of each run of `least` or more of the same visible character, `least` being 2 or more."""
    again = np.flatnonzero(table.points[1:] == table.points[:-1])
    first = np.flatnonzero(np.diff(again, prepend=-2) > 1)
    starts, lengths = again[first], np.diff(first, append=len(again)) + 1
    long = (lengths >= least) & (table.kinds[starts] != SPACE)
    return table.owner[starts[long]], lengths[long]


def short_line_share(table: CharacterTable) -> NDArray[np.float64]:
    """Of the visible characters of each text, those in lines of at most SHORT_LINE of them."""
    texts, lengths, _ = _lines(table)
    short = lengths <= SHORT_LINE
    return _share(np.bincount(texts[short], lengths[short], minlength=len(table.visible)), table.visible)


def ellipsis_line_share(table: CharacterTable) -> NDArray[np.float64]:
    """Of the lines of each text that are not blank, those that end in an ellipsis."""
    texts, _, ellipses = _lines(table)
    lines = np.bincount(texts, minlength=len(table.visible))
    return _share(np.bincount(texts[ellipses], minlength=len(table.visible)), lines)


def _lines(table: CharacterTable) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The text of each line that is not blank, its visible characters, and whether it ends in an ellipsis."""
    feeds = table.points == ord("\n")
    kept = feeds | (table.kinds != SPACE)
    points = table.points[kept]
    ends = np.flatnonzero(points == ord("\n"))
    lengths = np.diff(ends, prepend=-1) - 1
    texts = table.owner[feeds]
    filled = np.flatnonzero(lengths)
    texts, lengths, ends = texts[filled], lengths[filled], ends[filled]
    last = points[ends - 1]
    ellipses = np.isin(last, [ord(mark) for mark in ELLIPSES])
    dots = (lengths >= 3) & np.isin(last, [ord(mark) for mark in DOTS])
    ellipses[dots] |= (points[ends[dots] - 2] == last[dots]) & (points[ends[dots] - 3] == last[dots])
    return texts, lengths, ellipses


def separator_share(table: CharacterTable) -> NDArray[np.float64]:
    """Of the words of each text, as white space parts them, those that are one of SEPARATORS inside a line."""
    visible = table.kinds != SPACE
    begins = visible.copy()
    begins[1:] &= ~visible[:-1]
    alone = begins[2:-1] & ~visible[3:] & (table.points[1:-2] == ord(" ")) & visible[:-3]
    places = np.flatnonzero(alone) + 2
    places = places[np.isin(table.points[places], [ord(mark) for mark in SEPARATORS])]
    found = np.bincount(table.owner[places], minlength=len(table.visible))
    return _share(found, table.per_text(begins))


def repetition(texts: Sequence[str], table: CharacterTable, most: float) -> NDArray[np.float64]:
    """Of all sequences of NGRAM characters of each text, the share of the most frequent ones.

    They are as many as the square root of the number of distinct ones, but none that occurs only once. As in HojiChar,
    which has it from BigScience: Laurençon et al. 2022, https://arxiv.org/abs/2303.03915.

    Args:
        table: of `texts`.
        most: texts that have a share of at most this need not be measured, and get nan.
    """
    shares = np.full(len(texts), np.nan)
    left = np.flatnonzero(repetition_bound(table) > most).tolist()
    if left:
        shares[left] = _repetition(CharacterTable.of([texts[number] for number in left]))
    return shares


def repetition_bound(table: CharacterTable) -> NDArray[np.float64]:
    """At least as much as the share that `repetition` finds, by counting without sorting.

    The most frequent sequences, k of them, cover those that occur 3 times or more, and twice k others. Where two
    sequences are counted as one, the bound only rises.
    """
    hashes = table.hashes(NGRAM)
    hashes >>= np.uint64(64 - max(10, len(hashes).bit_length() + 2))
    buckets = hashes.astype(np.int64)
    often = np.zeros(len(table.points), bool)
    often[: len(buckets)] = (np.bincount(buckets) > 2)[buckets]
    total = np.maximum(np.diff(table.borders) - NGRAM, 1)
    bound: NDArray[np.float64] = (table.per_text(often) + 2 * np.sqrt(total)) / total
    return bound


def _repetition(table: CharacterTable) -> NDArray[np.float64]:
    size = len(table.visible)
    texts, counts = table.grams(NGRAM)
    total = np.bincount(texts, counts, minlength=size)
    distinct = np.bincount(texts, minlength=size)
    repeated = counts > 1
    texts, counts = texts[repeated], counts[repeated]
    number = np.bincount(texts, minlength=size)
    ranked = np.sort(texts << np.int64(40) | ((1 << 40) - 1 - counts))  # of each text the most frequent first
    sums = np.concatenate([[0], np.cumsum((1 << 40) - 1 - (ranked & ((1 << 40) - 1)))])
    first = np.cumsum(number) - number
    last = first + np.minimum(np.sqrt(distinct).astype(np.int64), number)
    return _share(sums[last] - sums[first], total)


def order(texts: Sequence[str]) -> NDArray[np.float64]:
    """How many times as often two neighbours in a text equal two others as they would in random order.

    The index of coincidence of pairs of neighbours by the square of that of characters (Friedman 1922): about 1 where
    the order is random, 3 and more in prose. Of ORDERED characters at most, from the beginning; white space is left
    out. Nan where by chance there would be fewer than COINCIDENCES coincidences.
    """
    found = np.full(len(texts), np.nan)
    long = [number for number, text in enumerate(texts) if len(text) >= SHORTEST_ORDERED]
    for start in range(0, len(long), 1024):  # as many as have 10 bits
        some = long[start : start + 1024]
        found[some] = _order(CharacterTable.of([texts[number][:ORDERED] for number in some]).seen)
    return found


def _order(table: CharacterTable) -> NDArray[np.float64]:
    size = len(table.borders) - 1
    owner = table.owner.astype(np.uint32) << np.uint32(21)
    inner = table.points != ord("\n")
    characters = (owner | table.points)[inner]
    # A pair of neighbours has 42 bits; of their hash 21 do: 1,000 pairs have a quarter of a false coincidence.
    neighbours = (table.hashes(2) >> np.uint64(64 - 21)).astype(np.uint32)
    neighbours = (owner[:-1] | neighbours)[inner[:-1] & inner[1:]]
    chances, pairs = [], []
    for keys in (characters, neighbours):
        keys = np.sort(keys)
        first = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
        counts = np.diff(first, append=len(keys))
        texts = (keys[first] >> np.uint32(21)).astype(np.int64)
        number = np.bincount(texts, counts, minlength=size)
        pairs.append(number * (number - 1) / 2)
        equal = np.bincount(texts, counts * (counts - 1) / 2, minlength=size)
        chances.append(equal / np.maximum(pairs[-1], 1))
    random = chances[0] ** 2
    told = random * pairs[1] >= COINCIDENCES
    return np.where(told, chances[1] / np.where(told, random, 1), np.nan)


def markup_share(texts: Sequence[str], markup: re.Pattern[str] = MARKUP) -> NDArray[np.float64]:
    """Of all characters of each text, those in HTML tags and in character references such as &lt;."""
    shares = np.zeros(len(texts))
    for number, text in enumerate(texts):
        if "<" in text or "&" in text:
            shares[number] = sum(map(len, markup.findall(text))) / len(text)
    return shares


def compression(texts: Sequence[str]) -> NDArray[np.float64]:
    """Bytes of each text, compressed, by its bytes in UTF-8; above 1 for the shortest.

    By zstd, which takes a fraction of deflate's time, and whose version is pinned, where Python's deflate is the
    system's.
    """
    compressor = zstd.ZstdCompressor(COMPRESSION_LEVEL)
    ratios = np.zeros(len(texts))
    for number, text in enumerate(texts):
        data = text.encode()
        ratios[number] = len(compressor.compress(data, compressor.FLUSH_FRAME)) / max(1, len(data))
    return ratios


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = part / np.maximum(whole, 1)
    return shares
