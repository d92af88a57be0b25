"""Dynamic loss scaling: what keeps the small gradients of fp16 from becoming zero (https://arxiv.org/abs/1710.03740)."""

import torch
from torch import Tensor

# torch.amp.GradScaler's constants, but for the floor, at which nothing is scaled any more.
INITIAL, GROWTH, BACKOFF, GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000
FLOOR = 1.0


class LossScale:
    """What the loss is multiplied with before the backward pass, and the gradients are divided by behind it.

    A gradient that is not finite, under a finite loss, is taken for one that was scaled too much: the scale halves, and
    after GROWTH_INTERVAL steps without one it doubles. It is a power of two, so that scaling itself rounds nothing, and
    the same on all ranks, as the gradient's norm is. It is a part of the run's state.

    Args:
        dtype: of the products; all but fp16 have fp32's exponents, and are not scaled.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dynamic = dtype == torch.float16
        self.scale = INITIAL if self.dynamic else 1.0
        self.steps = 0  # since it changed

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide `gradients` in place."""
        if self.dynamic:
            torch._foreach_mul_(gradients, 1 / self.scale)

    def overflowed(self) -> bool:
        """A gradient was not finite: scale less from now on. False where that was not the scale's fault."""
        if not self.dynamic or self.scale <= FLOOR:
            return False
        self.scale, self.steps = self.scale * BACKOFF, 0
        return True

    def held(self) -> None:
        """All gradients of a step were finite."""
        self.steps += 1
        if self.dynamic and self.steps == GROWTH_INTERVAL:
            self.scale, self.steps = self.scale * GROWTH, 0

    def state(self) -> dict[str, Tensor]:
        own = {"loss_scale.scale": torch.tensor(self.scale), "loss_scale.steps": torch.tensor(self.steps)}
        return own if self.dynamic else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if self.dynamic:
            self.scale, self.steps = float(state["loss_scale.scale"]), int(state["loss_scale.steps"])
