"""AdamW."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from pretrain.training.optimizers.optimizer import load_named, named


class AdamW:
    """Adam with decoupled weight decay (https://arxiv.org/abs/1711.05101), on matrices only.

    torch.optim's own costs a second of start-up, for it imports the compiler; the kernel it would call is called here.
    Each parameter is moved by itself, so that its bits do not depend on what others there are.

    Args:
        parameters: by name, contiguous; they are changed in place.
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
        self.lr = lr
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0
        matrices = [place for place, parameter in enumerate(self.parameters) if parameter.dim() >= 2]
        others = [place for place, parameter in enumerate(self.parameters) if parameter.dim() < 2]
        self._groups = [(places, decay) for places, decay in ((matrices, weight_decay), (others, 0.0)) if places]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        self.steps += 1
        for places, decay in self._groups:
            parameters = [self.parameters[place] for place in places]
            torch._fused_adamw_(
                parameters,
                [gradients[place].contiguous() for place in places],  # the kernel reads memory as it lies
                [self.means[place] for place in places],
                [self.squares[place] for place in places],
                [],  # maxima, of AMSGrad
                [torch.full((), float(self.steps), device=parameters[0].device)] * len(places),  # no copy that waits
                lr=lr,
                beta1=self.beta1,
                beta2=self.beta2,
                weight_decay=decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )

    def points(self) -> None:
        return None

    def state(self) -> dict[str, Tensor]:
        steps = {"steps": torch.tensor(self.steps)}
        return named("mean", self.names, self.means) | named("square", self.names, self.squares) | steps

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_named("mean", self.names, self.means, state)
        load_named("square", self.names, self.squares, state)
        self.steps = int(state["steps"])
