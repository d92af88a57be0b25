"""What an optimizer is. Its state is plain tensors with names."""

from typing import Protocol

from torch import Tensor


class Optimizer(Protocol):
    """Attributes:
    lr: the schedule's peak. It means AdamW's: where another optimizer's steps are of another size, it scales them,
        so that one rate fits all of them about as well.
    """

    lr: float

    def step(self, gradients: list[Tensor], lr: float) -> None:
        """Move the parameters, whose order is that of `gradients`."""
        ...

    def points(self) -> list[Tensor] | None:
        """Where the next gradient is to be taken, in the parameters' order; None: at the parameters themselves.

        It is elsewhere where the parameters are an average of weights. The parameters are what is evaluated and saved.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that a later step depends on besides the parameters."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned; the parameters are already those of that time."""
        ...


def named(kind: str, names: list[str], tensors: list[Tensor]) -> dict[str, Tensor]:
    """The state's `tensors` of one kind, under the parameters' names."""
    return {f"{kind}.{name}": tensor for name, tensor in zip(names, tensors, strict=True)}


def load_named(kind: str, names: list[str], tensors: list[Tensor], state: dict[str, Tensor]) -> None:
    """Bring `tensors` to what `named` had of them."""
    for name, tensor in zip(names, tensors, strict=True):
        tensor.copy_(state[f"{kind}.{name}"])
