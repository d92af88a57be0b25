"""Lion."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from pretrain.training.optimizers.optimizer import load_named, named


class Lion:
    """Moves every weight by the same amount, in the direction of a mean gradient's sign (https://arxiv.org/abs/2302.06675).

    It holds one tensor a parameter where AdamW holds two.

    Args:
        parameters: by name; they are changed in place.
        lr: the schedule's peak.
        beta1: weight of the mean gradient against the newest one, in the direction of a step.
        beta2: decay of the mean gradient, per step.
        scale: of a step, in learning rates. The paper's is 1, with a rate three to ten times lower than AdamW's, and a
            weight decay as much higher; with a scale of 1/3 to 1/10, AdamW's rate and decay do as well.
        weight_decay: share, times the learning rate, that a matrix loses per step.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        *,
        lr: Annotated[float, Gt(0)],
        beta1: Annotated[float, Interval(ge=0, lt=1)],
        beta2: Annotated[float, Interval(ge=0, lt=1)],
        scale: Annotated[float, Gt(0)],
        weight_decay: Annotated[float, Ge(0)],
    ) -> None:
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.matrices = [parameter for parameter in self.parameters if parameter.dim() >= 2]
        self.lr = lr
        self.beta1, self.beta2, self.scale, self.weight_decay = beta1, beta2, scale, weight_decay
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        if not self.parameters:
            return
        if self.matrices:
            torch._foreach_mul_(self.matrices, 1 - lr * self.weight_decay)
        directions = torch._foreach_lerp(self.means, gradients, 1 - self.beta1)
        torch._foreach_sign_(directions)
        torch._foreach_add_(self.parameters, directions, alpha=-lr * self.scale)
        torch._foreach_lerp_(self.means, gradients, 1 - self.beta2)

    def points(self) -> None:
        return None

    def state(self) -> dict[str, Tensor]:
        return named("mean", self.names, self.means)

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_named("mean", self.names, self.means, state)
