"""The loss of a model on a stream: every target once, whatever the rows."""

import math
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pretrain.errors import EvaluationError, Interrupted
from pretrain.evaluation import loss as loss_module
from pretrain.evaluation.loss import Loss, Validation, stream_loss
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel
from pretrain.models.mlp import MLP
from pretrain.models.prefix import Prefix
from pretrain.stopping import Stop

V = 5


class Unigram(LanguageModel):
    """The same distribution everywhere, so that a target's loss depends on the target alone."""

    context_length = None
    vocab_size = V

    def __init__(self, weights=(1.0, 2.0, 4.0, 8.0, 16.0)):
        super().__init__()
        self.probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)

    def forward(self, tokens):
        return self.probabilities.log().expand(*tokens.shape, V)

    def nats(self, targets):
        return sum(-math.log(self.probabilities[target]) for target in targets)


class Listener(Unigram):
    """Also notes for each scored target, by the one before it, how many tokens its row shows of the past."""

    def token_losses(self, tokens, targets, state=None):
        self.seen = getattr(self, "seen", {})
        for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
            for place, target in enumerate(wanted):
                if target >= 0:
                    self.seen.setdefault(row[place], []).append(place + 1)
        return torch.zeros(targets.shape), None


def loss_of(model, stream, row, stride, **more):
    return stream_loss(model, stream, row=row, stride=stride, stop=Stop(), **more)


