"""The multi-layer perceptron: its equation."""

from typing import Literal

import pytest
import torch

from pretrain.models.mlp import MLP

V = 7


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_logits_are_those_of_the_equation(activation: Literal["relu", "tanh"]) -> None:
    torch.manual_seed(0)
    model = MLP(V, context_length=2, n_embd=4, n_hidden=8, activation=activation)
    logits = model(torch.tensor([[3, 5]]))
    for place, (before, token) in enumerate([(V, 3), (3, 5)]):  # V stands before the row's start
        read = torch.cat([model.embedding.weight[before], model.embedding.weight[token]])
        hidden = model.hidden.weight @ read + model.hidden.bias
        hidden = hidden.clamp(min=0) if activation == "relu" else hidden.tanh()
        expected = model.output.weight @ hidden + model.output.bias
        assert torch.allclose(logits[0, place], expected, atol=1e-6)


def test_a_row_may_hold_no_token() -> None:
    assert MLP(V, context_length=2, n_embd=4, n_hidden=8)(torch.zeros(3, 0, dtype=torch.long)).shape == (3, 0, V)
