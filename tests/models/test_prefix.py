"""Counts of whole prefixes against a dictionary."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.errors import CheckpointError, DataError, TrainingError
from pretrain.models.language_model import IGNORED
from pretrain.models.prefix import Prefix

EOT = 0
documents = st.lists(st.lists(st.integers(1, 3), max_size=5), min_size=1, max_size=8)


def fitted(texts: list[list[int]]) -> Prefix:
    model = Prefix(5)
    model.fit(np.array([EOT, *(token for text in texts for token in [*text, EOT])]), EOT)
    return model


@settings(deadline=None, max_examples=80)
@given(documents, st.lists(st.integers(0, 4), max_size=6))
def test_probabilities_are_those_of_a_dictionary_of_prefixes(texts: list[list[int]], prompt: list[int]) -> None:
    counts = Counter((tuple(text[:i]), [*text, EOT][i]) for text in texts for i in range(len(text) + 1))
    row = [EOT, *prompt]
    prefix = tuple(row[max(i for i, token in enumerate(row) if token == EOT) + 1 :])
    total = sum(count for (before, _), count in counts.items() if before == prefix)
    expected = [counts[prefix, token] / total if total else 0.0 for token in range(5)]
    model = fitted(texts)
    assert model(torch.tensor([row])).exp()[0, -1].tolist() == pytest.approx(expected)
    logits, _ = model.next_logits(torch.tensor([row]), torch.tensor([len(row)]))
    assert logits.exp()[0].tolist() == pytest.approx(expected)


def test_losses_are_those_of_forward_and_infinite_for_what_was_never_seen() -> None:
    model = fitted([[1, 2, 3], [1, 2, 2], [3]])
    tokens = torch.tensor([[EOT, 1, 2, 3], [EOT, 3, EOT, 1], [1, 2, 3, EOT]])
    targets = torch.tensor([[1, 2, 3, EOT], [3, EOT, 1, 4], [2, 3, EOT, 1]])
    nats, _ = model.token_losses(tokens, targets)
    expected = -model(tokens).gather(2, targets[..., None])[..., 0]
    assert torch.equal(nats, expected)
    assert nats[1, 3] == math.inf  # 1 4 was never read
    assert nats[2, :3].isinf().all()  # nobody knows what stands before a row
    assert nats[2, 3].isfinite()


def test_step_by_step_equals_the_whole_row_also_for_rows_of_unlike_lengths() -> None:
    model = fitted([[1, 2, 3], [1, 2, 2], [3]])
    tokens = torch.tensor([[EOT, 1, 2, 3], [1, EOT, 1, 2]])
    whole = model(tokens)
    _, state = model.next_logits(tokens[:, :2], torch.tensor([1, 2]))
    rest = torch.tensor([[1, 2], [1, 0]])
    logits, _ = model.next_logits(rest, torch.tensor([2, 1]), state)
    assert torch.equal(logits[0], whole[0, 2])
    assert torch.equal(logits[1], whole[1, 2])


def test_losses_go_on_from_the_state_of_the_row_before() -> None:
    model = fitted([[1, 2, 3], [1, 2, 2], [3]])
    tokens, targets = torch.tensor([[EOT, 1, 2, 3, EOT, 3]]), torch.tensor([[1, 2, 2, EOT, 3, EOT]])
    whole, _ = model.token_losses(tokens, targets)
    for cut in range(1, 6):
        first, state = model.token_losses(tokens[:, :cut], targets[:, :cut])
        second, _ = model.token_losses(tokens[:, cut:], targets[:, cut:], state)
        assert torch.equal(torch.cat([first, second], dim=1), whole)


def test_tables_survive_saving_and_others_are_refused() -> None:
    model, copy = fitted([[1, 2], [1]]), Prefix(5)
    copy.load_weights(model.state_dict())
    row = torch.tensor([[EOT, 1, 2]])
    assert torch.equal(copy(row), model(row))
    assert copy.parameter_count() == 4  # 1; 1 then 2 or the end; 1 2 then the end
    with pytest.raises(CheckpointError, match="not the tables of a prefix model"):
        copy.load_weights({"counts": torch.zeros(2)})


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to count"):
        Prefix(5).fit(np.array([EOT]), EOT)
    with pytest.raises(DataError, match="token id 7"):
        Prefix(5).fit(np.array([EOT, 7]), EOT)
    with pytest.raises(TrainingError, match="call fit or load_weights"):
        Prefix(5)(torch.tensor([[EOT]]))


def test_ranks_are_those_of_forward_and_go_on_with_the_state() -> None:
    model = fitted([[1, 2, 3], [1, 2, 4], [1, 2, 4], [2]])
    tokens = torch.tensor([[0, 1, 2, 0, 2, 3, 0]])
    targets = torch.tensor([[1, 2, 3, 2, 3, IGNORED, 0]])
    scores = model.token_scores(tokens, targets)
    assert torch.equal(scores.nats, model.token_losses(tokens, targets)[0])
    logits = model(tokens)
    own = logits.gather(2, targets.clamp(min=0)[:, :, None])
    scored = targets != IGNORED
    assert torch.equal(scores.higher[scored], (logits > own).sum(2, dtype=torch.int32)[scored])
    assert torch.equal(scores.equal[scored], (logits == own).sum(2, dtype=torch.int32)[scored])
    assert scores.higher[0, 5] == scores.equal[0, 5] == 0
    first = model.token_scores(tokens[:, :2], targets[:, :2])
    rest = model.token_scores(tokens[:, 2:], targets[:, 2:], first.state)
    assert torch.equal(rest.higher, scores.higher[:, 2:])
    assert torch.equal(rest.equal, scores.equal[:, 2:])
