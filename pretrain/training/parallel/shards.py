"""Fully sharded data parallelism: parameters, gradients and optimizer state are spread over the ranks.

PyTorch's FSDP2 (https://arxiv.org/abs/2304.11277): a block's parameters are gathered before it computes and let go
behind it, and its gradients are summed and scattered as the backward pass leaves it.
"""

import warnings
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Annotated, Any

import torch
import torch.distributed as dist
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from pretrain.errors import ConfigError
from pretrain.models.language_model import LanguageModel
from pretrain.training.parallel.pieces import Piece, Share
from pretrain.training.parallel.processes import Processes

METHODS = ("token_losses", "document_losses", "next_logits")  # besides forward, what computes with the parameters


class FSDP(Processes):
    """Every rank has a part of each parameter, and a part of each batch.

    Args:
        timeout_seconds: that an exchange between ranks may take.
        shards: ranks that share one copy of the model; there are as many copies as that goes into the number of ranks
            (HSDP). None: all ranks share one.
    """

    sums_at_once = True

    def __init__(
        self, *, timeout_seconds: Annotated[float, Gt(0)], shards: Annotated[int, Ge(1)] | None = None
    ) -> None:
        super().__init__(timeout_seconds)
        self.shards = shards

    def prepare(self, model: LanguageModel, dtype: torch.dtype) -> None:
        shards = self.shards or self.ranks
        if self.ranks % shards:
            raise ConfigError(
                f"parallel.shards={shards} does not divide the {self.ranks} processes; "
                f"try {max(n for n in range(1, shards) if not self.ranks % n)}"
            )
        device = next(model.parameters()).device
        mesh = self._grid(device, shards, ("copies", "shards"))
        self._shards = mesh["shards"].get_group()
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        over: Any = {"mesh": mesh if shards < self.ranks else mesh["shards"], "mp_policy": policy}
        for block in getattr(model, "blocks", ()):
            fully_shard(block, **over)
        fully_shard(model, **over)
        # The losses are a view of those of all tokens in a row; nothing is written to them.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        for name in METHODS:
            register_fsdp_forward_method(model, name)
            setattr(model, name, _let_go(model, getattr(model, name)))
        for module in model.modules():
            if isinstance(module, FSDPModule):  # the loss is divided by the targets of all ranks already
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        copy, part = divmod(self.rank, shards)
        pieces = {name: _rows_of(parameter, part, shards) for name, parameter in model.named_parameters()}
        self.share = Share(part, shards, pieces, writes=copy == 0)

    def working(self, model: LanguageModel, dtype: torch.dtype) -> LanguageModel:
        return model

    def parameters(self, model: LanguageModel) -> dict[str, Tensor]:
        return {name: _local(parameter.detach()) for name, parameter in model.named_parameters()}

    def weights(self, model: LanguageModel) -> dict[str, Tensor]:
        return {name: _local(tensor) for name, tensor in model.state_dict().items()}

    def gradients(self, weights: Iterable[nn.Parameter]) -> list[Tensor]:
        return [_local(gradient) for gradient in super().gradients(weights)]

    def reduce(self, gradients: list[Tensor]) -> None:
        """Done already, in the backward pass."""

    def norm(self, gradients: list[Tensor]) -> Tensor:
        squares = super().norm(gradients).square()
        dist.all_reduce(squares, group=self._shards)
        return squares.sqrt()


def _let_go(model: LanguageModel, method: Callable[..., Any]) -> Callable[..., Any]:
    """`method`, behind which what was gathered without gradients is let go.

    It would stay for the next step, whose gradients would be lost, and it must be no tensor of inference mode.
    """

    @wraps(method)
    def call(*arguments: Any) -> Any:
        if torch.is_grad_enabled():
            return method(*arguments)
        with torch.inference_mode(False), torch.no_grad():
            found = method(*arguments)
            assert isinstance(model, FSDPModule)
            model.reshard()
        return found

    return call


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _rows_of(parameter: Tensor, part: int, parts: int) -> Piece:
    """The rows of dimension 0 that fully_shard gives to a part: as torch.chunk has it."""
    rows = len(parameter)
    each = -(-rows // parts)
    return Piece(tuple(parameter.shape), 0, ((min(part * each, rows), min((part + 1) * each, rows)),))
