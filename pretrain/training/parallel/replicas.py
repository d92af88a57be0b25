"""Data parallelism: each rank has the whole model and a part of every batch (https://arxiv.org/abs/2006.15704)."""

from collections.abc import Iterator
from typing import Annotated

import torch
import torch.distributed as dist
from annotated_types import Gt
from torch import Tensor

from pretrain.training.parallel.processes import Processes

TOGETHER = 2**23  # numbers that are summed in one exchange


class DDP(Processes):
    """The ranks sum their gradients once a step, after the last micro-batch.

    Args:
        timeout_seconds: that an exchange between ranks may take.
    """

    def __init__(self, *, timeout_seconds: Annotated[float, Gt(0)]) -> None:
        super().__init__(timeout_seconds)

    def reduce(self, gradients: list[Tensor]) -> None:
        for bucket in _buckets(gradients):
            joined = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(joined)
            parts = torch.split(joined, [gradient.numel() for gradient in bucket])
            torch._foreach_copy_(bucket, [part.view_as(to) for part, to in zip(parts, bucket, strict=True)])


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, as many at a time as hold TOGETHER numbers at least."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(other.numel() for other in bucket) >= TOGETHER:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
