"""ARPA files read into the tables of an n-gram model.

An ARPA file lists n-grams with the log10 of their probability and of their back-off weight: the probability of an
n-gram that it does not list is that of its last n-1 tokens, times the weight of its first n-1 tokens.
"""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import numpy as np

from pretrain.errors import DataError, UsageError
from pretrain.models.ngram_counts import LARGEST_KEY
from pretrain.models.ngram_storage import Ints
from pretrain.models.smoothing import NODES

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
SHORTEST_LINE = 4  # bytes of an n-gram: a digit, a tab, a word, a newline
DEFLATED = 1032  # bytes that gzip can make of one


def arpa_tables(path: Path, ids: Mapping[str, int], order: int, vocab_size: int, end_of_text: int) -> dict[str, Ints]:
    """The tables of an NGram with smoothing=arpa.

    Args:
        ids: of each word but <s>, </s> and <unk>; the first two are the end of text, the third all ids that the file
            lacks.
    Raises:
        UsageError: there is no such file.
        DataError: the file cannot be read, is cut, lies about its counts, has other orders, or names unknown words.
    """
    if not path.is_file():
        raise UsageError(
            f"model.path={path} is not a file; it names an ARPA file, such as `pretrain export to=arpa` writes"
        )
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            return _read(_Lines(path, file), ids, order, vocab_size, end_of_text)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as an ARPA file: {error}") from error


class _Lines:
    """The lines of a file that are not empty, and how many there were."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file, self.number = path, file, 0

    def next(self) -> str:
        for line in self.file:
            self.number += 1
            if line.strip():
                return line.rstrip("\n")
        raise DataError(f"{self.path} is cut: it ends behind line {self.number}, without \\end\\")

    def refused(self, why: str) -> DataError:
        return DataError(f"{self.path}, line {self.number}: {why}")


def _read(lines: _Lines, ids: Mapping[str, int], order: int, vocab_size: int, end_of_text: int) -> dict[str, Ints]:
    sizes = _header(lines)
    if len(sizes) != order:
        raise DataError(f"{lines.path} is of order {len(sizes)}; set model.order={len(sizes)}")
    most = lines.path.stat().st_size * (DEFLATED if lines.path.suffix == ".gz" else 1) // SHORTEST_LINE
    if sum(sizes) > most:
        raise DataError(
            f"{lines.path} is cut, or its counts are wrong: it says {sum(sizes)} n-grams, {most} is the most"
        )
    if max(sizes) * vocab_size > LARGEST_KEY:
        raise DataError(f"{lines.path} says {max(sizes)} n-grams of {vocab_size} ids, which overflow 64-bit keys")
    words = {**ids, BEGIN: end_of_text, END: end_of_text}
    tables: dict[str, Ints] = {"tails": np.zeros(0, np.int16 if vocab_size < 2**15 else np.int32)}
    keys: list[Ints] = []
    for n, size in enumerate(sizes, start=1):
        if n > 1:
            _expect(lines, n)
        grams, probs, weights = _section(lines, n, size, words)
        if n == 1:
            tables["unigrams"], rest = _unigrams(lines, grams[:, 0], probs, weights, vocab_size, end_of_text)
            nodes = np.stack([tables["unigrams"], np.ones(vocab_size), rest], axis=1)
        else:
            found = _keyed(lines, grams, keys, vocab_size)
            places = np.argsort(found)
            keys.append(found[places])
            if (keys[-1][1:] == keys[-1][:-1]).any():
                raise lines.refused(f"the {n}-grams above name one of them twice")
            nodes = np.stack([probs[places], np.ones(size), weights[places]], axis=1)
            tables |= {f"keys_{n}": keys[-1], f"links_{n}": np.arange(size, dtype=np.int32)}
        table = np.concatenate([[(0.0, 0.0, 1.0)] * NODES, nodes])
        tables[f"nodes_{n}"] = np.ascontiguousarray(table if n < order else table[:, :1])
    if lines.next().strip() != "\\end\\":
        raise lines.refused(f"\\end\\ is wanted behind {sizes[-1]} {order}-grams; the counts at the top are wrong")
    return tables


def _header(lines: _Lines) -> list[int]:
    """How many n-grams of each order the file says it has; the first section's heading is read too."""
    while lines.next().strip() != "\\data\\":
        pass
    sizes: list[int] = []
    while (line := lines.next()).startswith("ngram "):
        n, _, size = line.removeprefix("ngram ").partition("=")
        if n.strip() != str(len(sizes) + 1) or not size.strip().isdecimal():
            raise lines.refused(f"{line!r} is not of the form ngram {len(sizes) + 1}=COUNT")
        sizes.append(int(size))
    if not sizes or line.strip() != "\\1-grams:":
        raise lines.refused(f"{line!r} stands where \\1-grams: is wanted")
    return sizes