def tokens_of(length):
    return [(place * place + place // 3) % V for place in range(length)]


@given(length=st.integers(2, 60), row=st.integers(1, 70), stride=st.integers(1, 70))
@settings(deadline=None, max_examples=200)
@example(length=2, row=1, stride=1)
@example(length=11, row=10, stride=5)
@example(length=12, row=10, stride=9)
@example(length=21, row=10, stride=10)
@example(length=22, row=10, stride=10)
def test_every_target_counts_once(make_stream, length, row, stride):
    tokens = tokens_of(length)
    result = loss_of(Unigram(), make_stream(tokens), row, stride)
    assert result.tokens == length - 1
    assert result.nats == pytest.approx(Unigram().nats(tokens[1:]))
    assert result.unseen == 0


@given(length=st.integers(2, 60), row=st.integers(2, 30), stride=st.integers(1, 30))
@settings(deadline=None, max_examples=100)
@example(length=60, row=8, stride=4)
def test_a_target_sees_at_least_what_the_stride_leaves(make_stream, length, row, stride):
    model = Listener()
    loss_of(model, make_stream(range(length)), row, stride)
    assert sorted(model.seen) == list(range(length - 1))
    for token, seen in model.seen.items():
        assert len(seen) == 1
        assert seen[0] == token + 1 if token < row else seen[0] > row - min(stride, row)
        assert seen[0] <= row


@pytest.mark.parametrize("at_once", [1, 7, 30, 10**6])
def test_the_rows_read_at_once_change_nothing(make_stream, monkeypatch, at_once):
    monkeypatch.setattr(loss_module, "TOKENS_AT_ONCE", at_once)
    tokens = tokens_of(60)
    assert loss_of(Unigram(), make_stream(tokens, cuts=[7, 31]), 7, 3).nats == pytest.approx(Unigram().nats(tokens[1:]))


@pytest.mark.parametrize(
    "model",
    [
        GPT(V, context_length=30, n_layer=1, n_head=2, n_embd=8, dropout=0.5),
        MLP(V, context_length=2, n_embd=4, n_hidden=8),
    ],
    ids=["gpt", "mlp"],
)
def test_a_short_stream_is_one_forward(make_stream, model):
    tokens = torch.tensor([tokens_of(31)])
    result = loss_of(model.train(), make_stream(tokens[0].tolist()), 30, 15)
    with torch.inference_mode():
        logits = model.eval()(tokens[:, :-1])
    assert result.nats == pytest.approx(float(F.cross_entropy(logits[0], tokens[0, 1:], reduction="sum")), rel=1e-5)
    assert result.tokens == 30


def test_a_model_that_sees_one_token_loses_the_same_in_rows_of_any_size(make_stream):
    model = MLP(V, context_length=1, n_embd=4, n_hidden=8)
    stream = make_stream(tokens_of(101))
    whole = loss_of(model, stream, 100, 100).nats
    for row, stride in ((1, 1), (7, 7), (8, 4), (99, 1)):
        assert loss_of(model, stream, row, stride).nats == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("most", [1, 100, 250, 500, 10_000])
def test_a_part_is_about_as_large_as_asked_for_and_spread_over_the_stream(make_stream, most):
    tokens = [1] * 400 + [2] * 600
    result = loss_of(Unigram(), make_stream(tokens), 8, 4, most=most)
    assert result.tokens <= min(2 * most + 8, 999)
    assert result.tokens >= min(most, 999)
    if most >= 100:
        assert result.mean == pytest.approx(Unigram().nats(tokens[1:]) / 999, rel=0.05)


@pytest.mark.parametrize(("row", "stride"), [(60, 60), (8, 8), (8, 3), (1, 1)])
def test_targets_without_probability_are_counted_and_make_the_mean_infinite(make_stream, row, stride):
    tokens = tokens_of(60)
    result = loss_of(Unigram((1.0, 0.0, 1.0, 1.0, 0.0)), make_stream(tokens), row, stride)
    assert result.unseen == sum(token in (1, 4) for token in tokens[1:]) > 0
    assert (result.nats, result.mean, result.perplexity) == (math.inf, math.inf, math.inf)
    assert result.bits_per(7) == math.inf
    assert result.tokens == 59


@pytest.mark.parametrize("at_once", [1, 3, 16])
@pytest.mark.parametrize(("row", "stride"), [(60, 60), (8, 4), (3, 1)])
def test_a_model_of_whole_documents_reads_each_from_its_beginning(make_stream, monkeypatch, row, stride, at_once):
    """Rows that began inside a document would leave all that follows in it unseen."""
    monkeypatch.setattr(loss_module, "TOKENS_AT_ONCE", at_once)
    model = Prefix(V)
    model.fit(np.array([0, 1, 2, 3, 0, 1, 2, 4, 0]), 0)
    known = loss_of(model, make_stream([0, 1, 2, 4, 0, 1, 2, 3, 0], cuts=[4]), row, stride)
    assert (known.tokens, known.unseen) == (8, 0)
    assert known.nats == pytest.approx(2 * math.log(2))  # 3 or 4, in both documents
    strange = loss_of(model, make_stream([0, 1, 1, 1, 0, 1, 2, 3, 0]), row, stride)
    assert (strange.tokens, strange.unseen, strange.nats) == (8, 3, math.inf)
    assert loss_of(model, make_stream([0, 1, 2, 4, 0, 1, 1, 1, 0]), row, stride, most=4).unseen == 0


@pytest.mark.parametrize("length", [0, 1])
def test_a_stream_without_a_target_is_refused(make_stream, length):
    with pytest.raises(EvaluationError, match="train split holds no target token"):
        loss_of(Unigram(), make_stream([0] * length), 8, 4)


def test_a_signal_stops_it(make_stream):
    stop = Stop()
    stop._receive(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="SIGTERM"):
        stream_loss(Unigram(), make_stream([0] * 9), row=8, stride=4, stop=stop)


def test_mean_perplexity_and_bits_follow_from_the_nats():
    loss = Loss(nats=8 * math.log(2), tokens=4)
    assert loss.mean == pytest.approx(2 * math.log(2))
    assert loss.perplexity == pytest.approx(4)
    assert loss.bits_per(8) == pytest.approx(1)
    assert loss.bits_per(2) == pytest.approx(4)
    assert Loss(nats=1e6, tokens=1).perplexity == math.inf
    assert math.isnan(Loss(nats=math.nan, tokens=1).perplexity)  # of scores that are no probabilities
    with pytest.raises(EvaluationError, match="validation text is empty"):
        loss.bits_per(0)


def test_a_run_measures_a_part_or_the_whole(make_stream):
    tokens = [1] * 30 + [2] * 31
    stream = make_stream(tokens)
    stream.bytes = 120
    validation = Validation(stream, row=8, stride=4, some=20, stop=Stop())
    part, whole = (validation.loss(Unigram(), whole=which) for which in (False, True))
    assert (part.tokens, whole.tokens) == (24, 60)  # a row of 8 and every third row's new end
    assert part.nats == pytest.approx(Unigram().nats([1] * 13 + [2] * 11))
    assert validation.bits_per_byte(whole) == pytest.approx(Unigram().nats(tokens[1:]) / math.log(2) / 120)
    # A part is taken to have as many tokens a byte as the whole.
    assert validation.bits_per_byte(part) == pytest.approx(part.mean / math.log(2) * 60 / 120)
