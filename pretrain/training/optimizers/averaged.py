"""A moving average of the weights that an optimizer moves."""

import torch
from torch import Tensor

from pretrain.training.optimizers.optimizer import Optimizer, load_named, named


class Averaged:
    """An optimizer whose parameters become an exponential moving average of the weights that it moves.

    The average is what is saved, evaluated and sampled; gradients are taken at the weights (Polyak & Juditsky 1992;
    Tarvainen & Valpola 2017, https://arxiv.org/abs/1703.01780). While few steps are done, it looks back on few: the
    decay is at most (1 + steps) / (10 + steps), as in TensorFlow's ExponentialMovingAverage.

    Args:
        optimizer: what moves the weights.
        parameters: by name, those that it was made with; they are the average from now on.
        decay: of the average, per step.
    """

    def __init__(self, optimizer: Optimizer, parameters: dict[str, Tensor], decay: float) -> None:
        self.optimizer = optimizer
        self.decay = decay
        self.lr = optimizer.lr
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.weights = [parameter.clone() for parameter in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        if not self.parameters:
            return
        self.steps += 1
        average = [parameter.clone() for parameter in self.parameters]
        torch._foreach_copy_(self.parameters, self.weights)
        self.optimizer.step(gradients, lr)
        torch._foreach_copy_(self.weights, self.parameters)
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(average, self.weights, 1 - decay)
        torch._foreach_copy_(self.parameters, average)

    def points(self) -> list[Tensor]:
        return self.weights

    def state(self) -> dict[str, Tensor]:
        own = named("weight", self.names, self.weights) | {"average_steps": torch.tensor(self.steps)}
        return self.optimizer.state() | own

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_named("weight", self.names, self.weights, state)
        self.steps = int(state["average_steps"])
        self.optimizer.load_state(state)
