"""Activations that are computed again: the same gradients, for less memory."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.errors import ConfigError
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel
from pretrain.models.llama import Llama
from pretrain.models.mlp import MLP
from pretrain.training.activation_checkpointing import PRODUCTS, Activations, checkpoint_activations

V, T = 23, 80  # more keys than attention computes without a fused kernel
SIZES: dict[str, Any] = {"context_length": T, "n_layer": 2, "n_head": 2, "n_embd": 32}


def model(kind: str) -> LanguageModel:
    torch.manual_seed(0)
    if kind == "gpt":
        return GPT(V, **SIZES, dropout=0.1)
    more: dict[str, Any] = {"n_kv_head": 1, "n_hidden": 24, "rotary_base": 1e4, "tied": False, "n_active": 1}
    return Llama(V, **SIZES, **more, dropout=0.0, n_expert=2)


class Products(TorchDispatchMode):
    """Counts the products of matrices."""

    count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += operator in PRODUCTS
        return operator(*arguments, **(named or {}))


def learned(model: LanguageModel) -> tuple[dict[str, Tensor], int, int]:
    """Gradients, the bytes that autograd kept, and the products of matrices in the backward pass."""
    numbers = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, V, (4, T), generator=numbers)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        nats, _ = model.token_losses(tokens, tokens.roll(-1, 1))
    with Products() as products:
        nats.mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return gradients, sum(kept.values()), products.count


@pytest.mark.parametrize("kind", ["gpt", "llama"])
@pytest.mark.parametrize("which", ["selective", "full"])
def test_the_gradient_is_the_same_and_less_is_kept(which: Activations, kind: str) -> None:
    expected, whole, products = learned(model(kind))
    lean = model(kind)
    checkpoint_activations(lean, which)
    found, kept, products_again = learned(lean)
    assert found.keys() == expected.keys()
    assert all(torch.equal(gradient, found[name]) for name, gradient in expected.items())
    assert kept < whole / 2
    assert (products_again > products) == (which == "full")


def test_a_model_without_blocks_is_refused() -> None:
    other = MLP(V, context_length=4, n_embd=4, n_hidden=4, activation="tanh")
    with pytest.raises(ConfigError, match="activation_checkpointing=full is for models with blocks; MLP has none"):
        checkpoint_activations(other, "full")
