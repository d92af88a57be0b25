"""Muon for the matrices of hidden layers, AdamW for the rest."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from pretrain.training.optimizers.adamw import AdamW
from pretrain.training.optimizers.optimizer import load_named, named
from pretrain.training.precision import DTYPES, chosen_precision

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Keller Jordan's: the steepest at 0 that stay near 1 in five iterations
ITERATIONS = 5
LIKE_ADAMW = 0.2  # root mean square of a step in learning rates, Moonlight's measure of AdamW's
AT_ONCE = 2**24  # numbers of a stack that is orthogonalised together, which bounds the memory for it


class Muon:
    """Steps with all singular values near 1 (https://kellerjordan.github.io/posts/muon/), scaled to be of AdamW's size.

    A matrix's step is 0.2 sqrt(max(rows, columns)) times an orthogonal matrix, after Moonlight
    (https://arxiv.org/abs/2502.16982), so that its root mean square is AdamW's whatever its shape, and AdamW's rate and
    decay fit both kinds of parameters.

    Muon's are the parameters of two dimensions, and the stacks of matrices of three dimensions such as those of
    experts, each matrix by itself; but not those whose name holds `embedding`, the head (`output.weight` of the model
    itself), or those that `exclude` names. All others, vectors too, are AdamW's. A fused query_key_value.weight of
    (3 C, C) counts as the three matrices it is made of, which Jordan found better; other fused ones, such as those of
    grouped queries, gates, or an LSTM, count as one.

    Args:
        parameters: by name, contiguous; they are changed in place.
        lr: the schedule's peak.
        momentum: decay of the mean gradient of Muon's, per step; it is looked ahead as Nesterov's.
        exclude: pieces of names of parameters that are left to AdamW.
        beta1, beta2, eps: of AdamW.
        weight_decay: share, times the learning rate, that a matrix loses per step.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        *,
        lr: Annotated[float, Gt(0)],
        momentum: Annotated[float, Interval(ge=0, lt=1)],
        exclude: list[str],
        beta1: Annotated[float, Interval(ge=0, lt=1)],
        beta2: Annotated[float, Interval(ge=0, lt=1)],
        eps: Annotated[float, Gt(0)],
        weight_decay: Annotated[float, Ge(0)],
    ) -> None:
        self.lr = lr
        self.momentum, self.weight_decay = momentum, weight_decay
        mine = [is_hidden_matrix(name, parameter, exclude) for name, parameter in parameters.items()]
        self._mine = [place for place, is_mine in enumerate(mine) if is_mine]
        self._others = [place for place, is_mine in enumerate(mine) if not is_mine]
        names, tensors = list(parameters), list(parameters.values())
        self.names = [names[place] for place in self._mine]
        self.parameters = [tensors[place] for place in self._mine]
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.adamw = AdamW(
            {names[place]: tensors[place] for place in self._others},
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
        )
        self._stacks = _stacks(self.names, self.parameters)

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        self.adamw.step([gradients[place] for place in self._others], lr)
        if not self.parameters:
            return
        own = [gradients[place].contiguous() for place in self._mine]
        torch._foreach_lerp_(self.means, own, 1 - self.momentum)
        ahead = torch._foreach_lerp(own, self.means, self.momentum)
        torch._foreach_mul_(self.parameters, 1 - lr * self.weight_decay)
        dtype = DTYPES[chosen_precision("auto", self.parameters[0].device)]
        for stack in self._stacks:
            matrices = [stack.laid(ahead[place], place) for place in stack.places]
            orthogonal = orthogonalised(torch.cat(matrices).to(dtype))
            scale = LIKE_ADAMW * math.sqrt(orthogonal.shape[2])
            pieces = torch.split(orthogonal, [len(matrix) for matrix in matrices])
            moved = [stack.laid(self.parameters[place], place) for place in stack.places]
            torch._foreach_add_(moved, [piece.float() for piece in pieces], alpha=-lr * scale)

    def points(self) -> None:
        return None

    def state(self) -> dict[str, Tensor]:
        return named("momentum", self.names, self.means) | self.adamw.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_named("momentum", self.names, self.means, state)
        self.adamw.load_state(state)


def is_hidden_matrix(name: str, parameter: Tensor, exclude: list[str]) -> bool:
    """Whether a parameter is a matrix, or a stack of them, of a hidden layer, as Muon's docstring has it."""
    outside = "embedding" in name or name == "output.weight"
    return parameter.dim() in (2, 3) and not outside and not any(piece in name for piece in exclude)


def orthogonalised(matrices: Tensor) -> Tensor:
    """The orthogonal matrix next to each, roughly: singular values come to lie between 0.7 and 1.2.

    By Newton-Schulz iterations, which need nothing but products and do well in bf16.

    Args:
        matrices: (N, R, C) with R <= C.
    """
    a, b, c = COEFFICIENTS
    # By the Frobenius norm, so that no singular value is above 1.
    x: Tensor = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (N, R, R)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


@dataclass(frozen=True)
class _Stack:
    """Matrices of one shape, wide ones and tall ones together, that are orthogonalised in one go.

    Attributes:
        places: of their parameters.
        shapes: of each parameter, what it is seen as: (n, rows, columns).
    """

    places: list[int]
    shapes: dict[int, tuple[int, int, int]]

    def laid(self, tensor: Tensor, place: int) -> Tensor:
        """`tensor`, of the shape of parameter `place`, as a view of n wide matrices."""
        matrices = tensor.view(self.shapes[place])
        return matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices


def _stacks(names: list[str], parameters: list[Tensor]) -> list[_Stack]:
    stacks: dict[tuple[int, int], list[_Stack]] = {}
    for place, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        rows, columns = parameter.shape[-2:]
        if name.endswith("query_key_value.weight") and rows == 3 * columns:
            rows = columns
        shape = (parameter.numel() // (rows * columns), rows, columns)
        alike = stacks.setdefault((min(rows, columns), max(rows, columns)), [])
        if not alike or sum(math.prod(other) for other in alike[-1].shapes.values()) + parameter.numel() > AT_ONCE:
            alike.append(_Stack([], {}))
        alike[-1].places.append(place)
        alike[-1].shapes[place] = shape
    return [stack for alike in stacks.values() for stack in alike]
