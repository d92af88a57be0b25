"""Gradient noise and update ratios, against what is computed by hand from whole gradients and weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain.models.language_model import IGNORED
from pretrain.training.measures import GradientNoise
from pretrain.training.parallel import Single
from tests.training.test_training_parts import gradient_update


def test_the_noise_scale_is_that_of_gradients_whose_noise_is_known() -> None:
    """Targets whose gradients are a mean of 1 in each of 4 directions and noise of variance 9: S = 36, |G|^2 = 4."""
    random = np.random.default_rng(0)
    noise = GradientNoise(Single())
    scale: Any = None
    for _ in range(2000):
        noise.begin()
        each = torch.from_numpy(random.normal(1.0, 3.0, (32, 4)))
        for part in torch.split(each, [8, 4, 20]):  # uneven, as with targets that are not scored
            targets = torch.zeros(1, 40, dtype=torch.long)
            targets[0, len(part) :] = IGNORED
            noise.take([part.sum(0) / 32], targets)
        scale = noise.figures(float(each.mean(0).norm()), 32)["gradient_noise_scale"]
    assert scale == pytest.approx(9.0, rel=0.25)


def test_a_step_is_measured_as_by_hand(tmp_path: Path) -> None:
    update = gradient_update(tmp_path, 1, log_noise=True)
    before = {name: weight.detach().clone() for name, weight in update.model.named_parameters()}
    tokens, targets = (torch.from_numpy(part) for part in update.batches.pairs(0))

    def square(rows: slice) -> float:
        nats, _ = update.model.token_losses(tokens[rows], targets[rows])
        found = torch.autograd.grad(nats.mean(), list(update.model.parameters()))
        return float(sum(gradient.square().sum() for gradient in found))

    small, big = sum(square(slice(row, row + 1)) for row in range(4)) / 4, square(slice(0, 4))
    b, whole = 8, 32  # targets
    signal, variance = (whole * big - b * small) / (whole - b), (small - big) / (1 / b - 1 / whole)
    measures = update.step(0, 0, 0.0).measures
    assert measures["gradient_noise_scale"] == (pytest.approx(variance / signal, rel=1e-3) if signal > 0 else None)
    assert update.noise is not None
    assert update.noise.variance == pytest.approx(0.01 * variance, rel=1e-3)
    assert update.noise.square == pytest.approx(0.01 * signal, rel=1e-2)

    moves = {name: weight.detach() - before[name] for name, weight in update.model.named_parameters()}
    assert measures["update_ratio"] == pytest.approx(_norm(moves.values()) / _norm(before.values()), rel=1e-5)
    ratios = {name: _norm([move]) / _norm([before[name]]) for name, move in moves.items() if move.dim() > 1}
    assert measures["largest_update_ratio"] == pytest.approx(max(ratios.values()), rel=1e-5)
    assert measures["largest_update_of"] == max(ratios, key=lambda name: ratios[name])


def test_measuring_changes_no_bit_and_goes_on_where_it_was(tmp_path: Path) -> None:
    plain, whole, first, second = (gradient_update(tmp_path, 2, log_noise=on) for on in (False, True, True, True))
    for number in range(4):
        assert plain.step(number, number, 0.0).measures == {}
        expected = whole.step(number, number, 0.0).measures
    for number in range(2):
        first.step(number, number, 0.0)
    second.model.load_weights(first.model.state_dict())
    second.load_state(first.state())
    for number in range(2, 4):
        found = second.step(number, number, 0.0).measures
    assert found == expected
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, whole.model.state_dict()[name])
    assert not any(name.startswith("noise") for name in plain.state())


def test_a_batch_of_one_part_has_no_noise_to_tell(tmp_path: Path) -> None:
    measures = gradient_update(tmp_path, 4, log_noise=True).step(0, 0, 0.0).measures
    assert set(measures) == {"update_ratio", "largest_update_ratio", "largest_update_of"}


def _norm(tensors: Any) -> float:
    joined: Tensor = torch.cat([tensor.flatten() for tensor in tensors])
    return float(joined.norm())
