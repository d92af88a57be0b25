"""A linear layer and GELU (https://arxiv.org/abs/1606.08415), by one kernel where there is one for both."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear_gelu(linear: nn.Linear, x: Tensor) -> Tensor:
    """(..., in) to (..., out): GELU, by its tanh, of what `linear` makes of `x`."""
    if _one_kernel(linear, x):
        joined: Tensor = torch.ops.mkldnn._linear_pointwise(x, linear.weight, linear.bias, "gelu", [], "tanh")
        return joined
    return F.gelu(linear(x), approximate="tanh")


def _one_kernel(linear: nn.Linear, x: Tensor) -> bool:
    """Whether oneDNN does both at once: in bf16 on a CPU that has it, where no gradient is wanted.

    The operator is the one that torch.compile puts into graphs for a CPU; torch has no public name for it.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and not torch.is_grad_enabled()
        and type(linear) is nn.Linear
        and type(linear.weight) is nn.Parameter
        and torch._C._has_mkldnn
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
