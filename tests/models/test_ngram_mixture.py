"""The mixture of n-grams and a cache: a distribution, causal, and better than what it mixes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.errors import CheckpointError, ConfigError
from pretrain.models.language_model import IGNORED
from pretrain.models.ngram import NGram
from pretrain.models.ngram_cache import cache_distributions, cache_probabilities
from pretrain.models.ngram_mixture import NGramMixture

EOT, V = 0, 12


@pytest.fixture(scope="module")
def stream() -> np.ndarray:
    """Documents that each like some tokens more than others, so that a cache helps."""
    generator = np.random.default_rng(0)
    texts = []
    for _ in range(60):
        liked = generator.dirichlet(np.full(V - 1, 0.2))
        texts += [EOT, *(generator.choice(V - 1, 80, p=liked) + 1)]
    return np.array([*texts, EOT])


def unfitted(**changes: int) -> NGramMixture:
    sizes = {"order": 3, "cache_order": 2, "context_length": 64} | changes
    return NGramMixture(V, held_out=0.2, memory_bytes=2**30, **sizes)


@pytest.fixture(scope="module")
def model(stream: np.ndarray) -> NGramMixture:
    model = unfitted()
    model.fit(stream, EOT)
    return model


def rows(*shape: int) -> torch.Tensor:
    return torch.randint(1, V, shape, generator=torch.Generator().manual_seed(1))


def test_probabilities_sum_to_one_and_losses_are_those_of_forward(model: NGramMixture) -> None:
    tokens = rows(3, 40)
    logits = model(tokens)
    assert (logits.exp().sum(-1) - 1).abs().max() < 1e-9
    for targets in (tokens.roll(-1, 1), rows(4, 40)[1:], tokens.roll(-1, 1).masked_fill(tokens < 4, IGNORED)):
        nats, _ = model.token_losses(tokens, targets)
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
        assert torch.allclose(nats.flatten(), expected, atol=1e-9)


def test_a_future_token_never_changes_a_past_logit(model: NGramMixture) -> None:
    before, other = rows(2, 20), rows(2, 20)
    other[:, 12] = other[:, 12] % (V - 1) + 1
    changed = (model(before) - model(other)).abs().amax(dim=(0, 2))
    assert changed[:12].max() == 0
    assert changed[12:].min() > 0  # the cache keeps it


def test_step_by_step_equals_the_whole_row_at_once(model: NGramMixture) -> None:
    tokens = rows(3, 20)
    whole = model(tokens)
    logits, state = model.next_logits(tokens[:, :7], torch.tensor([7, 7, 7]))
    assert torch.allclose(logits, whole[:, 6], atol=1e-12)
    for place in range(7, 20):
        logits, state = model.next_logits(tokens[:, place : place + 1], torch.ones(3, dtype=torch.long), state)
        assert torch.allclose(logits, whole[:, place], atol=1e-12)


def test_it_loses_less_than_each_of_its_ngrams(stream: np.ndarray, model: NGramMixture) -> None:
    generator = np.random.default_rng(5)
    liked = [generator.choice(V - 1, 60, p=generator.dirichlet(np.full(V - 1, 0.2))) + 1 for _ in range(20)]
    tokens = torch.from_numpy(np.stack(liked))
    mixed = model.token_losses(tokens[:, :-1], tokens[:, 1:])[0].mean()
    for order in (1, 2, 3):
        single = NGram(V, order=order, smoothing="kneser_ney", k=1.0)
        single.fit(stream, EOT)
        assert mixed < single.token_losses(tokens[:, :-1], tokens[:, 1:])[0].mean()


def test_weights_survive_saving_and_others_are_refused(model: NGramMixture) -> None:
    copy = unfitted()
    copy.load_weights(model.state_dict())
    assert torch.equal(copy(rows(2, 9)), model(rows(2, 9)))
    with pytest.raises(CheckpointError, match="order 2"):
        unfitted(order=2).load_weights(model.state_dict())
    with pytest.raises(CheckpointError, match="not a mixture's weights"):
        unfitted(cache_order=1).load_weights(model.state_dict())


def test_rows_beyond_the_context_and_contexts_below_the_order_are_refused(model: NGramMixture) -> None:
    with pytest.raises(ConfigError, match=r"try trainer\.sequence_length=64"):
        model(rows(1, 65))
    with pytest.raises(ConfigError, match=r"model\.order - 1; try 8"):
        unfitted(order=9, context_length=4)


def slow_cache(row: list[int], target: int, order: int) -> tuple[float, int]:
    """p(target) after a row, straight from the formula."""
    probability, longest = 1 / V, 0
    for k in range(order + 1):
        if k > len(row):
            break
        context = row[len(row) - k :]
        following = [row[i] for i in range(max(k, 1), len(row)) if row[i - k : i] == context]
        if following:
            kinds = len(set(following))
            probability = (following.count(target) + kinds * probability) / (len(following) + kinds)
            longest = k
    return probability, longest


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=20), st.integers(0, 4))
def test_the_cache_is_the_formula_written_with_lists(row: list[int], order: int) -> None:
    tokens = np.array([row])
    probs, longest = cache_probabilities(tokens[:, :-1], tokens[:, 1:], order, V)
    for place in range(len(row) - 1):
        expected = slow_cache(row[: place + 1], row[place + 1], order)
        assert (probs[0, place], longest[0, place]) == (pytest.approx(expected[0]), expected[1])
        dense, length = cache_distributions(tokens[:, : place + 1], order, V)
        assert (dense[0, row[place + 1]], length[0]) == (pytest.approx(expected[0]), expected[1])
        assert dense.sum() == pytest.approx(1)
