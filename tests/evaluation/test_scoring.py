"""Scores of a stream: every target once, with its rank and what the model was shown."""

import math
import signal

import numpy as np
import pytest
import torch

from pretrain.data.objectives import Reversal
from pretrain.errors import EvaluationError, Interrupted
from pretrain.evaluation import scoring
from pretrain.evaluation.loss import objective_loss, stream_loss
from pretrain.evaluation.scoring import Text, scored, scored_objective
from pretrain.models.encoder_decoder import EncoderDecoder
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel
from pretrain.models.ngram import NGram
from pretrain.models.prefix import Prefix
from pretrain.stopping import Stop

V = 7


def gpt(context=16):
    torch.manual_seed(0)
    return GPT(V, context_length=context, n_layer=1, n_head=2, n_embd=8, dropout=0.5)


def tokens_of(length):
    return [(place * place + place // 3) % V for place in range(length)]


def scores(model, tokens, row, stride, **more):
    parts = list(scored(model, Text(np.array(tokens)), row=row, stride=stride, stop=Stop(), **more))
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}


@pytest.mark.parametrize(("length", "row", "stride"), [(2, 16, 8), (17, 16, 8), (40, 16, 8), (41, 16, 5), (60, 7, 7)])
def test_every_target_is_scored_once_with_the_loss_of_a_training_run(make_stream, length, row, stride):
    model, tokens = gpt(), tokens_of(length)
    found = scores(model, tokens, row, stride)
    assert found["places"].tolist() == list(range(1, length))
    expected = stream_loss(model, make_stream(tokens), row=row, stride=stride, stop=Stop())
    assert found["nats"].sum() == pytest.approx(expected.nats, rel=1e-5)
    assert found["seen"].min() == 1
    assert (found["seen"][row:] > row - stride).all()


@pytest.mark.parametrize("at_once", [1, 32, 10**6])
def test_rows_scored_at_every_place_add_what_is_marked_as_scored_again(monkeypatch, at_once):
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", {"cpu": at_once})
    model, tokens = gpt(), tokens_of(90)
    once, more = scores(model, tokens, 16, 8), scores(model, tokens, 16, 8, positioned=10**6)
    kept = ~more["again"]
    for name in ("places", "seen", "higher"):
        assert (more[name][kept] == once[name]).all()
    assert not once["again"].any()
    rows = math.ceil((89 - 16) / 8) + 1
    assert [int((more["seen"] == seen).sum()) for seen in (1, 8, 16)] == [rows] * 3
    assert (more["places"][more["again"]] > 0).all()


def test_documents_apart_are_seen_from_their_beginning():
    tokens = [0, 1, 2, 3, 0, 4, 5, 0]
    found = scores(gpt(), tokens, 16, 8, end_of_text=0)
    assert found["seen"].tolist() == [1, 2, 3, 4, 1, 2, 3]
    alone = scores(gpt(), tokens[4:], 16, 8)
    assert found["nats"][4:] == pytest.approx(alone["nats"], abs=1e-5)


def test_ids_that_are_as_probable_as_the_target_share_their_places():
    class Uniform(LanguageModel):
        vocab_size, context_length = V, None

        def forward(self, tokens):
            return torch.zeros(*tokens.shape, V)

    found = scores(Uniform(), tokens_of(20), 8, 4)
    assert set(found["higher"]) == {0}
    assert set(found["equal"]) == {V}


def test_a_model_with_costly_ranks_has_them_for_some_targets_and_every_loss(monkeypatch):
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", {"cpu": 16})
    model = NGram(V, order=2, smoothing="kneser_ney", k=1.0)
    tokens = tokens_of(400)
    model.fit(np.array(tokens), 0)
    every = scores(model, tokens, 16, 8)
    assert (every["equal"] > 0).all()
    monkeypatch.setattr(scoring, "RANKED", 49 * 16 * V // 4)
    some = scores(model, tokens, 16, 8)
    assert (some["nats"] == every["nats"]).all()
    ranked = some["equal"] > 0
    assert 90 < ranked.sum() < 130
    assert np.flatnonzero(ranked).max() > 350
    assert (some["higher"][ranked] == every["higher"][ranked]).all()
    assert (scores(gpt(), tokens, 16, 8)["equal"] > 0).all()  # whose logits tell both


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_a_model_of_whole_documents_is_shown_all_of_its_own(monkeypatch, at_once):
    monkeypatch.setattr(scoring, "FAR_AT_ONCE", at_once)
    model = Prefix(V)
    tokens = np.array([0, 1, 2, 3, 0, 1, 2, 4, 0])
    model.fit(tokens, 0)
    found = scores(model, tokens, 2, 1)
    assert found["nats"].sum() == pytest.approx(2 * math.log(2))
    assert (found["higher"] == 0).all()
    assert found["equal"].tolist() == [1, 1, 2, 1, 1, 1, 2, 1]
    assert found["seen"].tolist() == [1, 2, 3, 4, 1, 2, 3, 4]


def test_an_objective_is_scored_on_its_own_targets(make_stream):
    torch.manual_seed(0)
    objective = Reversal(0, V, 8)
    model = EncoderDecoder(V, special_ids=1, context_length=16, n_layer=1, n_head=2, n_embd=8, dropout=0.0, norm="pre")
    stream = make_stream(tokens_of(65))
    parts = list(scored_objective(model, stream, objective, row=8, stop=Stop()))
    expected = objective_loss(model, stream, objective, row=8, stop=Stop())
    assert sum(len(part.nats) for part in parts) == expected.tokens
    assert sum(part.nats.sum() for part in parts) == pytest.approx(expected.nats, rel=1e-5)
    assert {int(place) for part in parts for place in part.places} == set(range(1, 65, 8))


def test_a_text_without_a_target_is_refused_and_a_signal_stops_the_rest(make_stream):
    with pytest.raises(EvaluationError, match="train split holds no target token"):
        next(iter(scored(gpt(), make_stream([0]), row=8, stride=4, stop=Stop())))
    stop = Stop()
    stop._receive(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="SIGTERM"):
        list(scored(gpt(), Text(np.zeros(9, np.int64)), row=8, stride=4, stop=stop))
