"""THE training loop: batch, update, log, evaluate, save, stop. Every model goes through it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pretrain.data.batches import batch_of_step
from pretrain.errors import Interrupted, TrainingError
from pretrain.evaluation.loss import Loss, Validation
from pretrain.stopping import Stop
from pretrain.tracking.jsonl import finite
from pretrain.training.checkpoints import TrainingState
from pretrain.training.environment import memory_in_use
from pretrain.training.updates import Update

SKIPS_IN_A_ROW = 10  # after which a run stops
MOST_ROLLBACKS = 10  # likewise


class Tracker(Protocol):
    def log(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    """Where a run ends: the first of them that is reached. None is no limit.

    Batches count with those that were passed over, for they too are used up.
    """

    max_steps: int | None
    max_tokens: int | None
    max_seconds: float | None
    max_batches: int | None = None

    def progress(self, state: TrainingState) -> float:
        """The share of the run that is done, from 0 to 1."""
        pairs = (
            (state.step, self.max_steps),
            (state.tokens, self.max_tokens),
            (state.seconds, self.max_seconds),
            (batch_of_step(state.step, state.skipped_windows), self.max_batches),
        )
        return min(1.0, max((done / most for done, most in pairs if most is not None), default=0.0))


@dataclass(frozen=True)
class Rhythm:
    """How often, in steps."""

    eval_every: int
    checkpoint_every: int


def train(
    update: Update,
    state: TrainingState,
    limits: Limits,
    rhythm: Rhythm,
    *,
    validation: Validation,
    save: Callable[[bool], None],
    restore: Callable[[], TrainingState | None],
    trackers: list[Tracker],
    show: Callable[[float, dict[str, Any]], None],
    look: Callable[[], None],
    stop: Stop,
    same: Callable[[float], float] = float,
    tokens_at_peak: float | None = None,
) -> Loss | None:
    """Train `update`'s model from `state` on, which is changed in place, until a limit is reached.

    Args:
        validation: measures the model on some tokens while it trains, and on all of them at the end.
        save: writes a checkpoint of `state`; told whether it is the last one, which is waited for.
        restore: brings the model back to its last checkpoint, and returns its state; None where there is none yet.
        trackers: where a row of metrics goes.
        show: told the share of the run that is done, and each row of metrics.
        look: lets the model write something after each evaluation but the last, behind which there is more to do.
        same: makes a number that each of several processes measured for itself the same on all of them.
        tokens_at_peak: tokens a second if the device did nothing but the model's products at its peak; None: unknown.
    Returns:
        the loss on all validation tokens, or None where it was measured before a restart.
    Raises:
        Interrupted: a signal came; the last full step is saved.
        TrainingError: loss or gradient stayed NaN or infinite, or spikes came again and again.
    """
    saved = state.step
    loss = None

    def log(metrics: dict[str, Any]) -> None:
        row = {"step": state.step, "tokens": state.tokens, "seconds": round(state.seconds, 3), **metrics}
        for tracker in trackers:
            tracker.log(row)
        show(limits.progress(state), row)

    try:
        while True:
            done = limits.progress(state) >= 1
            if (done or state.step % rhythm.eval_every == 0) and state.evaluated_step < state.step:
                loss = validation.loss(update.working, whole=done)
                state.evaluated_step = state.step
                state.train_loss = finite(state.loss_sum / state.loss_steps) if state.loss_steps else None
                state.validation_loss = finite(loss.mean)
                state.loss_sum, state.loss_steps = 0.0, 0
                log(
                    {
                        "val/loss": loss.mean,
                        "val/perplexity": loss.perplexity,
                        "val/bits_per_byte": validation.bits_per_byte(loss),
                    }
                )
                if not done:
                    look()
            if (done or state.step % rhythm.checkpoint_every == 0) and saved < state.step:
                save(done)
                saved = state.step
            if done:
                return loss
            stop.check()

            started = time.perf_counter()
            batch = batch_of_step(state.step, state.skipped_windows)
            result = update.step(state.step, batch, limits.progress(state))
            seconds = same(time.perf_counter() - started)

            if result.rollback and (before := restore()):
                window = _roll_back(state, before, batch)
                log({"train/loss": result.loss, "spike": result.spike, "rolled_back_over_batches": window})
                continue
            state.step += 1
            state.tokens += result.tokens
            state.seconds += seconds
            if result.skipped:
                state.skipped_steps += 1
                state.skipped_in_a_row += not result.rescaled
            else:
                state.skipped_in_a_row = 0
                state.loss_sum += result.loss
                state.loss_steps += 1
            log(
                {
                    "train/loss": result.loss,
                    "train/perplexity": math.exp(min(result.loss, 700.0)),
                    "lr": result.lr,
                    "grad_norm": result.grad_norm,
                    "tokens_per_second": round(result.tokens / seconds, 1),
                    **({"mfu": round(result.tokens / seconds / tokens_at_peak, 4)} if tokens_at_peak else {}),
                    **({"loss_scale": result.loss_scale} if result.loss_scale else {}),
                    "memory_bytes": memory_in_use(),
                    "skipped_steps": state.skipped_steps,
                    "spike": result.spike,
                    **result.measures,
                }
            )
            if state.skipped_in_a_row == SKIPS_IN_A_ROW:
                raise TrainingError(
                    f"{SKIPS_IN_A_ROW} steps in a row up to step {state.step} were skipped, the last with loss "
                    f"{result.loss} and gradient norm {result.grad_norm}; try a lower optimizer.lr or a longer "
                    "schedule.warmup_steps"
                )
    except Interrupted:
        if state.step > saved:
            save(True)
        raise


def _roll_back(state: TrainingState, before: TrainingState, batch: int) -> tuple[int, int]:
    """Set `state` to what it was `before`, with all batches since then up to `batch` passed over: [first, last)."""
    if len(state.skipped_windows) == MOST_ROLLBACKS:
        raise TrainingError(
            f"the loss spiked again after {MOST_ROLLBACKS} rollbacks, at step {state.step + 1}; try a lower "
            "optimizer.lr, or update.spike_action=skip"
        )
    window = (batch_of_step(before.step, state.skipped_windows), batch + 1)
    windows, seconds = [*state.skipped_windows, window], state.seconds
    for name, value in vars(before).items():
        setattr(state, name, value)
    state.skipped_windows, state.seconds = windows, seconds
    return window
