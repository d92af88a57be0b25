"""Adafactor."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from pretrain.training.optimizers.optimizer import load_named, named


class Adafactor:
    """Keeps the mean squared gradient of a matrix as those of its rows and columns (https://arxiv.org/abs/1804.04235).

    A matrix of n x m takes n + m numbers where AdamW takes 2 n m. As in the paper the mean square of step t decays by
    1 - t ** -decay, a step is clipped by its root mean square, and there is no mean gradient. A stack of matrices is
    factored matrix by matrix, and clipped as a whole.

    Args:
        parameters: by name; they are changed in place.
        lr: the schedule's peak.
        decay: how fast the mean square forgets less and less.
        clip: the most that a step's root mean square may be, in learning rates.
        relative: whether the rate counts in root mean squares of the parameter, as in the paper, where it is some 1e-2;
            else it is absolute, and AdamW's will do.
        eps: what the root mean square of a gradient counts at least.
        least: what the root mean square of a parameter counts at least, where `relative`.
        weight_decay: share, times the learning rate, that a matrix loses per step.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        *,
        lr: Annotated[float, Gt(0)],
        decay: Annotated[float, Interval(gt=0, le=1)],
        clip: Annotated[float, Gt(0)],
        relative: bool,
        eps: Annotated[float, Gt(0)],
        least: Annotated[float, Gt(0)],
        weight_decay: Annotated[float, Ge(0)],
    ) -> None:
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.lr = lr
        self.decay, self.clip, self.relative, self.eps, self.least = decay, clip, relative, eps, least
        self.weight_decay = weight_decay
        # Of a matrix (..., n, m) rows are (..., n, 1) and columns (..., 1, m); of a vector rows are the vector, and
        # columns nothing.
        self.rows = [_zeros(parameter, -1) for parameter in self.parameters]
        self.columns = [_zeros(parameter, -2) for parameter in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        self.steps += 1
        newest = self.steps**-self.decay
        for parameter, gradient, rows, columns in zip(self.parameters, gradients, self.rows, self.columns, strict=True):
            rate = lr * _root_mean_square(parameter).clamp(min=self.least) if self.relative else lr
            if parameter.dim() < 2:
                rows.lerp_(gradient.square(), newest)
                squares = rows.clone()
            else:
                parameter.mul_(1 - lr * self.weight_decay)
                rows.lerp_(_mean_square(gradient, -1), newest)
                columns.lerp_(_mean_square(gradient, -2), newest)
                squares = rows / rows.mean(dim=-2, keepdim=True).clamp(min=self.eps) * columns
            change = squares.clamp_(min=self.eps**2).rsqrt_().mul_(gradient)
            parameter.sub_(change.mul_(rate / (_root_mean_square(change) / self.clip).clamp(min=1.0)))

    def points(self) -> None:
        return None

    def state(self) -> dict[str, Tensor]:
        steps = {"steps": torch.tensor(self.steps)}
        return named("rows", self.names, self.rows) | named("columns", self.names, self.columns) | steps

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_named("rows", self.names, self.rows, state)
        load_named("columns", self.names, self.columns, state)
        self.steps = int(state["steps"])


def _zeros(parameter: Tensor, dim: int) -> Tensor:
    if parameter.dim() < 2:
        return torch.zeros_like(parameter) if dim == -1 else parameter.new_zeros(0)
    return torch.zeros_like(parameter.select(dim, 0)).unsqueeze(dim)


def _mean_square(gradient: Tensor, dim: int) -> Tensor:
    mean: Tensor = torch.linalg.vector_norm(gradient, dim=dim, keepdim=True).square_().div_(gradient.shape[dim])
    return mean


def _root_mean_square(tensor: Tensor) -> Tensor:
    root: Tensor = torch.linalg.vector_norm(tensor) / math.sqrt(tensor.numel())
    return root
