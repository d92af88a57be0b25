"""n-gram models written as ARPA files, which KenLM and others read.

The words are token ids in decimal. The end of text is <s> where it begins a document and </s> where it ends one.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.errors import UsageError
from pretrain.models.ngram import NGram

NEVER = -100.0  # the log10 of what cannot occur: <unk>, for all ids are words
LINES_AT_ONCE = 2**16


@dataclass(frozen=True)
class Grams:
    """All n-grams of one order.

    Attributes:
        tokens: (K, n) ids, sorted.
        log_probs: (K,) log10 of the last token's probability after the others.
        log_weights: (K,) log10 of the back-off weight; 0 where nothing follows.
    """

    tokens: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    log_weights: NDArray[np.float64]


def write_arpa(model: NGram, path: Path) -> list[int]:
    """Write a fitted model whole or not at all, and return how many n-grams of each order it has.

    Raises:
        UsageError: the model's smoothing has no back-off form.
    """
    orders = list(listed(model))
    sizes = [len(grams.tokens) + (2 if n == 1 else 0) for n, grams in enumerate(orders, start=1)]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="ascii") as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, start=1)))
        for n, grams in enumerate(orders, start=1):
            file.write(f"\n\\{n}-grams:\n")
            if n == 1:
                file.write(f"{NEVER}\t<unk>\t0\n0\t<s>\t{_log_rest(model):.9g}\n")
            for lines in _lines(grams, model.tables.end, last=n == len(orders)):
                file.write(lines)
        file.write("\n\\end\\\n")
    temporary.rename(path)
    return sizes


def listed(model: NGram) -> Iterator[Grams]:
    """The n-grams of each order, from 1 on.

    Raises:
        UsageError: the model's smoothing has no back-off form.
    """
    if model.smoothing not in ("kneser_ney", "absolute", "witten_bell", "arpa"):
        raise UsageError(
            f"model.smoothing={model.smoothing} has no back-off weights, which ARPA needs; "
            "kneser_ney, absolute and witten_bell have"
        )
    tokens, states = np.arange(model.vocab_size)[:, None], np.arange(model.vocab_size)
    for n in range(1, model.order + 1):
        if n > 1:
            rows, last, states = model.tables.continuations(n, states)
            tokens = np.concatenate([tokens[rows], last[:, None]], axis=1)
            order = np.lexsort(tokens.T[::-1])
            tokens, states = tokens[order], states[order]
        log_probs = np.log10(model.tables.probabilities_of(tokens))
        log_weights = np.zeros(len(tokens))
        if n < model.order:
            goes_on = tokens[:, -1] != model.tables.end
            log_weights[goes_on] = np.log10(model.tables.rests(n, states[goes_on]))
        yield Grams(tokens, log_probs, log_weights)


def _log_rest(model: NGram) -> float:
    """That of <s>."""
    return float(np.log10(model.tables.rests(1, np.array([model.tables.end])))[0]) if model.order > 1 else 0.0


def _lines(grams: Grams, end: int, *, last: bool) -> Iterator[str]:
    names: Any = np.array([str(token) for token in range(int(grams.tokens.max(initial=0)) + 1)], dtype=object)
    if end < len(names):
        names[end] = "</s>"
    for start in range(0, len(grams.tokens), LINES_AT_ONCE):
        here = slice(start, start + LINES_AT_ONCE)
        words = names[grams.tokens[here]]
        if words.shape[1] > 1:
            words[words[:, 0] == "</s>", 0] = "<s>"
        texts = map(" ".join, words.tolist())
        probs, weights = grams.log_probs[here].tolist(), grams.log_weights[here].tolist()
        if last:
            yield "".join([f"{p:.9g}\t{text}\n" for p, text in zip(probs, texts, strict=True)])
        else:
            yield "".join([f"{p:.9g}\t{text}\t{w:.9g}\n" for p, text, w in zip(probs, texts, weights, strict=True)])
