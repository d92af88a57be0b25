"""Tensor parallelism: the heads and hidden units of every block are spread over the ranks (https://arxiv.org/abs/1909.08053).

Each rank computes with its heads and hidden units on the same rows, and what attention and the feed-forward layer give
is summed over the ranks. Embeddings, norms and the head are on every rank. PyTorch's own styles are not used: they cut
a weight into stretches of equal length, and in a fused query_key_value these would not be heads.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.models.language_model import LanguageModel
from pretrain.training.parallel.pieces import Piece, Share
from pretrain.training.parallel.processes import Processes
from pretrain.training.parallel.single import norm

Sum = Callable[[Tensor], Tensor]  # over the ranks that share a copy of the model, in place


class TensorParallel(Processes):
    """As DDP, but that `size` ranks share each copy of the model, and read the same rows.

    Args:
        timeout_seconds: that an exchange between ranks may take.
        size: ranks that share one copy, a divisor of the heads; best those of one machine. None: all ranks.
    """

    def __init__(self, *, timeout_seconds: Annotated[float, Gt(0)], size: Annotated[int, Ge(1)] | None = None) -> None:
        super().__init__(timeout_seconds)
        self.size = size

    def _join(self, device: torch.device) -> None:
        super()._join(device)
        size = self.size or self.ranks
        if self.ranks % size:
            raise ConfigError(f"parallel.size={size} does not divide the {self.ranks} processes")
        mesh = self._grid(device, size, ("data", "tensor"))
        self._data_group, group = mesh["data"].get_group(), mesh["tensor"].get_group()
        self.data_ranks, self._parts = self.ranks // size, size
        self.data_rank, self._part = divmod(self.rank, size)

        def total(numbers: Tensor) -> Tensor:
            dist.all_reduce(numbers, group=group)
            return numbers

        self._total = total

    def prepare(self, model: LanguageModel, dtype: torch.dtype) -> None:
        pieces: dict[str, Piece] = {}
        for name, module in list(model.named_modules()):
            if name.endswith(".attention"):
                heads = list(module.heads) if hasattr(module, "heads") else [module.n_head] * 3
                self._refuse_uneven(min(heads), "heads")
                width = module.output.in_features // heads[0]
                self._cut(module, "query_key_value", name, [count * width for count in heads], pieces)
                if hasattr(module, "heads"):
                    module.heads = [count // self._parts for count in heads]
            elif name.endswith(".feed_forward"):
                hidden = module.output.in_features
                self._refuse_uneven(hidden, "hidden units")
                self._cut(module, "input", name, [hidden] * (module.input.out_features // hidden), pieces)
        self._is_cut = [name in pieces for name, _ in model.named_parameters()]
        self.share = Share(self._part, self._parts, pieces, writes=self.data_rank == 0)

    def parameter_count(self, model: LanguageModel) -> int:
        pieces = self.share.pieces
        return sum(
            math.prod(pieces[name].shape) if name in pieces else parameter.numel()
            for name, parameter in model.named_parameters()
        )

    def norm(self, gradients: list[Tensor]) -> Tensor:
        pairs = list(zip(gradients, self._is_cut, strict=True))
        cut = self._total(norm([gradient for gradient, is_cut in pairs if is_cut]).square())
        return (cut + norm([gradient for gradient, is_cut in pairs if not is_cut]).square()).sqrt()

    def _refuse_uneven(self, number: int, what: str) -> None:
        if number % self._parts:
            size = max(n for n in range(1, self._parts) if not number % n)
            raise ConfigError(f"{self._parts} processes cannot share {number} {what}; try parallel.size={size}")

    def _cut(self, module: Any, into: str, name: str, sections: list[int], pieces: dict[str, Piece]) -> None:
        """Leave to `module` its share of the outputs of its layer `into`, and of the inputs of its layer `output`.

        Args:
            sections: outputs of `into` that are shared one section after the other; `output` takes the first in.
        """
        spans, first = [], 0
        for section in sections:
            each = section // self._parts
            spans.append((first + self._part * each, first + (self._part + 1) * each))
            first += section
        linear, total = getattr(module, into), self._total
        for kind, parameter in list(linear.named_parameters()):
            piece = Piece(tuple(parameter.shape), 0, tuple(spans))
            setattr(linear, kind, nn.Parameter(piece.of(parameter.detach())))
            pieces[f"{name}.{into}.{kind}"] = piece
        linear.register_forward_pre_hook(lambda _, inputs: (_Spread.apply(inputs[0], total),))  # type: ignore[no-untyped-call]  # torch's own is untyped
        piece = Piece(tuple(module.output.weight.shape), 1, (spans[0],))
        module.output = _Joined(nn.Parameter(piece.of(module.output.weight.detach())), module.output.bias, total)
        pieces[f"{name}.output.weight"] = piece


class _Joined(nn.Module):
    """A linear layer of which each rank has a part of the inputs; the bias is added once."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, total: Sum) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.in_features = weight.shape[1]
        self.total = total

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = _Summed.apply(F.linear(x, self.weight), self.total)  # type: ignore[no-untyped-call]  # torch's own is untyped
        return joined if self.bias is None else joined + self.bias


class _Spread(torch.autograd.Function):
    """What every rank has goes into its part of the model; the gradients of all parts are summed."""

    @staticmethod
    def forward(context: Any, x: Tensor, total: Sum) -> Tensor:
        context.total = total
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.total(gradients[0].clone(memory_format=torch.contiguous_format)), None


class _Summed(torch.autograd.Function):
    """What the parts of the model give is summed; each has the whole gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor, total: Sum) -> Tensor:
        return total(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
