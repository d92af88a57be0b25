"""GPT-2: a decoder-only Transformer (Radford et al. 2019), with other positions and with experts where one wants them.

https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf

Shapes: B rows, T positions, C width, H heads, D = C / H width of a head, V ids, S tokens so far.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval, MultipleOf
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.models.attending import Attend, causal_mask
from pretrain.models.dropout import Dropout
from pretrain.models.experts import Experts, balanced
from pretrain.models.gpt_step import Weights, one_token, weights_of
from pretrain.models.key_value_cache import KeyValueCache, placed, within_context
from pretrain.models.language_model import LanguageModel, Scores, State, linear_cross_entropy, linear_scores
from pretrain.models.linear_gelu import linear_gelu
from pretrain.models.positions import alibi_mask, alibi_slopes, rotary_angles, rotate, sinusoids

Positions = Literal["learned", "sinusoidal", "rotary", "alibi", "none"]


class GPT(LanguageModel):
    """The model; its output layer shares the token embedding's weights (Press & Wolf 2017).

    Args:
        vocab_size: ids.
        context_length: tokens that it can see.
        n_layer: blocks.
        n_head: attention heads a block.
        n_embd: width, a multiple of n_head.
        dropout: share of activations dropped in training.
        positions: learned (GPT-2's own), sinusoidal, rotary, alibi, or none.
        n_expert: feed-forward layers a block, of which each token passes n_active; 0: the one of GPT-2.
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
        positions: Positions = "learned",
        n_expert: Annotated[int, Ge(0)] = 0,
        n_active: Annotated[int, Ge(1)] = 2,
    ) -> None:
        super().__init__()
        if n_expert and n_active > n_expert:
            raise ConfigError(f"model.n_active={n_active} is more than model.n_expert={n_expert}; try {n_expert}")
        if positions == "rotary" and n_embd // n_head % 2:
            raise ConfigError(f"model.n_embd={n_embd} gives heads of odd width; rotary positions need an even one")
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.positions = positions
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(context_length, n_embd) if positions == "learned" else None
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(layer, n_embd, n_head, dropout, n_expert, n_active) for layer in range(n_layer)
        )
        self.norm = nn.LayerNorm(n_embd)
        self.n_head, self.head_width, self.n_expert = n_head, n_embd // n_head, n_expert
        self._step: Weights | None = None  # of a text that is being written, see next_logits
        self._initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        return self._hidden(tokens) @ self.token_embedding.weight.T  # (B, T, V)

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, None]:
        nats = linear_cross_entropy(self._hidden(tokens), self.token_embedding.weight, targets, z_loss=self.z_loss)
        return balanced(nats, self), None

    def document_losses(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Tensor:
        hidden = self._hidden(tokens, documents=documents)
        return balanced(linear_cross_entropy(hidden, self.token_embedding.weight, targets, z_loss=self.z_loss), self)

    def token_scores(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> Scores:
        return linear_scores(self._hidden(tokens), self.token_embedding.weight, targets)

    def document_scores(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Scores:
        return linear_scores(self._hidden(tokens, documents=documents), self.token_embedding.weight, targets)

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As LanguageModel.next_logits; the state holds the keys and values of each layer, and is used up.

        Where a row outgrows context_length, the last half of it is read again as if the row began there.
        """
        if state is None:
            self._step = self._weights()
        elif self._step is not None and tokens.shape[1] == 1 and not torch.is_grad_enabled():
            known = one_token(self._step, tokens, state, self.n_head)
            if known is not None:
                return known
        state, tokens, lengths = within_context(state, tokens, lengths, self.context_length)
        cache = KeyValueCache(state, tokens, lengths, len(self.blocks), self.context_length)
        last = cache.last(self._hidden(tokens, cache))  # (B, C)
        return last @ self.token_embedding.weight.T, cache.grown()

    def _weights(self) -> Weights | None:
        """For one_token, where it computes what this model does."""
        first: Any = self.blocks[0]
        output = first.attention.output
        whole = type(output) is nn.Linear and type(output.weight) is nn.Parameter  # else modules know who has the rest
        if self.position_embedding is None or self.n_expert or self.training or not whole:
            return None
        return weights_of(self.token_embedding, self.position_embedding, self.blocks, self.norm)

    def _hidden(self, tokens: Tensor, cache: KeyValueCache | None = None, documents: Tensor | None = None) -> Tensor:
        """The last layer's output (B, T, C).

        Args:
            cache: what the tokens see besides each other; it grows by them.
            documents: (B, T), which tokens see each other; without a cache only. None: all before them.
        """
        length = tokens.shape[1]
        positions, mask = placed(tokens, self.context_length, cache, documents)  # (1 or B, T)
        x = self.token_embedding(tokens)  # (B, T, C)
        angles = None
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        elif self.positions == "sinusoidal":
            x = x + sinusoids(positions, x.shape[2]).to(x.dtype)
        elif self.positions == "rotary":
            angles = rotary_angles(positions[:, None], self.head_width)  # (1 or B, 1, T, D)
        elif self.positions == "alibi":
            # Only distances count, so that positions in the row do as well as those in the document.
            total = cache.total if cache else length
            visible = causal_mask(length, total, tokens.device)[None, None] if mask is None else mask
            queries = cache.positions if cache else torch.arange(length, device=tokens.device)[None]
            mask = alibi_mask(alibi_slopes(self.n_head).to(x), queries, visible)
        seen = Seen(mask, angles, cache)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, seen)
        hidden: Tensor = self.norm(x)
        return hidden

    def _initialise(self) -> None:
        """GPT-2's: normal with 0.02, and what is added to the residual scaled down by the root of their number."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() >= 2:
                scale = math.sqrt(2 * len(self.blocks)) if name.endswith(("output.weight", "output")) else 1.0
                nn.init.normal_(parameter, std=0.02 / scale)


@dataclass(frozen=True)
class Seen:
    """What attention needs to know besides its input: who sees whom, how heads are turned, and what came before."""

    mask: Tensor | None
    angles: tuple[Tensor, Tensor] | None
    cache: KeyValueCache | None


class Block(nn.Module):
    """Attention, then a feed-forward layer of four times the width, each normalised before and added after."""

    def __init__(self, layer: int, n_embd: int, n_head: int, dropout: float, n_expert: int, n_active: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(n_embd)
        self.attention = Attention(layer, n_embd, n_head, dropout)
        self.feed_forward_norm = nn.LayerNorm(n_embd)
        self.feed_forward: nn.Module = (
            Experts(n_embd, 4 * n_embd, n_expert, n_active, gated=False) if n_expert else FeedForward(n_embd, dropout)
        )

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        x = x + self.attention(self.attention_norm(x), seen)
        added: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return added


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""

    def __init__(self, layer: int, n_embd: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = n_head
        self.query_key_value = nn.Linear(n_embd, 3 * n_embd)
        self.attend = Attend(dropout=dropout)
        self.output = nn.Linear(n_embd, n_embd)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        heads = self.query_key_value(x).unflatten(2, (3, -1, x.shape[2] // self.n_head))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if seen.angles is not None:
            query, key = rotate(query, seen.angles), rotate(key, seen.angles)
        if seen.cache is not None:
            key, value = seen.cache.extend(self.layer, key, value)  # (B, H, S, D)
        attended = self.attend(query, key, value, seen.mask)  # (B, H, T, D)
        joined = attended.transpose(1, 2).flatten(2)  # (B, T, C)
        output: Tensor = self.dropout(self.output(joined))
        return output


class FeedForward(nn.Module):
    """Out to four times the width and back, with GELU in between (Hendrycks & Gimpel 2016)."""

    def __init__(self, n_embd: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Linear(n_embd, 4 * n_embd)
        self.output = nn.Linear(4 * n_embd, n_embd)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.dropout(self.output(linear_gelu(self.input, x)))
        return hidden
