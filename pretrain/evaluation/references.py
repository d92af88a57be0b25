"""What simple models lose on the same validation tokens: the losses that a trained model has to beat."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.errors import EvaluationError
from pretrain.models.ngram import NGram
from pretrain.models.ngram_counts import count_ngrams

Stream = NDArray[np.integer]  # (N,) token ids: EOT document EOT ... EOT

ORDERS = range(2, 7)  # of which the order of best_ngram is chosen
MOST_TRAINING_TOKENS = 50_000_000


def fit_references(train: Stream, validation: Stream, *, vocab_size: int, end_of_text: int) -> dict[str, float]:
    """Nats per token of simple models over every token of `validation` after its first EOT, EOTs included.

    unigram, bigram and best_ngram are interpolated modified Kneser-Ney. The order of best_ngram is the best on the
    last tenth of the training text after a fit on the rest; it is then fitted on all of the training text, like the
    others. Training text beyond 50 M tokens is not used.

    Returns:
        uniform, unigram, bigram and best_ngram in nats per token, and best_ngram_order.
    Raises:
        EvaluationError: `validation` has no token after an EOT.
        DataError: `train` has no token after its first, or an id is outside the vocabulary.
    """
    train = train[:MOST_TRAINING_TOKENS]
    ends = np.flatnonzero(validation == end_of_text)
    if not len(ends) or ends[0] == len(validation) - 1:
        raise EvaluationError(f"none of the {len(validation)} validation tokens comes after an end-of-text token")

    cut = max(2, len(train) * 9 // 10)
    held_out = train[cut - 1 :]  # its first token is a context only
    by_order = _losses(train[:cut], held_out, ORDERS, vocab_size, end_of_text) if len(held_out) > 1 else {}
    best = min(by_order, key=by_order.__getitem__, default=ORDERS[0])
    nats = _losses(train, validation[ends[0] :], {1, 2, best}, vocab_size, end_of_text)
    return {
        "uniform": math.log(vocab_size),
        "unigram": nats[1],
        "bigram": nats[2],
        "best_ngram": nats[best],
        "best_ngram_order": best,
    }


def named_references(references: Mapping[str, Any]) -> dict[str, float]:
    """The references as people read them: uniform, unigram, bigram, best n-gram with its order."""
    names = {"best_ngram": f"best n-gram, order {references.get('best_ngram_order')}"}
    return {names.get(name, name): loss for name, loss in references.items() if name != "best_ngram_order"}


def _losses(
    train: Stream, held_out: Stream, orders: Iterable[int], vocab_size: int, end_of_text: int
) -> dict[int, float]:
    """Nats per token of `held_out` after its first, by order; the training text is counted once for all orders."""
    counts = count_ngrams(train, max(orders), vocab_size=vocab_size, end_of_text=end_of_text)
    nats = {}
    for order in orders:
        model = NGram(vocab_size, order=order, smoothing="kneser_ney", k=1.0)  # k is not used
        model.fit_counts(counts, end_of_text)
        nats[order] = float(model.stream_losses(held_out).mean())
    return nats
