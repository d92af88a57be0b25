"""One layer of attention and nothing else: its equation."""

import math

import pytest
import torch

from pretrain.errors import ConfigError
from pretrain.models.attention import Attention

V, WIDTH = 11, 8


def build(*, n_head: int = 2, scaled: bool = True) -> Attention:
    torch.manual_seed(0)
    return Attention(V, context_length=6, n_head=n_head, n_embd=WIDTH, scaled=scaled)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("n_head", [1, 2])
def test_logits_are_those_of_the_equation(n_head: int, scaled: bool) -> None:
    """Head by head and token by token: softmax(q K^T / sqrt(d)) V of the tokens so far, then the output layer."""
    model = build(n_head=n_head, scaled=scaled)
    row = torch.tensor([3, 5, 3, 9])
    logits = model(row[None])[0]
    x = model.token_embedding.weight[row] + model.position_embedding.weight[:4]
    query, key, value = (x @ model.query_key_value.weight.T + model.query_key_value.bias).split(WIDTH, dim=1)
    width = WIDTH // n_head
    for place in range(4):
        gathered = []
        for head in range(n_head):
            of_head = slice(head * width, (head + 1) * width)
            scores = key[: place + 1, of_head] @ query[place, of_head] / (math.sqrt(width) if scaled else 1)
            gathered.append(scores.softmax(0) @ value[: place + 1, of_head])
        assert torch.allclose(logits[place], model.output.weight @ torch.cat(gathered), atol=1e-5)


def test_there_is_nothing_else_in_it() -> None:
    embeddings, attention = (V + 6) * WIDTH, WIDTH * 3 * WIDTH + 3 * WIDTH
    assert build().parameter_count() == embeddings + attention + V * WIDTH


def test_rows_may_be_empty_or_one_token_and_too_long_ones_are_refused() -> None:
    model = build()
    assert model(torch.zeros(3, 0, dtype=torch.long)).shape == (3, 0, V)
    assert model(torch.tensor([[4]])).shape == (1, 1, V)
    with pytest.raises(ConfigError, match=r"try trainer\.sequence_length=6"):
        model(torch.zeros(1, 7, dtype=torch.long))
