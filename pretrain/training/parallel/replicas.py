"""Data parallelism: each rank has the whole model and a part of every batch (https://arxiv.org/abs/2006.15704)."""

from typing import Annotated

from annotated_types import Gt

from pretrain.training.parallel.processes import Processes


class DDP(Processes):
    """The ranks sum their gradients once a step, after the last micro-batch.

    Args:
        timeout_seconds: that an exchange between ranks may take.
    """

    def __init__(self, *, timeout_seconds: Annotated[float, Gt(0)]) -> None:
        super().__init__(timeout_seconds)
