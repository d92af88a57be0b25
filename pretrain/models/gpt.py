"""GPT-2: a decoder-only Transformer with learned positions (Radford et al. 2019).

https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf

Shapes: B rows, T positions, C width, H heads, D = C / H width of a head, V ids, S tokens in the cache.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval, MultipleOf
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.models.language_model import LanguageModel, State, linear_cross_entropy, positions_in

# On CPUs, products written out beat the fused attention kernel up to about this many positions, backward above all.
EXPLICIT_ATTENTION_UP_TO = 256


class GPT(LanguageModel):
    """The model; its output layer shares the token embedding's weights (Press & Wolf 2017).

    Args:
        vocab_size: ids.
        context_length: tokens that it can see, one learned position each.
        n_layer: blocks.
        n_head: attention heads a block.
        n_embd: width, a multiple of n_head.
        dropout: share of activations dropped in training.
    """

    context_length: int

    def __init__(
        self,
        vocab_size: Annotated[int, Ge(1)],
        *,
        context_length: Annotated[int, Ge(1)],
        n_layer: Annotated[int, Ge(1)],
        n_head: Annotated[int, Ge(1)],
        n_embd: Annotated[int, Ge(1), MultipleOf("n_head")],
        dropout: Annotated[float, Interval(ge=0, lt=1)],
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(context_length, n_embd)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(n_embd, n_head, dropout) for _ in range(n_layer))
        self.norm = nn.LayerNorm(n_embd)
        self._initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        return self._hidden(tokens, None)[0] @ self.token_embedding.weight.T  # (B, T, V)

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, None]:
        hidden, _ = self._hidden(tokens, None)
        return linear_cross_entropy(hidden, self.token_embedding.weight, targets), None

    def document_losses(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Tensor:
        hidden, _ = self._hidden(tokens, None, documents)
        return linear_cross_entropy(hidden, self.token_embedding.weight, targets)

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As LanguageModel.next_logits, for rows of one length; the state holds the keys and values of each layer.

        Where the tokens outgrow context_length, the last half of it is read again as if the row began there.
        """
        seen = torch.cat([state["tokens"], tokens], dim=1) if state else tokens
        if seen.shape[1] > self.context_length:
            kept = min(self.context_length, max(tokens.shape[1], self.context_length // 2))
            seen = tokens = seen[:, -kept:]
            state = None
        hidden, cache = self._hidden(tokens, state or {})
        return hidden[:, -1] @ self.token_embedding.weight.T, {"tokens": seen, **cache}

    def _hidden(self, tokens: Tensor, state: State | None, documents: Tensor | None = None) -> tuple[Tensor, State]:
        """The last layer's output (B, T, C), and the cache that has grown by `tokens` (None: no cache is kept).

        Args:
            documents: (B, T), which tokens see each other; without a cache only. None: all before them.
        """
        past = state["keys"].shape[3] if state else 0
        if past + tokens.shape[1] > self.context_length:
            raise ConfigError(
                f"a row of {past + tokens.shape[1]} tokens does not fit model.context_length={self.context_length}; "
                f"try trainer.sequence_length={self.context_length}"
            )
        mask = None
        positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)
        if documents is not None:
            positions = positions_in(documents)  # (B, T)
            mask = _causal(tokens.shape[1], tokens.shape[1], tokens.device) & (
                documents[:, None, :, None] == documents[:, None, None, :]
            )  # (B, 1, T, T)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))  # (B, T, C)
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            cached = (state["keys"][:, layer], state["values"][:, layer]) if state else None
            x, (key, value) = block(x, cached, mask)
            if state is not None:
                keys.append(key)
                values.append(value)
        cache = {"keys": torch.stack(keys, 1), "values": torch.stack(values, 1)} if keys else {}
        return self.norm(x), cache  # cache: (B, layers, H, S, D)

    def _initialise(self) -> None:
        """GPT-2's: normal with 0.02, and what is added to the residual scaled down by the root of their number."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                scale = math.sqrt(2 * len(self.blocks)) if name.endswith("output.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / scale)


class Block(nn.Module):
    """Attention, then a feed-forward layer of four times the width, each normalised before and added after."""

    def __init__(self, n_embd: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(n_embd)
        self.attention = Attention(n_embd, n_head, dropout)
        self.feed_forward_norm = nn.LayerNorm(n_embd)
        self.feed_forward = FeedForward(n_embd, dropout)

    def forward(
        self, x: Tensor, cached: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attended, cache = self.attention(self.attention_norm(x), cached, mask)
        x = x + attended
        return x + self.feed_forward(self.feed_forward_norm(x)), cache


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""

    def __init__(self, n_embd: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.n_head = n_head
        self.dropout = dropout
        self.query_key_value = nn.Linear(n_embd, 3 * n_embd)
        self.output = nn.Linear(n_embd, n_embd)

    def forward(
        self, x: Tensor, cached: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        rows, length, width = x.shape
        heads = self.query_key_value(x).view(rows, length, 3, self.n_head, width // self.n_head)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if cached is not None:
            key, value = torch.cat([cached[0], key], dim=2), torch.cat([cached[1], value], dim=2)  # (B, H, S, D)
        dropout = self.dropout if self.training else 0.0
        attended = attend(query, key, value, dropout, mask)  # (B, H, T, D)
        joined = attended.transpose(1, 2).reshape(rows, length, width)  # (B, T, C)
        return F.dropout(self.output(joined), dropout), (key, value)


class FeedForward(nn.Module):
    """Out to four times the width and back, with GELU in between (Hendrycks & Gimpel 2016)."""

    def __init__(self, n_embd: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Linear(n_embd, 4 * n_embd)
        self.output = nn.Linear(4 * n_embd, n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.dropout(self.output(F.gelu(self.input(x), approximate="tanh")))
        return hidden


def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V, each query seeing the keys up to its own position, by the fastest path here.

    Args:
        query: (B, H, T, D), the last T positions of the keys'.
        key, value: (B, H, S, D), S >= T.
        mask: (B, 1, T, S), whether a query may see a key; None: all up to its own position.
    """
    length, total = query.shape[2], key.shape[2]
    if query.device.type != "cpu" or total > EXPLICIT_ATTENTION_UP_TO:
        if mask is None and length == total:
            return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        if mask is None and length > 1:
            mask = _causal(length, total, query.device)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)  # (B, H, T, S)
    if mask is None and length > 1:
        mask = _causal(length, total, query.device)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return F.dropout(scores.softmax(dim=3), dropout) @ value


def _causal(length: int, total: int, device: torch.device) -> Tensor:
    """(T, S): whether query t, the (S - T + t)-th position, may see key s."""
    return torch.ones(length, total, dtype=torch.bool, device=device).tril(total - length)
