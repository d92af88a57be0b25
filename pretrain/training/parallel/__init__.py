"""Training on one process or many: what is shared among them, and how. One file for each way."""

from pretrain.training.parallel.single import Parallel, Single

__all__ = ["Parallel", "Single"]
