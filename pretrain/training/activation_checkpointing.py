"""Activations that are not kept for the backward pass but computed again (https://arxiv.org/abs/1604.06174)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pretrain.errors import ConfigError
from pretrain.models.language_model import LanguageModel

Activations = Literal["none", "selective", "full"]

# Operators whose results are dear to compute again, and are kept by `selective`: products, and fused attention.
PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten._scaled_mm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def checkpoint_activations(model: LanguageModel, which: Activations) -> None:
    """Have the blocks of `model` keep less for the backward pass; gradients are the same.

    Args:
        which: full: a block keeps its input only, which costs a third more time; selective: it keeps the results of
            products as well, which cost most of that time (https://arxiv.org/abs/2205.05198); none: everything.
    Raises:
        ConfigError: the model has no blocks.
    """
    if which == "none":
        return
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ConfigError(
            f"trainer.activation_checkpointing={which} is for models with blocks; {type(model).__name__} has none: "
            "leave it out"
        )
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    more: dict[str, Any] = {"context_fn": contexts} if which == "selective" else {}
    for block in blocks:
        again: Callable[..., Any] = partial(checkpoint, block.forward, use_reentrant=False, **more)
        block.forward = again


def _policy(context: Any, operator: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE
