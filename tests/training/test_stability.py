"""Spikes of the loss are told from noise, and logged, skipped, or rolled back past the data that brought them."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pretrain.data.batches import Batches
from pretrain.data.mixture import Share
from pretrain.data.shards import TokenStream
from pretrain.errors import TrainingError
from pretrain.evaluation.loss import Validation
from pretrain.models.gpt import GPT
from pretrain.stopping import Stop
from pretrain.training.checkpoints import Checkpoints, TrainingState
from pretrain.training.loop import Limits, Rhythm, train
from pretrain.training.optimizers import AdamW
from pretrain.training.schedules import Constant
from pretrain.training.stability import SpikeGuard, robust_score
from pretrain.training.updates import GradientUpdate

V, STEPS = 11, 90
MakeStream = Callable[..., TokenStream]


class Poisoned(Batches):
    """Batches of a text that repeats itself, but for some that are noise."""

    poison: frozenset[int] = frozenset()
    seen: list[int]

    def __getitem__(self, number: int) -> NDArray[np.int64]:
        self.seen.append(number)
        rows = super().__getitem__(number)
        return np.random.default_rng(number).integers(0, V, rows.shape) if number in self.poison else rows


class Run:
    """A tiny run in a folder, which goes on from the folder's last checkpoint."""

    def __init__(
        self, stream: TokenStream, folder: Path, action: str, poison: set[int], max_epochs: float | None = None
    ) -> None:
        torch.manual_seed(0)
        self.stream, self.rows = stream, list[dict[str, Any]]()
        model = GPT(V, context_length=8, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        optimizer = AdamW(parameters, lr=0.01, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.0)
        self.batches = Poisoned(stream, 8, 4, seed=0, shares={"test": Share(max_epochs=max_epochs)})
        self.batches.poison, self.batches.seen = frozenset(poison), []
        self.update = GradientUpdate(
            model,
            self.batches,
            optimizer,
            Constant(warmup_steps=0),
            torch.float32,
            4,
            0,
            Stop(),
            max_grad_norm=1.0,
            spike_action=action,  # type: ignore[arg-type]  # one of the actions
        )
        self.checkpoints = Checkpoints(folder, keep=2)
        (folder / "tokenizer.json").write_text("{}")
        self.folder, self.state = folder, self.restore() or TrainingState("fp32", 4, 1)

    def save(self, last: bool) -> None:
        weights, tokenizer = dict(self.update.model.state_dict()), self.folder / "tokenizer.json"
        self.checkpoints.save(self.state, weights, self.update.state(), "", tokenizer, last=last)

    def restore(self) -> TrainingState | None:
        self.checkpoints.wait()
        if found := self.checkpoints.newest(pytest.fail):
            self.update.model.load_weights(found.weights)
            self.update.load_state(found.update)
        return found and found.state

    def train(self, steps: int | None) -> dict[str, torch.Tensor]:
        train(
            self.update,
            self.state,
            Limits(steps, None, None, self.update.most_batches()),
            Rhythm(1000, 10),
            validation=Validation(self.stream, 8, 8, 64, Stop()),
            save=self.save,
            restore=self.restore,
            trackers=[],
            show=lambda done, row: self.rows.append(row),
            look=lambda: None,
            stop=Stop(),
        )
        return {name: weight.clone() for name, weight in self.update.model.state_dict().items()}


@pytest.fixture
def stream(make_stream: MakeStream) -> TokenStream:
    return make_stream([place % 5 for place in range(3000)])


def test_the_score_counts_standard_deviations_and_is_not_moved_by_an_outlier() -> None:
    noise = np.random.default_rng(0).normal(2.0, 0.1, 500).tolist()
    assert robust_score(deque(noise), 2.3) == pytest.approx(3.0, abs=0.3)
    assert robust_score(deque([*noise, 1e6]), 2.3) == pytest.approx(3.0, abs=0.3)
    assert robust_score(deque([2.0] * 50), 2.0) == 0.0


def test_nothing_is_judged_before_enough_steps_are_known() -> None:
    guard = SpikeGuard(action="skip", threshold=5.0, window=16)
    for _ in range(15):
        guard.take(1.0, 1.0)
    assert guard.score(1e9, 1e9) == 0.0
    guard.take(1.0, 1.0)
    assert guard.refuses(guard.score(1e9, 1.0))
    assert guard.refuses(guard.score(1.0, 1e9))
    assert not guard.refuses(guard.score(1.0, 1.0))


def test_a_spike_is_logged_and_learned_from_where_that_is_asked(stream: TokenStream, tmp_path: Path) -> None:
    run = Run(stream, tmp_path, "log", {40})
    run.train(STEPS)
    spikes = {row["step"]: row["spike"] for row in run.rows if "train/loss" in row}
    assert max(spikes, key=lambda step: spikes[step]) == 41
    assert spikes[41] > 8
    assert run.state.skipped_steps == 0


def test_a_skipped_spike_leaves_the_weights_as_if_its_batch_had_not_been(stream: TokenStream, tmp_path: Path) -> None:
    run = Run(stream, tmp_path, "skip", {40})
    run.train(40)
    before = {name: weight.clone() for name, weight in run.update.model.state_dict().items()}
    run.train(41)
    assert run.state.skipped_steps == 1
    assert all(torch.equal(weight, before[name]) for name, weight in run.update.model.state_dict().items())
    run.train(STEPS)
    assert run.state.skipped_steps == 1


def test_a_rollback_passes_over_the_batches_since_the_last_checkpoint(stream: TokenStream, tmp_path: Path) -> None:
    run = Run(stream, tmp_path, "rollback", {64, 65})
    run.train(STEPS)
    [first, second] = run.state.skipped_windows
    assert (first, second) == ((60, 65), (65, 66))  # 64 spikes; on the way anew 65, the first batch, spikes as well
    assert run.batches.seen[:67] == [*range(65), 65, 66]
    windows = [row["rolled_back_over_batches"] for row in run.rows if "rolled_back_over_batches" in row]
    assert windows == [first, second]


def test_a_killed_run_comes_to_the_same_rollbacks_and_the_same_bits(stream: TokenStream, tmp_path: Path) -> None:
    poison = {64, 79}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = Run(stream, tmp_path / "whole", "rollback", poison)
    expected = whole.train(STEPS)
    Run(stream, tmp_path / "parts", "rollback", poison).train(60)
    Run(stream, tmp_path / "parts", "rollback", poison).train(75)
    last = Run(stream, tmp_path / "parts", "rollback", poison)
    found = last.train(STEPS)
    assert last.state.skipped_windows == whole.state.skipped_windows
    assert len(last.state.skipped_windows) == 2
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())


def test_batches_that_were_passed_over_are_used_up(stream: TokenStream, tmp_path: Path) -> None:
    run = Run(stream, tmp_path, "rollback", {64}, max_epochs=1)
    most = run.update.most_batches()
    assert most == 93
    run.train(None)
    [(first, last)] = run.state.skipped_windows
    assert run.state.step == most - (last - first)
    assert max(run.batches.seen) == most - 1


def test_rollbacks_without_end_are_given_up(stream: TokenStream, tmp_path: Path) -> None:
    run = Run(stream, tmp_path, "rollback", set(range(40, 500)))
    with pytest.raises(TrainingError, match="spiked again after 10 rollbacks"):
        run.train(STEPS)


def test_the_guards_state_survives_a_restart() -> None:
    guard = SpikeGuard(action="log", threshold=5.0, window=20)
    for step in range(30):
        guard.take(3.0 - step / 30, 1.0 + step % 3)
    other = SpikeGuard(action="log", threshold=5.0, window=20)
    other.load_state(guard.state())
    assert other.score(3.1, 2.2) == guard.score(3.1, 2.2) > 0
