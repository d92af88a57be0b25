"""Root mean square normalisation without parameters (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # added to the mean square, so that zeros stay zeros


class RMSNorm(nn.Module):
    """The last dimension of a tensor (..., C) scaled to a root mean square of 1."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.rms_norm(x, (x.shape[-1],), eps=EPS)
        normed: Tensor = _RMSNorm.apply(x)  # type: ignore[no-untyped-call]  # torch's own is untyped
        return normed


class _RMSNorm(torch.autograd.Function):
    """On CPUs torch's own is made of many small operations; forward and backward take it several times as long."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = size.square_().div_(x.shape[-1]).add_(EPS).rsqrt_()
        normed: Tensor = x * scale
        context.save_for_backward(normed, scale)
        return normed

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        normed, scale = context.saved_tensors
        along = (gradients[0] * normed).mean(dim=-1, keepdim=True)
        return torch.addcmul(gradients[0], normed, along, value=-1).mul_(scale)
