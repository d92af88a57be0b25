"""What `model=auto` asks of the machine and the corpus, and the settings that it gives the run."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch

from pretrain.config import Part, TrainConfig, build
from pretrain.data.batches import Batches
from pretrain.data.shards import TokenStream
from pretrain.evaluation.loss import Validation
from pretrain.stopping import Stop
from pretrain.tracking.console import say
from pretrain.training.budget import Budget, Choice, Corpus, Shape
from pretrain.training.checkpoints import TrainingState
from pretrain.training.compiling import Compilation
from pretrain.training.updates import Update

Begun = tuple[Batches, TrainingState, Update, Compilation]
Begin = Callable[[TrainConfig], Begun]  # a run of these settings, at its first step

PILOT_TARGETS = 16_384  # of validation that the pilot is measured on
WARM_STEPS = 2  # before steps are timed
TIMED_STEPS = 3  # at least
TIMED_SECONDS = 0.25  # likewise
EVALUATIONS = 4  # and checkpoints, in a run


def chosen(
    settings: TrainConfig, begin: Begin, training: TokenStream, validation: TokenStream, best_ngram: float, stop: Stop
) -> dict[str, Any]:
    """The settings by which the run is expected to end best, with what is expected, as JSON can hold it.

    Args:
        best_ngram: the corpus's reference loss.
    """
    started = time.perf_counter()
    budget: Budget = build(settings.budget)
    seconds = settings.trainer.max_seconds
    assert seconds is not None, "TrainConfig refuses a budget without it"
    pilot, tokens = _pilot(settings, budget, begin, validation, seconds * budget.share / 2, stop)
    corpus = Corpus(len(training), best_ngram, pilot, tokens)

    def speed(shape: Shape, batch_tokens: int) -> float | None:
        if known and time.perf_counter() - started > seconds * budget.share:
            return None
        try:
            known[shape, batch_tokens] = _speed(begin(_with(settings, shape, batch_tokens, budget.lr(shape, 1000))))
        except torch.OutOfMemoryError:
            return None
        return known[shape, batch_tokens]

    known: dict[tuple[Shape, int], float] = {}
    left = seconds - max(seconds * budget.share, time.perf_counter() - started)
    choice = budget.choose(speed, max(left, seconds / 2), corpus)
    spent = min(time.perf_counter() - started, seconds / 2)  # on a machine that stalls something is left to train in
    say(_told(choice, corpus, spent, seconds))
    return _settings(choice.shape, choice.batch_tokens, choice.lr, choice.steps) | {
        "expected_loss": choice.loss,
        "expected_tokens": choice.tokens,
        "pilot_loss": pilot,
        "seconds": spent,
    }


def with_choice(settings: TrainConfig, choice: dict[str, Any]) -> TrainConfig:
    """The settings of a run with what was chosen for it; unchanged where nothing was."""
    if not choice:
        return settings
    return replace(
        settings,
        model=Part(settings.model | choice["model"]),
        optimizer=Part(settings.optimizer | choice["optimizer"]),
        trainer=replace(settings.trainer, **choice["trainer"]),
    )


def _with(settings: TrainConfig, shape: Shape, batch_tokens: int, lr: float) -> TrainConfig:
    return with_choice(settings, _settings(shape, batch_tokens, lr, steps=1))


def _settings(shape: Shape, batch_tokens: int, lr: float, steps: int) -> dict[str, Any]:
    rhythm = max(1, steps // EVALUATIONS)
    return {
        "model": asdict(shape),
        "optimizer": {"lr": lr},
        "trainer": {"batch_tokens": batch_tokens, "eval_every": rhythm, "checkpoint_every": rhythm},
    }


def _pilot(
    settings: TrainConfig, budget: Budget, begin: Begin, validation: TokenStream, seconds: float, stop: Stop
) -> tuple[float, int]:
    """Nats per token of a small model that was trained for a moment, `seconds` at most, and the tokens that it read."""
    steps = max(1, budget.pilot_tokens // budget.batch_tokens)
    own = _with(settings, budget.pilot, budget.batch_tokens, budget.pilot_lr)
    _, _, update, _ = begin(own)
    tokens, done, progress = update.step(0, 0, 0.0).tokens, 1, 0.0
    started = time.perf_counter()  # the first step loads what the others use
    while progress < 1:
        tokens += update.step(done, done, progress).tokens
        done += 1
        progress = max(done / steps, (time.perf_counter() - started) / seconds)
    row = own.sequence_length
    loss = Validation(validation, row, max(1, row // 2), PILOT_TARGETS, stop).loss(update.working, whole=False)
    return loss.mean, tokens


def _speed(begun: Begun) -> float:
    """Tokens a second of a few steps."""
    _, _, update, _ = begun
    for number in range(WARM_STEPS):
        update.step(number, number, 0.0)
    started, tokens, number = time.perf_counter(), 0, WARM_STEPS
    while number < WARM_STEPS + TIMED_STEPS or time.perf_counter() - started < TIMED_SECONDS:
        tokens += update.step(number, number, 0.0).tokens
        number += 1
    return tokens / (time.perf_counter() - started)


def _told(choice: Choice, corpus: Corpus, spent: float, seconds: float) -> str:
    shape, epochs = choice.shape, choice.tokens / corpus.tokens
    layers = f"{shape.n_layer} layer{'s' if shape.n_layer > 1 else ''}"
    return (
        f"chosen for {seconds:g} s, {spent:.1f} of which went into measuring: {layers} of width {shape.n_embd}, "
        f"{choice.batch_tokens:,} tokens a step, optimizer.lr={choice.lr:.2g}; about {choice.tokens:,} tokens "
        f"({epochs:.2g} epochs at {choice.tokens_per_second:,.0f} tokens/s)\nexpected: validation loss "
        f"{choice.loss:.2f} (best n-gram {corpus.best_ngram:.2f}); the evaluation at the end is not in the budget"
    )
