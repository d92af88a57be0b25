"""Dropout (https://jmlr.org/papers/v15/srivastava14a.html) whose random numbers cost a CPU little."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDEST = torch.iinfo(torch.int64)
STEPS = 2**16  # values of the 16 random bits that decide on an element


class Dropout(nn.Module):
    """In training each element is 0 with the probability `share`, and else larger by as much as keeps the mean."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.share) if self.training else x


def dropout(x: Tensor, share: float) -> Tensor:
    """`x` with a `share` of its elements, from 0 to below 1, set to 0.

    On a CPU torch draws a number for each element, one after the other; here one of 64 bits does for four, so that
    `share` is rounded to 1 / 65,536.
    """
    zeros = round(share * STEPS)
    if x.device.type != "cpu" or not zeros or zeros == STEPS:
        return F.dropout(x, share)
    drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(WIDEST.min, None)
    kept = drawn.view(torch.int16)[: x.numel()].view(x.shape) >= zeros - STEPS // 2
    return x * (kept.to(x.dtype) * (STEPS / (STEPS - zeros)))
