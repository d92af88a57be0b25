"""Scaling laws: their fit, and what is chosen by them for a budget."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from pretrain.config import Part, build, configs_dir
from pretrain.errors import TrainingError
from pretrain.training.budget import Budget, Corpus, Shape
from pretrain.training.scaling import Law, Run, effective_tokens, fit, interval, resampled

TRUE = Law(E=1.2, A=30.0, alpha=0.4, B=300.0, beta=0.45)
CORPUS = Corpus(tokens=10**9, best_ngram=3.0, pilot=5.0, pilot_tokens=100_000)


def runs(noise: float) -> list[Run]:
    random = np.random.default_rng(0)
    return [
        Run(size, tokens, 1e8, TRUE.loss(size, tokens, 1e8) * float(np.exp(noise * random.standard_normal())))
        for size in (3e4, 1e5, 3e5, 1e6)
        for tokens in (2e5, 6e5, 2e6, 6e6)
    ]


@pytest.fixture
def budget() -> Budget:
    part = OmegaConf.to_container(OmegaConf.load(configs_dir() / "model" / "auto.yaml").budget)
    made: Budget = build(Part(part))
    return made


def test_a_fit_finds_the_constants_that_noisy_losses_were_made_of() -> None:
    measured = runs(noise=0.003)
    law = fit(measured)
    assert law.alpha == pytest.approx(TRUE.alpha, rel=0.15)
    assert law.beta == pytest.approx(TRUE.beta, rel=0.15)
    assert pytest.approx(TRUE.E, rel=0.1) == law.E
    at = (4e6, 6e6, 1e8)
    assert law.loss(*at) == pytest.approx(TRUE.loss(*at), rel=0.01)
    low, high = interval([one.loss(*at) for one in resampled(measured, law, seed=0, count=5)], share=0.8)
    assert low < high < low * 1.1
    assert low * 0.99 < TRUE.loss(*at) < high * 1.01


def test_too_few_runs_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(TrainingError, match="at least 6 runs"):
        fit(runs(0.0)[:4])


def test_a_token_is_worth_less_each_time_it_is_read() -> None:
    worth = [effective_tokens(epochs * 1000.0, 1000.0) for epochs in (0.5, 1, 2, 4, 1e6)]
    assert worth[:2] == [500, 1000]
    assert 1000 < worth[2] < 2000
    assert worth[3] - worth[2] < 2 * (worth[2] - worth[1])
    assert worth[4] == pytest.approx(1000 * (1 + 15.4))


def speed(shape: Shape, batch_tokens: int) -> float:
    """Of a machine that takes 60 GFLOP/s at any batch, for 4,096 ids."""
    return 60e9 / (6 * (shape.parameters + 4096 * shape.n_embd))


def test_a_larger_budget_buys_a_larger_model_more_tokens_and_a_lower_loss(budget: Budget) -> None:
    found = [budget.choose(speed, seconds, CORPUS) for seconds in (10, 300, 10_000)]
    sizes = [choice.shape.parameters for choice in found]
    assert sizes[0] < sizes[1] < sizes[2]
    assert found[0].tokens < found[1].tokens < found[2].tokens
    assert found[0].loss > found[1].loss > found[2].loss > budget.floor * CORPUS.best_ngram


def test_a_small_corpus_buys_fewer_epochs_of_a_larger_model_and_promises_less(budget: Budget) -> None:
    small = Corpus(200_000, CORPUS.best_ngram, CORPUS.pilot, CORPUS.pilot_tokens)
    plenty, scarce = (budget.choose(speed, 600, corpus) for corpus in (CORPUS, small))
    assert scarce.tokens <= plenty.tokens
    assert scarce.loss > plenty.loss


def test_a_larger_batch_is_chosen_where_it_is_faster(budget: Budget) -> None:
    def launch_bound(shape: Shape, batch_tokens: int) -> float:
        return batch_tokens / (0.01 + batch_tokens / speed(shape, batch_tokens) / 1000)

    assert budget.choose(speed, 60, CORPUS).batch_tokens == budget.batch_tokens
    assert budget.choose(launch_bound, 60, CORPUS).batch_tokens > 4 * budget.batch_tokens


def test_where_measuring_ends_the_best_of_what_was_measured_is_chosen(budget: Budget) -> None:
    asked: list[Shape] = []

    def once(shape: Shape, batch_tokens: int) -> float | None:
        asked.append(shape)
        return speed(shape, batch_tokens) if len(asked) == 1 else None

    assert budget.choose(once, 10_000, CORPUS).shape == next(budget.shapes())
    assert len(asked) == 3  # a larger batch, and the next size


def test_the_pilot_scales_what_is_above_the_floor(budget: Budget) -> None:
    told = budget.loss(budget.pilot, CORPUS.pilot_tokens, budget.batch_tokens, CORPUS)
    assert told == pytest.approx(CORPUS.pilot)
