"""Update and limits: parts that the loop puts together. Optimizers and schedules have files of their own."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain import cli, config
from pretrain.data.batches import Batches
from pretrain.data.shards import TokenStream
from pretrain.errors import Interrupted
from pretrain.models.gpt import GPT
from pretrain.stopping import Stop
from pretrain.training.checkpoints import TrainingState
from pretrain.training.loop import Limits
from pretrain.training.optimizers import AdamW
from pretrain.training.optimizers.schedule_free import ScheduleFree
from pretrain.training.schedules import Constant
from pretrain.training.updates import GradientUpdate

V = 17


def stream(folder: Path, length: int = 400) -> TokenStream:
    tokens = np.random.default_rng(0).integers(0, V, length).astype("<u2")
    tokens.tofile(folder / "train-00000.bin")
    shard = {"file": "train-00000.bin", "checksum": "", "tokens": length, "documents": 1, "source": "test"}
    manifest = {"dtype": "uint16", "splits": {"train": [shard | {"bytes": 1, "characters": 1, "words": 1}]}}
    return TokenStream(folder, "train", manifest)


def gradient_update(
    folder: Path, micro_batch: int = 4, dtype: torch.dtype = torch.float32, **settings: Any
) -> GradientUpdate:
    torch.manual_seed(0)
    model = GPT(V, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.0)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    optimizer = AdamW(parameters, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    batches = Batches(stream(folder), 8, 4, seed=0)
    parts = (model, batches, optimizer, Constant(warmup_steps=0), dtype, micro_batch, 0, Stop())
    return GradientUpdate(*parts, **{"max_grad_norm": 1.0, **settings})


def test_the_first_limit_that_is_reached_ends_a_run() -> None:
    state = TrainingState("fp32", 1, 1, step=5, tokens=1000, seconds=30.0)
    assert Limits(10, None, None).progress(state) == 0.5
    assert Limits(10, 1000, None).progress(state) == 1.0
    assert Limits(None, None, 60.0).progress(state) == 0.5


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_accumulated_micro_batches_give_the_big_batchs_step(micro_batch: int, z_loss: float, tmp_path: Path) -> None:
    whole, parts = (gradient_update(tmp_path, rows, z_loss=z_loss) for rows in (4, micro_batch))
    for number in range(3):
        one, other = whole.step(number, number, 0.0), parts.step(number, number, 0.0)
        assert one.loss == pytest.approx(other.loss, abs=1e-6)
        assert one.grad_norm == pytest.approx(other.grad_norm, abs=1e-6)
    for name, weight in whole.model.state_dict().items():
        assert torch.allclose(weight, parts.model.state_dict()[name], atol=1e-5)


def test_bf16_products_follow_fp32_weights(tmp_path: Path) -> None:
    update = gradient_update(tmp_path, dtype=torch.bfloat16)
    losses = [update.step(0, 0, 0.0).loss for _ in range(20)]
    assert losses[-1] < losses[0] - 0.3
    for weight, copy in zip(update.model.parameters(), update.working.parameters(), strict=True):
        assert weight.dtype == torch.float32
        assert torch.equal(weight.bfloat16(), copy)


def test_a_gradient_longer_than_the_limit_is_scaled_down(tmp_path: Path) -> None:
    free, clipped = gradient_update(tmp_path), gradient_update(tmp_path)
    clipped.max_grad_norm = 1e-9
    result = clipped.step(0, 0, 0.0)
    assert result.grad_norm == free.step(0, 0, 0.0).grad_norm > 1e-9
    mean = torch.cat([mean.flatten() for mean in clipped.optimizer.means])  # type: ignore[attr-defined]
    assert float(mean.norm()) == pytest.approx(0.1 * 1e-9, rel=1e-3)


class NumbersAskedFor(TorchDispatchMode):
    """Counts what would make the host wait for a device: numbers that are read out of tensors one by one."""

    count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += operator in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return operator(*arguments, **(named or {}))


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion", "adafactor", "schedule_free"])
@pytest.mark.parametrize("settings", [{}, {"z_loss": 1e-4, "spike_action": "skip"}])
def test_a_step_reads_loss_and_norm_together_and_nothing_else(
    optimizer: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    update = gradient_update(tmp_path, 2, **settings)
    update.max_grad_norm = 1e-3  # so that it clips
    part = config.Part(cli._composed("train", [f"optimizer={optimizer}"])["optimizer"])
    update.optimizer = config.build(part, parameters=update.parallel.parameters(update.model))
    update.step(0, 0, 0.0)
    with NumbersAskedFor() as asked:
        assert not update.step(1, 1, 0.0).skipped
    assert asked.count == 0


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_step_whose_gradient_is_not_finite_changes_nothing(poison: float, tmp_path: Path) -> None:
    update = gradient_update(tmp_path)
    update.step(0, 0, 0.0)
    update.model.norm.bias.register_hook(lambda gradient: torch.full_like(gradient, poison))  # type: ignore[union-attr]
    weights = {name: weight.clone() for name, weight in update.model.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in update.state().items()}
    assert update.step(1, 1, 0.0).skipped
    assert all(torch.equal(weight, update.model.state_dict()[name]) for name, weight in weights.items())
    assert all(torch.equal(tensor, update.state()[name]) for name, tensor in state.items())


def test_a_signal_stops_before_the_next_micro_batch_and_changes_nothing(tmp_path: Path) -> None:
    update = gradient_update(tmp_path, micro_batch=1)
    weights = {name: weight.clone() for name, weight in update.model.state_dict().items()}
    update.stop._receive(15, None)
    with pytest.raises(Interrupted, match="SIGTERM"):
        update.step(0, 0, 0.0)
    assert all(torch.equal(weight, update.model.state_dict()[name]) for name, weight in weights.items())


def test_z_loss_moves_the_weights_and_not_the_loss_that_is_told(tmp_path: Path) -> None:
    without, with_it = gradient_update(tmp_path), gradient_update(tmp_path, z_loss=0.1)
    first, second = without.step(0, 0, 0.0), with_it.step(0, 0, 0.0)
    assert first.loss == second.loss
    assert first.grad_norm != second.grad_norm


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_taken_where_the_optimizer_says_and_the_average_is_evaluated(
    dtype: torch.dtype, ema_decay: float | None, tmp_path: Path
) -> None:
    """Where the optimizer averages, and where `ema_decay` averages what another moves."""

    def fresh() -> GradientUpdate:
        update = gradient_update(tmp_path, dtype=dtype)
        parameters = {name: parameter.detach() for name, parameter in update.model.named_parameters()}
        kind = AdamW if ema_decay else ScheduleFree
        optimizer = kind(parameters, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
        parts = (update.model, update.batches, optimizer, update.schedule, dtype, 4, 0, Stop())
        return GradientUpdate(*parts, max_grad_norm=1.0, ema_decay=ema_decay)

    def check(update: GradientUpdate) -> None:
        points = update.optimizer.points()
        assert points is not None
        for at, point in zip(update.learning.parameters(), points, strict=True):
            assert torch.equal(at, point.to(dtype))
        for average, working in zip(update.model.parameters(), update.working.parameters(), strict=True):
            assert torch.equal(average.to(dtype), working)
        assert not all(map(torch.equal, update.learning.parameters(), update.working.parameters()))

    whole, first, second = fresh(), fresh(), fresh()
    for number in range(4):
        whole.step(number, number, 0.0)
    check(whole)
    for number in range(2):
        first.step(number, number, 0.0)
    second.model.load_weights(first.model.state_dict())
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    check(second)
    for number in range(2, 4):
        second.step(number, number, 0.0)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])
