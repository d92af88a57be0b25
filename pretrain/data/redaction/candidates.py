"""Where private data may be: a few passes over the bytes of a whole batch, so that all else looks at these places only.

Most text holds neither at signs nor long numbers. The passes cost a few nanoseconds a character, and what they leave is
judged by patterns of bounded length. That keeps the time linear in the text, whatever it holds.
"""

import numpy as np
from numpy.typing import NDArray

_GAP = 4  # characters between two groups of digits of one number, at most
_LONGEST_RUN = 19  # digits without a separator of a number of interest, at most: those of a card
_FEWEST_DIGITS = 7  # of a number of interest
_FEW_DIGITS = 15  # numbers with no more than these may have no group of three digits
_SHORTEST_TOKEN = 16  # characters of a key or token, at least
_LONG_TOKEN = 32  # characters from which on a token needs no digit
_GROUPS_V6 = 8  # of an IP address of version 6

Spans = NDArray[np.int64]  # (N, 2) where each begins and ends


def _class(characters: bytes) -> NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)
    table[list(characters)] = True
    return table


_ALPHANUMERIC = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BETWEEN_DIGITS = _class(b" -./()+")
_TOKEN = _class(_ALPHANUMERIC + b"_-+/").tobytes()
_HEXADECIMAL = _class(b"0123456789abcdefABCDEF")
_BEGINS_KEY = _class(b"Agrsw")  # those of which one in 30 has no digit: AKIA, glpat-, rk_live_, sk_live_, whsec_
_BEFORE_AT = _class(_ALPHANUMERIC + b"_-+.%!$&'*^~#])}>\xfe ")
_BEHIND_AT = _class(_ALPHANUMERIC + b"[\xfe ")


class Digits:
    """The runs of digits of a batch.

    Attributes:
        starts, ends: (R,) int64, where each run begins and ends.
    """

    def __init__(self, codes: NDArray[np.uint8]) -> None:
        self.codes = codes
        self.starts, self.ends = _runs(codes - np.uint8(ord("0")) < 10)

    def numbers(self) -> Spans:
        """Where groups of digits stand that are enough for a number of interest, with separators between them."""
        lengths = self.ends - self.starts
        if not len(lengths):
            return np.empty((0, 2), np.int64)
        short = lengths <= _LONGEST_RUN
        gaps = self.starts[1:] - self.ends[:-1]
        linked = (gaps <= _GAP) & short[1:] & short[:-1]
        near = np.flatnonzero(linked)
        ends, gaps = self.ends[near], gaps[near]
        good = np.ones(len(near), np.bool_)
        for place in range(_GAP):
            good &= (gaps <= place) | _BETWEEN_DIGITS[self.codes[np.minimum(ends + place, len(self.codes) - 1)]]
        linked[near] = good
        first = np.flatnonzero(np.concatenate([[True], ~linked]))
        last = np.append(first[1:], len(lengths)) - 1
        digits = np.add.reduceat(lengths, first)
        longest = np.maximum.reduceat(lengths, first)
        kept = (digits >= _FEWEST_DIGITS) & (longest <= _LONGEST_RUN) & ((longest >= 3) | (digits <= _FEW_DIGITS))
        return np.stack([self.starts[first[kept]], self.ends[last[kept]]], axis=1)

    def quads(self) -> Spans:
        """Where exactly four numbers of three digits or fewer stand with dots between them."""
        lengths = self.ends - self.starts
        if len(lengths) < 4:
            return np.empty((0, 2), np.int64)
        dotted = (self.starts[1:] - self.ends[:-1] == 1) & (self.codes[self.ends[:-1]] == ord("."))
        small = lengths <= 3
        free = np.concatenate([[True], ~dotted, [True]])  # whether nothing is linked before run i
        four = dotted[:-2] & dotted[1:-1] & dotted[2:] & small[:-3] & small[1:-2] & small[2:-1] & small[3:]
        four &= free[: len(four)] & free[4 : 4 + len(four)]
        found = np.flatnonzero(four)
        return np.stack([self.starts[found], self.ends[found + 3]], axis=1)

    def within(self, spans: Spans) -> NDArray[np.bool_]:
        """Which spans hold a digit."""
        index = np.searchsorted(self.ends, spans[:, 0], side="right")
        following = np.append(self.starts, len(self.codes))[index]
        inside: NDArray[np.bool_] = following < spans[:, 1]
        return inside


def at_signs(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where at signs stand between characters that an e-mail address may have there."""
    places = np.flatnonzero(codes == ord("@"))
    return places[_BEFORE_AT[codes[places - 1]] & _BEHIND_AT[codes[places + 1]]]


def spelled_at_signs(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where an at sign is written as a word in brackets."""
    lower = codes | 0x20  # of a letter, the small one; of "[" and "]", "{" and "}"
    word = (lower[:-2] == ord("a")) & (lower[1:-1] == ord("t"))
    word &= (lower[2:] == ord("}")) | (codes[2:] == ord(")"))
    return np.flatnonzero(word)


def tokens(text: bytes, digits: Digits) -> Spans:
    """Where keys and tokens may be: long runs of letters and digits, not of letters alone unless very long."""
    long = np.frombuffer(text.translate(_TOKEN), np.bool_)
    step = 1
    while step < _SHORTEST_TOKEN:  # whether a token goes on for 2, 4, 8, 16 characters from here
        long = long[:-step] & long[step:]
        step *= 2
    starts, ends = _runs(long)
    spans = np.stack([starts, ends + _SHORTEST_TOKEN - 1], axis=1)
    maybe = _BEGINS_KEY[np.frombuffer(text, np.uint8)[starts]]
    kept: Spans = spans[digits.within(spans) | maybe | (spans[:, 1] - spans[:, 0] >= _LONG_TOKEN)]
    return kept


def groups_of_colons(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The first colon of what may be an IP address of version 6: two in a row, or seven with little between them."""
    colons = np.flatnonzero(codes == ord(":"))
    if len(colons) < 2:
        return colons[:0]
    steps = np.diff(colons)
    double = (steps == 1) & _HEXADECIMAL[codes[colons[:-1] - 1]]
    near = np.concatenate([[0], np.cumsum(steps <= 5)])
    whole = np.zeros(len(steps), np.bool_)
    if len(colons) >= _GROUPS_V6 - 1:
        whole[: len(near) - 6] = near[6:] - near[:-6] == 6
    found: NDArray[np.int64] = colons[:-1][double | whole]
    return found


def _runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the runs of True begin and end; the first and the last value are False."""
    change = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    return change[::2], change[1::2]
