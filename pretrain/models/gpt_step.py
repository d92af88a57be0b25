"""GPT's next token by bare functions, for a step of one token would spend half its time on calling modules.

It computes what gpt.py does, for GPT-2's own architecture where nothing is dropped and all rows end at the same place.

Shapes: B rows, C width, H heads, D width of a head, L layers, R room for tokens, V ids, S tokens so far.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.models.language_model import State


@dataclass(frozen=True)
class Weights:
    """The parameters, without the modules around them.

    Attributes:
        layers: of each block weight and bias of: norm, queries keys and values, output, norm, input, output.
    """

    tokens: Tensor
    positions: Tensor
    layers: list[tuple[Tensor, ...]]
    norm: tuple[Tensor, Tensor]


def weights_of(tokens: nn.Embedding, positions: nn.Embedding, blocks: nn.ModuleList, norm: nn.LayerNorm) -> Weights:
    """Collected once for many steps, for that takes time too."""
    return Weights(tokens.weight, positions.weight, [tuple(block.parameters()) for block in blocks], _pair(norm))


def one_token(weights: Weights, tokens: Tensor, state: State, n_head: int) -> tuple[Tensor, State] | None:
    """The logits (B, V) after `tokens` (B, 1), and the state, which is used up: its tensors are written to.

    None where rows end at different places, or the state has no room for them.
    """
    keys, values = state["keys"], state["values"]  # (B, L, H, R, D)
    ends = state["lengths"].tolist()
    end = ends[0]
    rows, width = len(tokens), weights.tokens.shape[1]
    if end >= keys.shape[3] or end >= len(weights.positions) or ends.count(end) != rows:
        return None
    state["tokens"].narrow(1, end, 1).copy_(tokens)
    known = [cache.narrow(3, 0, end + 1).unbind(1) for cache in (keys, values)]
    new = [cache.narrow(3, end, 1).unbind(1) for cache in (keys, values)]
    x = F.embedding(tokens.view(-1), weights.tokens) + weights.positions[end]  # (B, C)
    shape, heads = (width,), (rows, 3, n_head, 1, width // n_head)
    for layer, key, value, new_key, new_value in zip(weights.layers, *known, *new, strict=True):
        norm, norm_bias, joint, joint_bias, output, output_bias, *feed_forward = layer
        parts = F.linear(torch.layer_norm(x, shape, norm, norm_bias), joint, joint_bias).view(heads)
        query, own_key, own_value = parts.unbind(1)  # (B, H, 1, D)
        new_key.copy_(own_key)
        new_value.copy_(own_value)
        attended = F.scaled_dot_product_attention(query, key, value).view(rows, width)
        x = x + F.linear(attended, output, output_bias)
        norm, norm_bias, wide, wide_bias, narrow, narrow_bias = feed_forward
        hidden = F.linear(torch.layer_norm(x, shape, norm, norm_bias), wide, wide_bias)
        x = x + F.linear(F.gelu(hidden, approximate="tanh"), narrow, narrow_bias)
    x = torch.layer_norm(x, shape, *weights.norm)
    grown = {**state, "lengths": state["lengths"] + 1, "outputs": x[:, None]}
    return x @ weights.tokens.T, grown


def _pair(norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return norm.weight, norm.bias
