"""Counts of n-grams in few bytes: what a quantised n-gram model saves.

Tokens take as many bits as the vocabulary needs, the first tokens of an n-gram none: each node tells how many entries
hang under it. Counts up to EXACT are kept, larger ones rounded to a step of the same ratio, so that a count is a byte.

Shapes: V ids of the vocabulary; E_n entries, M_n nodes, L_n leaves of order n: see ngram_counts.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.errors import CheckpointError
from pretrain.models.ngram_counts import OrderCounts
from pretrain.models.ngram_storage import Ints

EXACT = 191  # the largest count that is kept; 64 codes are left for larger ones
AT_ONCE = 2**18  # numbers that are packed at a time, a multiple of 8
MANY = 255  # entries under a node from which on their number stands apart


def packed_names(order: int) -> list[str]:
    """The names of what pack gives."""
    longer = [f"{kind}_{n}" for n in range(2, order + 1) for kind in ("tokens", "is_node", "children", "many", "codes")]
    return ["counts_1", "largest", *longer, *(f"tails_{n}" for n in range(2, order))]


def pack(orders: list[OrderCounts], counts: list[Ints], vocab_size: int, end_of_text: int) -> dict[str, NDArray[Any]]:
    """All of `orders` but their counts, and `counts` (M_n,) in the place of both of theirs."""
    bits = max(1, (vocab_size - 1).bit_length())
    largest = max(int(count.max(initial=0)) for count in counts[1:]) if len(counts) > 1 else 0
    packed: dict[str, NDArray[Any]] = {"counts_1": counts[0].astype(np.int64), "largest": np.array(largest)}
    for n, level in enumerate(orders[1:], start=2):
        children = np.bincount(level.keys // vocab_size, minlength=len(counts[n - 2]))
        packed |= {
            f"tokens_{n}": _bits(level.keys % vocab_size, bits),
            f"is_node_{n}": np.packbits(level.links >= 0),
            f"children_{n}": np.minimum(children, MANY).astype(np.uint8),
            f"many_{n}": children[children >= MANY],
            f"codes_{n}": np.searchsorted(_borders(largest), counts[n - 1], side="right").astype(np.uint8),
        }
        if n < len(orders):  # V only stands behind an end of text, so that it needs no bit of its own
            tails = np.where(level.tails == vocab_size, end_of_text, level.tails)
            packed[f"tails_{n}"] = _bits(tails.ravel(), bits)
    return packed


def unpack(packed: Mapping[str, NDArray[Any]], order: int, vocab_size: int, end_of_text: int) -> list[OrderCounts]:
    """Counts again; what was rounded is the middle of its step.

    Raises:
        CheckpointError: the numbers do not fit each other.
    """
    bits = max(1, (vocab_size - 1).bit_length())
    counts = packed["counts_1"]
    if len(counts) != vocab_size:
        raise CheckpointError(f"counts_1 {counts.shape} is not of a vocabulary of {vocab_size} ids")
    ids, none = np.arange(vocab_size), np.zeros((0, order - 1), np.uint32)
    orders = [OrderCounts(ids, ids, counts, counts, none)]
    values = _values(int(packed["largest"]))
    nodes = vocab_size
    for n in range(2, order + 1):
        children = packed[f"children_{n}"].astype(np.int64)
        if len(children) != nodes or (children == MANY).sum() != len(packed[f"many_{n}"]):
            raise CheckpointError(f"children_{n} {children.shape} are not those of {nodes} nodes")
        children[children == MANY] = packed[f"many_{n}"]
        size = int(children.sum())
        if len(packed[f"is_node_{n}"]) != -(-size // 8) or len(packed[f"tokens_{n}"]) != -(-size * bits // 8):
            raise CheckpointError(f"tokens_{n} and is_node_{n} are not those of {size} n-grams")
        tokens, is_node = _numbers(packed[f"tokens_{n}"], bits, size), np.unpackbits(packed[f"is_node_{n}"], count=size)
        here = is_node.astype(bool)
        links = np.where(here, np.cumsum(here) - 1, -np.cumsum(~here))
        counts = values.take(packed[f"codes_{n}"], mode="clip")
        leaves, width = int((~here).sum()), order - n
        if len(counts) != size - leaves:
            raise CheckpointError(f"codes_{n} {counts.shape} are not those of {size - leaves} nodes")
        tails = np.zeros((leaves, 0), np.int32)
        if width:
            if len(packed[f"tails_{n}"]) != -(-leaves * width * bits // 8):
                raise CheckpointError(f"tails_{n} is not of {leaves} leaves")
            tails = _numbers(packed[f"tails_{n}"], bits, leaves * width).astype(np.int32).reshape(leaves, width)
            ended = tokens[~here] == end_of_text
            for column in tails.T:
                column[ended] = vocab_size
                ended |= column == end_of_text
        keys = np.repeat(np.arange(nodes), children) * vocab_size + tokens
        orders.append(OrderCounts(keys, links.astype(np.int32 if size < 2**31 else np.int64), counts, counts, tails))
        nodes = len(counts)
    return orders


def _borders(largest: int) -> Ints:
    """The smallest count of every code but 0: 1, 2, 3 ... EXACT, then steps of one ratio up to `largest`."""
    exact = np.arange(1, EXACT + 1)
    steps = MANY - EXACT
    above = np.ceil((EXACT + 1) * (max(largest, EXACT + 1) / (EXACT + 1)) ** (np.arange(steps) / steps)).astype(
        np.int64
    )
    return np.concatenate([exact, np.maximum.accumulate(above)])


def _values(largest: int) -> Ints:
    """The count that each code stands for."""
    borders = _borders(largest).astype(np.float64)
    ends = np.append(borders[1:], max(largest, EXACT) + 1)
    middles = np.sqrt(borders * np.maximum(borders, ends - 1))
    values: Ints = np.append(0, np.rint(middles)).astype(np.int64)
    return values


def _bits(numbers: Ints, bits: int) -> NDArray[np.uint8]:
    """The lowest `bits` of each number, one behind the other."""
    pieces = []
    for start in range(0, len(numbers), AT_ONCE):
        some = numbers[start : start + AT_ONCE].astype(np.int64)
        pieces.append(np.packbits((some[:, None] >> np.arange(bits)) & 1))
    return np.concatenate([*pieces, np.zeros(0, np.uint8)])


def _numbers(packed: NDArray[np.uint8], bits: int, count: int) -> Ints:
    numbers = np.empty(count, np.int64)
    for start in range(0, count, AT_ONCE):
        here = min(AT_ONCE, count - start)
        some = np.unpackbits(packed[start * bits // 8 :], count=here * bits).reshape(here, bits)
        numbers[start : start + here] = some.astype(np.float32) @ (2.0 ** np.arange(bits, dtype=np.float32))
    return numbers