def _expect(lines: _Lines, n: int) -> None:
    line = lines.next().strip()
    if line != f"\\{n}-grams:":
        raise lines.refused(f"{line!r} stands where \\{n}-grams: is wanted; the counts at the top are wrong")


def _section(lines: _Lines, n: int, size: int, words: Mapping[str, int]) -> tuple[Ints, Ints, Ints]:
    """Tokens (size, n), -1 for <unk> and -2 for <s> among the unigrams; probabilities and back-off weights (size,)."""
    grams, logs = np.empty((size, n), np.int64), np.zeros((size, 2))
    for row in range(size):
        line = lines.next()
        fields = line.split("\t") if "\t" in line else line.split(" ")
        tokens = fields[1].split(" ") if "\t" in line and len(fields) > 1 else fields[1 : 1 + n]
        behind = fields[2:] if "\t" in line else fields[1 + n :]
        try:
            if len(tokens) != n or len(behind) > 1:
                raise ValueError
            logs[row] = float(fields[0]), float(behind[0]) if behind else 0.0
        except ValueError:
            raise lines.refused(f"{line!r} is not a {n}-gram; the file is damaged or its counts are wrong") from None
        for place, word in enumerate(tokens):
            if n == 1 and word in (UNKNOWN, BEGIN):
                grams[row, 0] = -1 if word == UNKNOWN else -2
            elif (token := words.get(word)) is None:
                raise lines.refused(f"the word {word!r} is not a token of this vocabulary")
            else:
                grams[row, place] = token
    if (n > 1 and size and not np.isfinite(logs).all()) or (logs[:, 0] > 1e-6).any():
        raise lines.refused(f"a {n}-gram above has a log-probability that is not finite or above 0")
    probs, weights = np.power(10.0, logs).T
    return grams, probs, weights


def _unigrams(
    lines: _Lines, ids: Ints, probs: Ints, weights: Ints, vocab_size: int, end_of_text: int
) -> tuple[Ints, Ints]:
    """Probabilities and back-off weights (V,); the ids that the file lacks share the part of <unk> equally."""
    unigrams, rest, there = np.zeros(vocab_size), np.ones(vocab_size), np.zeros(vocab_size, bool)
    known = ids >= 0
    unigrams[ids[known]], rest[ids[known]], there[ids[known]] = probs[known], weights[known], True
    if known.sum() != there.sum():
        raise lines.refused("the 1-grams above name one of them twice")
    if (ids == -2).any():
        rest[end_of_text] = weights[ids == -2][0]
    if not there.all():
        unigrams[~there] = probs[ids == -1].sum() / (~there).sum()
    return unigrams, rest


def _keyed(lines: _Lines, grams: Ints, keys: list[Ints], vocab_size: int) -> Ints:
    """The trie's keys (K,) of n-grams (K, n), of which the first n-1 tokens must stand in the order before."""
    nodes = grams[:, 0]
    for table, column in zip(keys, grams.T[1:-1], strict=True):
        wanted = nodes * vocab_size + column
        nodes = np.searchsorted(table, wanted)
        missing = np.flatnonzero(table.take(nodes, mode="clip") != wanted) if len(table) else np.arange(len(nodes))
        if len(missing):
            raise lines.refused(
                f"the first words of the {grams.shape[1]}-gram number {missing[0] + 1} above are not listed"
            )
    keyed: Ints = nodes * vocab_size + grams[:, -1]
    return keyed
