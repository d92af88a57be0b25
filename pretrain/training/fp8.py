"""Linear layers whose products are in fp8 (https://arxiv.org/abs/2209.05433), which GPUs do at twice the speed of bf16.

Activations and weights are rounded to e4m3, which has a bit of precision more, and gradients to e5m2, which has the
wider range. Each tensor is scaled by its largest magnitude at that moment, so that nothing is kept from step to step.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.models.language_model import LanguageModel

PRECISE, WIDE = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # of the sizes that the kernels take
SMALLEST = 1e-12  # magnitude that a tensor is scaled by


def learn_in_fp8(model: LanguageModel) -> None:
    """Have the linear layers in the blocks of `model` multiply in fp8 while it trains; names and values stay.

    Layers whose widths are no multiples of 16 stay as they are, and so do embeddings, norms, attention, the output and
    experts. In evaluation all products are in the type of the parameters.

    Raises:
        ConfigError: no layer would.
    """
    linear = [part for block in getattr(model, "blocks", ()) for part in block.modules() if type(part) is nn.Linear]
    fitting = [part for part in linear if part.in_features % MULTIPLE == part.out_features % MULTIPLE == 0]
    if not fitting:
        raise ConfigError(
            f"precision=fp8 is for blocks with linear layers whose widths are multiples of {MULTIPLE}; "
            f"{type(model).__name__} has none: try precision=bf16"
        )
    for part in fitting:
        part.__class__ = _Linear


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        product: Tensor = _Product.apply(x.flatten(0, -2), self.weight)  # type: ignore[no-untyped-call]  # torch's own is untyped
        found = product.view(*x.shape[:-1], self.out_features)
        return found if self.bias is None else found + self.bias


class _Product(torch.autograd.Function):
    """x (N, C) times weight (D, C), transposed."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return _multiplied(x, weight, PRECISE)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = context.saved_tensors
        of_product = gradients[0]  # (N, D)
        of_x = _multiplied(of_product, weight.T, WIDE)
        more = -len(x) % MULTIPLE  # tokens of zeros: they are summed over, and their number must fit as well
        of_product, x = (F.pad(part, (0, 0, 0, more)) for part in (of_product, x))
        return of_x, _multiplied(of_product.T, x.T, WIDE)


def _multiplied(left: Tensor, right: Tensor, kind: torch.dtype) -> Tensor:
    """left (N, K) @ right (M, K).T in the type of `left`, which is rounded to `kind`, and `right` to e4m3."""
    (a, scale_a), (b, scale_b) = _rounded(left, kind), _rounded(right, PRECISE)
    # Sums of gradients are kept in fp32 throughout, those of the forward pass may be summed faster.
    return torch._scaled_mm(
        a, b.T, scale_a=scale_a, scale_b=scale_b, out_dtype=left.dtype, use_fast_accum=kind == PRECISE
    )


def _rounded(tensor: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """`tensor` divided by a scale and rounded, with its rows one after the other in memory, and the scale in fp32."""
    scale = tensor.abs().amax().float().clamp(min=SMALLEST) / torch.finfo(kind).max
    return (tensor / scale).to(kind).contiguous(), scale
