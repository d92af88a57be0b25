"""Schedule-free AdamW: an average of the weights takes the place of a falling learning rate."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from pretrain.training.optimizers.optimizer import load_named, named


class ScheduleFree:
    """AdamW whose weights z are averaged into x, with gradients taken between the two (https://arxiv.org/abs/2405.15682).

    The parameters are x, which is as good at any time as at the end of a schedule. Each step weighs by its learning
    rate squared, so that the warm-up counts little. Choose a schedule that stays at its peak after the warm-up.

    Args:
        parameters: by name; they are changed in place.
        lr: the schedule's peak.
        beta1: how near to x gradients are taken: at (1 - beta1) z + beta1 x.
        beta2: decay of the mean squared gradient, per step.
        eps: added to the root of the mean square.
        weight_decay: share, times the learning rate, of a matrix where the gradient is taken, that z loses per step.
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
        self.lr = lr
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.moved = [parameter.clone() for parameter in self.parameters]  # z
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0
        self.weight = 0.0  # of all steps so far in the average
        self._matrices = [place for place, parameter in enumerate(self.parameters) if parameter.dim() >= 2]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        if not self.parameters:
            return
        self.steps += 1
        self.weight += lr**2
        torch._foreach_mul_(self.squares, self.beta2)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 1 - self.beta2)
        roots = torch._foreach_div(self.squares, 1 - self.beta2**self.steps)
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, self.eps)
        if self.weight_decay and self._matrices:
            moved = [self.moved[place] for place in self._matrices]
            average = [self.parameters[place] for place in self._matrices]
            at = torch._foreach_lerp(moved, average, self.beta1)
            torch._foreach_add_(moved, at, alpha=-lr * self.weight_decay)
        torch._foreach_addcdiv_(self.moved, gradients, roots, -lr)
        if self.weight:
            torch._foreach_lerp_(self.parameters, self.moved, lr**2 / self.weight)

    @torch.no_grad()
    def points(self) -> list[Tensor]:
        return list(torch._foreach_lerp(self.moved, self.parameters, self.beta1)) if self.parameters else []

    def state(self) -> dict[str, Tensor]:
        numbers = {"steps": torch.tensor(self.steps), "weight": torch.tensor(self.weight, dtype=torch.float64)}
        return named("moved", self.names, self.moved) | named("square", self.names, self.squares) | numbers

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_named("moved", self.names, self.moved, state)
        load_named("square", self.names, self.squares, state)
        self.steps, self.weight = int(state["steps"]), float(state["weight"])
