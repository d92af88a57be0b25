"""Reference losses: what they are measured on, and how the order of the best is chosen."""

import math

import numpy as np
import pytest

from pretrain.errors import DataError, EvaluationError
from pretrain.evaluation import references
from pretrain.evaluation.references import fit_references
from pretrain.models.ngram import NGram

EOT = 0
VOCAB_SIZE = 8


def text_of(order, documents, seed):
    """Documents in which most tokens are decided by the `order` - 1 before them."""
    generator = np.random.default_rng(seed)
    stream = [EOT]
    for _ in range(documents):
        tokens = [int(token) for token in generator.integers(1, VOCAB_SIZE, order - 1)]
        while len(tokens) < 60:
            rule = (sum(tokens[len(tokens) - order + 1 :]) if order > 1 else 0) % (VOCAB_SIZE - 1) + 1
            tokens.append(rule if generator.random() < 0.8 else int(generator.integers(1, VOCAB_SIZE)))
        stream += [*tokens, EOT]
    return np.array(stream, dtype=np.uint16)


def fit(train, validation):
    return fit_references(train, validation, vocab_size=VOCAB_SIZE, end_of_text=EOT)


def loss_of(order, train, validation):
    model = NGram(VOCAB_SIZE, order=order, smoothing="kneser_ney", k=1.0)
    model.fit(train, EOT)
    return model.stream_losses(validation).mean()


@pytest.mark.parametrize(("order", "documents"), [(2, 40), (3, 200), (4, 400)])
def test_the_order_that_made_the_text_is_found(order, documents):
    assert fit(text_of(order, documents, seed=1), text_of(order, 20, seed=2))["best_ngram_order"] == order


def test_every_reference_is_the_loss_of_its_model_fitted_on_all_training_tokens():
    train, validation = text_of(3, 200, seed=1), text_of(3, 20, seed=2)
    assert fit(train, validation) == {
        "uniform": math.log(VOCAB_SIZE),
        "unigram": pytest.approx(loss_of(1, train, validation)),
        "bigram": pytest.approx(loss_of(2, train, validation)),
        "best_ngram": pytest.approx(loss_of(3, train, validation)),
        "best_ngram_order": 3,
    }


def test_the_order_is_chosen_without_looking_at_the_validation_text():
    train = text_of(3, 200, seed=1)
    misleading = text_of(1, 20, seed=2)
    assert loss_of(2, train, misleading) < loss_of(3, train, misleading)
    assert fit(train, misleading)["best_ngram_order"] == 3


def test_targets_begin_behind_the_first_end_of_text():
    train, validation = text_of(2, 50, seed=1), text_of(2, 5, seed=2)
    assert fit(train, np.append(np.uint16([3, 1, 4]), validation)) == fit(train, validation)


def test_training_text_beyond_the_limit_is_not_used(monkeypatch):
    train, validation = text_of(2, 50, seed=1), text_of(2, 5, seed=2)
    shorter = fit(train[:1000], validation)
    assert shorter != fit(train, validation)
    monkeypatch.setattr(references, "MOST_TRAINING_TOKENS", 1000)
    assert fit(train, validation) == shorter


@pytest.mark.parametrize("size", [2, 3, 5, 12])
def test_a_tiny_training_text_has_references_too(size):
    train = np.array(([EOT, 1, 2, 1, 3, EOT] * 2)[:size])
    assert all(math.isfinite(nats) for nats in fit(train, np.array([EOT, 1, 7, EOT])).values())


def test_a_text_without_targets_is_refused():
    train = text_of(2, 5, seed=1)
    for validation in ([], [EOT], [1, 2, EOT], [1, 2]):
        with pytest.raises(EvaluationError, match="validation tokens"):
            fit(train, np.array(validation, dtype=np.uint16))
    with pytest.raises(DataError, match="nothing to count"):
        fit(train[:1], train)
