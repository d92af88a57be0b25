"""Optimizers: from gradients to new parameters. One file each, and what they have in common in optimizer.py."""

from pretrain.training.optimizers.adamw import AdamW
from pretrain.training.optimizers.optimizer import Optimizer

__all__ = ["AdamW", "Optimizer"]
