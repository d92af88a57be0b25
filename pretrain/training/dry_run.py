"""One step of a sharded training, without the ranks: PyTorch's fake process group and tensors without values.

Everything is done that one rank of so many would do, but nothing is computed or sent: whether a layout works is seen on
one CPU, and what the rank holds and exchanges is counted.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.errors import ConfigError
from pretrain.models.language_model import LanguageModel
from pretrain.training.planning import Layout

MOST_TOKENS = 128  # what is exchanged does not depend on them
# PyTorch's name of each exchange, ours, and which of its arguments holds what comes or goes in whole.
EXCHANGES = {
    "_allgather_base_": ("all_gather", 0),
    "_reduce_scatter_base_": ("reduce_scatter", 1),
    "allreduce_": ("all_reduce", 0),
}


def dry_run(make_model: Callable[[], LanguageModel], layout: Layout, dtype: torch.dtype) -> dict[str, Any]:
    """A JSON document {parameters, gradients, exchanges} of the first rank: what it keeps, and what it exchanges.

    FSDP2 (https://arxiv.org/abs/2304.11277) shards each block and the rest of the model; replicas are HSDP's.

    Args:
        dtype: of the products, which weights are gathered in; gradients are reduced in fp32.

    Raises:
        ConfigError: the layout has tensor-parallel ranks, or what the model computes depends on its values.
    """
    if layout.tensor > 1:
        raise ConfigError("plan.dry_run=true runs parallel=fsdp and hsdp; leave it out, or choose one of them")
    dist.init_process_group("fake", rank=0, world_size=layout.ranks, store=FakeStore())
    try:
        with warnings.catch_warnings():
            # The losses are a view of those of all tokens in a row; nothing is written to them.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
            return _run(make_model, _mesh(layout), dtype)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ConfigError("what this model computes depends on its tokens: leave plan.dry_run=true out") from error
    finally:
        dist.destroy_process_group()


def _run(make_model: Callable[[], LanguageModel], mesh: DeviceMesh, dtype: torch.dtype) -> dict[str, Any]:
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    with FakeTensorMode():
        model = make_model()
        for block in getattr(model, "blocks", ()):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        register_fsdp_forward_method(model, "token_losses")
        tokens = torch.zeros(1, min(MOST_TOKENS, model.context_length or MOST_TOKENS), dtype=torch.int64)
        with _Exchanged() as exchanged:
            nats, _ = model.token_losses(tokens, tokens)
            nats.mean().backward()  # type: ignore[no-untyped-call]  # torch's own is untyped
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return {
            "parameters": sum(_kept(parameter) for parameter in model.parameters()),
            "gradients": sum(map(_kept, gradients)),
            "exchanges": {
                name: {"times": times, "bytes": exchanged.bytes[name]} for name, times in exchanged.times.items()
            },
        }


class _Exchanged(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Counts exchanges between ranks, and the bytes of what is exchanged in whole."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.times: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        called = function.overloadpacket.__name__
        if function.namespace == "c10d" and called in EXCHANGES:
            name, place = EXCHANGES[called]
            self.times[name] += 1
            whole = args[place]
            tensors: list[Tensor] = [whole] if isinstance(whole, Tensor) else list(whole)
            self.bytes[name] += sum(tensor.nbytes for tensor in tensors)
        return function(*args, **(kwargs or {}))


def _mesh(layout: Layout) -> DeviceMesh:
    """Replicas and shards; of one replica, only the shards."""
    mesh = init_device_mesh("cpu", (layout.replicas, layout.shards), mesh_dim_names=("replicas", "shards"))
    return mesh if layout.replicas > 1 else mesh["shards"]


def _kept(tensor: Tensor | nn.Parameter) -> int:
    """Numbers of the part that this rank has."""
    return tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel()
