"""Optimizers: from gradients to new parameters. Their states are plain tensors with names."""

import math
from typing import Annotated, Protocol

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor


class Optimizer(Protocol):
    """Attributes:
    lr: the schedule's peak.
    """

    lr: float

    def step(self, gradients: list[Tensor], lr: float) -> None:
        """Move the parameters, whose order is that of `gradients`."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that a later step depends on."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None: ...


class AdamW:
    """Adam with decoupled weight decay (https://arxiv.org/abs/1711.05101), on matrices only.

    torch.optim's own costs a second of start-up, for it imports the compiler.

    Args:
        parameters: by name; they are changed in place.
        lr: the schedule's peak.
        beta1, beta2: decay of the mean gradient and of the mean squared gradient, per step.
        eps: added to the root of the mean square.
        weight_decay: share, times the learning rate, that a matrix loses per step.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        *,
        lr: Annotated[float, Gt(0)],
        beta1: Annotated[float, Interval(ge=0, lt=1)],
        beta2: Annotated[float, Interval(ge=0, lt=1)],
        eps: Annotated[float, Gt(0)],
        weight_decay: Annotated[float, Ge(0)],
    ) -> None:
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.matrices = [parameter for parameter in self.parameters if parameter.dim() >= 2]
        self.lr = lr
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        if not self.parameters:
            return
        self.steps += 1
        if self.matrices:
            torch._foreach_mul_(self.matrices, 1 - lr * self.weight_decay)
        torch._foreach_lerp_(self.means, gradients, 1 - self.beta1)
        torch._foreach_mul_(self.squares, self.beta2)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 1 - self.beta2)
        roots = torch._foreach_sqrt(self.squares)
        torch._foreach_div_(roots, math.sqrt(1 - self.beta2**self.steps))
        torch._foreach_add_(roots, self.eps)
        torch._foreach_addcdiv_(self.parameters, self.means, roots, -lr / (1 - self.beta1**self.steps))

    def state(self) -> dict[str, Tensor]:
        means = {f"mean.{name}": mean for name, mean in zip(self.names, self.means, strict=True)}
        squares = {f"square.{name}": square for name, square in zip(self.names, self.squares, strict=True)}
        return means | squares | {"steps": torch.tensor(self.steps)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, mean, square in zip(self.names, self.means, self.squares, strict=True):
            mean.copy_(state[f"mean.{name}"])
            square.copy_(state[f"square.{name}"])
        self.steps = int(state["steps"])
