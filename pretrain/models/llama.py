"""Llama: a decoder-only Transformer with what most models of today have (https://arxiv.org/abs/2302.13971, 2307.09288).

Shapes: B rows, T positions, C width, H heads, G heads of keys and values, D = C / H width of a head, F hidden width,
V ids, S tokens so far.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval, MultipleOf
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.models.attending import Attend
from pretrain.models.dropout import Dropout
from pretrain.models.experts import Experts, balanced
from pretrain.models.key_value_cache import KeyValueCache, placed, within_context
from pretrain.models.language_model import LanguageModel, Scores, State, linear_cross_entropy, linear_scores
from pretrain.models.positions import rotary_angles, rotate

EPS = 1e-5  # added to the mean square that a norm divides by


class Llama(LanguageModel):
    """Pre-norm blocks of RMSNorm, rotary positions, grouped-query attention and SwiGLU, none of them with biases.

    Args:
        vocab_size: ids.
        context_length: tokens that it can see.
        n_layer: blocks.
        n_head: attention heads a block, each of an even width.
        n_kv_head: heads of keys and values, a divisor of n_head: each serves n_head / n_kv_head heads of queries
            (https://arxiv.org/abs/2305.13245).
        n_embd: width, a multiple of n_head.
        n_hidden: hidden width of the feed-forward layers.
        rotary_base: the longest wavelength of the positions is 2 pi times about this (https://arxiv.org/abs/2104.09864).
        tied: whether the output shares the token embedding's weights.
        dropout: share of activations dropped in training.
        n_expert: feed-forward layers a block, of which each token passes n_active, as in Mixtral
            (https://arxiv.org/abs/2401.04088); 0: one.
    """

    context_length: int

    def __init__(
        self,
        vocab_size: Annotated[int, Ge(1)],
        *,
        context_length: Annotated[int, Ge(1)],
        n_layer: Annotated[int, Ge(1)],
        n_head: Annotated[int, Ge(1), MultipleOf("n_kv_head")],
        n_kv_head: Annotated[int, Ge(1)],
        n_embd: Annotated[int, Ge(1), MultipleOf("n_head")],
        n_hidden: Annotated[int, Ge(1)],
        rotary_base: Annotated[float, Gt(1)],
        tied: bool,
        dropout: Annotated[float, Interval(ge=0, lt=1)],
        n_expert: Annotated[int, Ge(0)],
        n_active: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__()
        if n_embd // n_head % 2:
            raise ConfigError(f"model.n_embd={n_embd} gives heads of odd width; rotary positions need an even one")
        if n_expert and n_active > n_expert:
            raise ConfigError(f"model.n_active={n_active} is more than model.n_expert={n_expert}; try {n_expert}")
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.head_width = n_embd // n_head
        self.rotary_base = rotary_base
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(layer, n_embd, n_head, n_kv_head, n_hidden, dropout, n_expert, n_active) for layer in range(n_layer)
        )
        self.norm = nn.RMSNorm(n_embd, eps=EPS)
        self.output = None if tied else nn.Linear(n_embd, vocab_size, bias=False)
        self._initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        return self._hidden(tokens) @ self._head.T  # (B, T, V)

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, None]:
        return balanced(linear_cross_entropy(self._hidden(tokens), self._head, targets, z_loss=self.z_loss), self), None

    def document_losses(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Tensor:
        hidden = self._hidden(tokens, documents=documents)
        return balanced(linear_cross_entropy(hidden, self._head, targets, z_loss=self.z_loss), self)

    def token_scores(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> Scores:
        return linear_scores(self._hidden(tokens), self._head, targets)

    def document_scores(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Scores:
        return linear_scores(self._hidden(tokens, documents=documents), self._head, targets)

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As LanguageModel.next_logits; the state holds the keys and values of each layer, and is used up.

        Where a row outgrows context_length, the last half of it is read again as if the row began there.
        """
        state, tokens, lengths = within_context(state, tokens, lengths, self.context_length)
        cache = KeyValueCache(state, tokens, lengths, len(self.blocks), self.context_length)
        last = cache.last(self._hidden(tokens, cache))  # (B, C)
        return last @ self._head.T, cache.grown()

    @property
    def _head(self) -> Tensor:
        """(V, C)."""
        return self.token_embedding.weight if self.output is None else self.output.weight

    def _hidden(self, tokens: Tensor, cache: KeyValueCache | None = None, documents: Tensor | None = None) -> Tensor:
        """The last layer's output (B, T, C).

        Args:
            cache: what the tokens see besides each other; it grows by them.
            documents: (B, T), which tokens see each other; without a cache only. None: all before them.
        """
        positions, mask = placed(tokens, self.context_length, cache, documents)  # (1 or B, T)
        angles = rotary_angles(positions[:, None], self.head_width, self.rotary_base)  # (1 or B, 1, T, D)
        seen = Seen(mask, angles, cache)
        x = self.dropout(self.token_embedding(tokens))  # (B, T, C)
        for block in self.blocks:
            x = block(x, seen)
        hidden: Tensor = self.norm(x)
        return hidden

    def _initialise(self) -> None:
        """As GPT-2: normal with 0.02, and what is added to the residual scaled down by the root of their number."""
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                added = name.endswith(("attention.output.weight", "feed_forward.output.weight", "feed_forward.output"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * len(self.blocks)) if added else 1.0))


@dataclass(frozen=True)
class Seen:
    """What attention needs to know besides its input: who sees whom, how heads are turned, and what came before."""

    mask: Tensor | None
    angles: tuple[Tensor, Tensor]
    cache: KeyValueCache | None


class Block(nn.Module):
    """Attention, then a feed-forward layer, each normalised before and added after."""

    def __init__(
        self,
        layer: int,
        n_embd: int,
        n_head: int,
        n_kv_head: int,
        n_hidden: int,
        dropout: float,
        n_expert: int,
        n_active: int,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(n_embd, eps=EPS)
        self.attention = Attention(layer, n_embd, n_head, n_kv_head, dropout)
        self.feed_forward_norm = nn.RMSNorm(n_embd, eps=EPS)
        self.feed_forward: nn.Module = (
            Experts(n_embd, n_hidden, n_expert, n_active, gated=True)
            if n_expert
            else FeedForward(n_embd, n_hidden, dropout)
        )

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        x = x + self.attention(self.attention_norm(x), seen)
        added: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return added


class Attention(nn.Module):
    """Causal self-attention in which several heads of queries share a head of keys and values."""

    def __init__(self, layer: int, n_embd: int, n_head: int, n_kv_head: int, dropout: float) -> None:
        super().__init__()
        self.layer = layer
        self.heads = [n_head, n_kv_head, n_kv_head]
        self.head_width = n_embd // n_head
        self.query_key_value = nn.Linear(n_embd, sum(self.heads) * (n_embd // n_head), bias=False)
        self.attend = Attend(dropout=dropout)
        self.output = nn.Linear(n_embd, n_embd, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        heads = self.query_key_value(x).unflatten(2, (sum(self.heads), self.head_width)).transpose(1, 2)
        query, key, value = heads.split(self.heads, dim=1)  # (B, H, T, D), (B, G, T, D), (B, G, T, D)
        query, key = rotate(query, seen.angles), rotate(key, seen.angles)
        if seen.cache is not None:
            key, value = seen.cache.extend(self.layer, key, value)  # (B, G, S, D)
        attended = self.attend(query, key, value, seen.mask)  # (B, H, T, D)
        joined = attended.transpose(1, 2).flatten(2)  # (B, T, C)
        output: Tensor = self.dropout(self.output(joined))
        return output


class FeedForward(nn.Module):
    """SwiGLU: one half of the hidden layer opens the other's gates (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, n_embd: int, n_hidden: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Linear(n_embd, 2 * n_hidden, bias=False)  # the gate's half comes first
        self.output = nn.Linear(n_hidden, n_embd, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.input(x).chunk(2, dim=-1)  # each (B, T, F)
        hidden: Tensor = self.dropout(self.output(F.silu(gate) * value))
        return hidden
