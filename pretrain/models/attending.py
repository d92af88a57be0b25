"""softmax(Q K^T / sqrt(D)) V by the fastest correct path for the device and the shape (https://arxiv.org/abs/1706.03762).

Shapes: B rows, T queries, S >= T keys, H heads of queries, G heads of keys and values (G divides H), D width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.models.dropout import dropout

# In 16 bits on a CPU the fused kernel's backward takes 1.5 to 5 times as long as products written out, up to more keys
# than this, but those keep all weights. In fp32 the kernel is the faster one, but for dropout, which it has none of.
EXPLICIT_UP_TO = 256


class Attend(nn.Module):
    """Attention without parameters. It is a module so that a forward hook can see every attention of every model.

    Args:
        dropout: share of the weights dropped in training.
        scale: of the products of queries and keys; None: 1 / sqrt(D).
        causal: whether a query without a mask sees no key behind its own position, else it sees all.
    """

    def __init__(self, *, dropout: float = 0.0, scale: float | None = None, causal: bool = True) -> None:
        super().__init__()
        self.dropout = dropout
        self.scale = scale
        self.causal = causal

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, H, T, D): for each query the mean of the values, weighted by how well their keys fit.

        Args:
            query: (B, H, T, D), the last T positions of the keys'.
            key, value: (B, G, S, D); each head of them serves H / G heads of queries.
            mask: (B or 1, H or 1, T, S), bool: whether a query may see a key; float: added to the scores, -inf for
                keys that it may not see. None: as `causal` says.
        """
        share = self.dropout if self.training else 0.0
        faster = query.device.type == "cpu" and (query.dtype != torch.float32 or share > 0) and torch.is_grad_enabled()
        if faster and key.shape[2] <= EXPLICIT_UP_TO:
            weights = dropout(self.weights(query, key, mask), share)  # (B, H, T, S)
            return weights @ _for_each_head(value, query.shape[1])
        length, total = query.shape[2], key.shape[2]
        plain = mask is None and self.causal and length == total
        if mask is None and self.causal and 1 < length < total:
            mask = causal_mask(length, total, query.device)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=share,
            is_causal=plain,
            scale=self.scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, H, T, S): how much of each key's value a query takes, before dropout; each row sums to 1."""
        scale = query.shape[3] ** -0.5 if self.scale is None else self.scale
        scores = (query * scale) @ _for_each_head(key, query.shape[1]).transpose(2, 3)
        length, total = scores.shape[2:]
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        elif self.causal and length > 1:
            # Added, for filling takes a fourth longer, forward and backward.
            scores = scores + scores.new_full((length, total), -torch.inf).triu(total - length + 1)
        return scores.softmax(dim=3)


def causal_mask(length: int, total: int, device: torch.device) -> Tensor:
    """(T, S) bool: whether query t, the (S - T + t)-th position, may see key s."""
    return torch.ones(length, total, dtype=torch.bool, device=device).tril(total - length)


def document_mask(documents: Tensor) -> Tensor:
    """(B, 1, T, T) bool: whether query and key belong to the same of `documents` (B, T), and the key is not behind."""
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & causal_mask(documents.shape[1], documents.shape[1], documents.device)


def _for_each_head(tensor: Tensor, heads: int) -> Tensor:
    """(B, G, S, D) to (B, H, S, D)."""
    groups = tensor.shape[1]
    return tensor if groups == heads else tensor.repeat_interleave(heads // groups, dim=1)
