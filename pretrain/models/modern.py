"""What speed-runs taught: a decoder-only Transformer that reaches a loss with a fraction of GPT-2's tokens.

Most of it was gathered, and much of it found, in https://github.com/KellerJordan/modded-nanogpt. EXPERIMENTS.md has
what each part is worth here.

Shapes: B rows, T positions, C width, H heads, D = C / H width of a head, V ids, S tokens so far.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval, MultipleOf
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.models.attending import Attend, causal_mask
from pretrain.models.dropout import Dropout
from pretrain.models.key_value_cache import KeyValueCache, placed, within_context
from pretrain.models.language_model import LanguageModel, Scores, State, capped, linear_cross_entropy, linear_scores
from pretrain.models.positions import rotary_angles, rotate
from pretrain.models.relu_squared import relu_squared
from pretrain.models.rms_norm import RMSNorm


class Modern(LanguageModel):
    """Pre-norm blocks with rotary positions (https://arxiv.org/abs/2104.09864), without biases; the rest are switches.

    Args:
        vocab_size: ids.
        context_length: tokens that it can see.
        n_layer: blocks.
        n_head: attention heads a block, each of an even width.
        n_embd: width, a multiple of n_head.
        dropout: share of activations dropped in training.
        tied: whether the output shares the token embedding's weights (Press & Wolf 2017); else it starts at zero.
        qk_norm: whether queries and keys have unit root mean square (https://arxiv.org/abs/2010.04245).
        activation: relu_squared (https://arxiv.org/abs/2109.08668) or GPT-2's gelu.
        zero_init: whether what blocks add to the residual starts at zero, else at random.
        lookback: tokens before each one that are embedded with it: a causal convolution over tokens.
        lookback_by: table: each distance has a table of embeddings of its own; channel: one weight for each channel of
            the token's embedding, which starts at zero, near what modded-nanogpt calls smearing.
        value_embeddings: tables of embeddings that are added to the values; table i serves the layers i and
            n_layer - value_embeddings + i, as in modded-nanogpt. They give layers the token itself, where the value
            residual (https://arxiv.org/abs/2410.17897) gives them the first layer's values.
        embedding_mix: whether each block reads a learned mix of the residual and the first embedding (modded-nanogpt).
        soft_cap: logits are pressed into (-soft_cap, soft_cap) (https://arxiv.org/abs/2408.00118); null: they are not.
        window: tokens that a local layer sees, itself included; null: there are no local layers.
        window_pattern: which layers are local (L) and which see everything (G), repeated; the last one sees everything.
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
        tied: bool,
        qk_norm: bool,
        activation: Literal["relu_squared", "gelu"],
        zero_init: bool,
        lookback: Annotated[int, Ge(0)],
        lookback_by: Literal["table", "channel"],
        value_embeddings: Annotated[int, Ge(0)],
        embedding_mix: bool,
        soft_cap: Annotated[float, Gt(0)] | None,
        window: Annotated[int, Ge(1)] | None,
        window_pattern: str,
    ) -> None:
        super().__init__()
        if n_embd // n_head % 2:
            raise ConfigError(f"model.n_embd={n_embd} gives heads of odd width; rotary positions need an even one")
        if value_embeddings > n_layer:
            raise ConfigError(
                f"model.value_embeddings={value_embeddings} is more than model.n_layer={n_layer}; try {n_layer}"
            )
        if window is not None and (not window_pattern or set(window_pattern) - {"L", "G"}):
            raise ConfigError(f"model.window_pattern={window_pattern} is not made of L and G; try LLLG")
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.head_width = n_embd // n_head
        self.soft_cap = soft_cap
        self.window = window
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        # The last row of each stands for a place before the beginning.
        tables = lookback if lookback_by == "table" else 0
        self.past_embeddings = nn.ModuleList(nn.Embedding(vocab_size + 1, n_embd) for _ in range(tables))
        scaled = lookback > 0 and lookback_by == "channel"
        self.past_embedding_scales = nn.Parameter(torch.empty(lookback, n_embd)) if scaled else None
        self.value_embeddings = nn.ModuleList(nn.Embedding(vocab_size, n_embd) for _ in range(value_embeddings))
        self.embedding_norm = RMSNorm()
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(layer, n_embd, n_head, dropout, qk_norm, activation, embedding_mix) for layer in range(n_layer)
        )
        self.norm = RMSNorm()
        self.output = None if tied else nn.Linear(n_embd, vocab_size, bias=False)
        pattern = window_pattern * n_layer if window is not None else "G" * n_layer
        self.local = [letter == "L" for letter in pattern[: n_layer - 1]] + [False]
        self._initialise(zero_init)

    def forward(self, tokens: Tensor) -> Tensor:
        return self._logits(self._hidden(tokens))  # (B, T, V)

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, None]:
        return linear_cross_entropy(self._hidden(tokens), self._head, targets, self.soft_cap, self.z_loss), None

    def document_losses(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Tensor:
        hidden = self._hidden(tokens, documents=documents)
        return linear_cross_entropy(hidden, self._head, targets, self.soft_cap, self.z_loss)

    def token_scores(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> Scores:
        return linear_scores(self._hidden(tokens), self._head, targets, self.soft_cap)

    def document_scores(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Scores:
        return linear_scores(self._hidden(tokens, documents=documents), self._head, targets, self.soft_cap)

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As LanguageModel.next_logits; the state holds the keys and values of each layer, and is used up.

        Where a row outgrows context_length, the last half of it is read again as if the row began there.
        """
        state, tokens, lengths = within_context(state, tokens, lengths, self.context_length)
        cache = KeyValueCache(state, tokens, lengths, len(self.blocks), self.context_length)
        last = cache.last(self._hidden(tokens, cache))  # (B, C)
        return self._logits(last), cache.grown()

    @property
    def _head(self) -> Tensor:
        """(V, C)."""
        return self.token_embedding.weight if self.output is None else self.output.weight

    def _logits(self, hidden: Tensor) -> Tensor:
        return capped(hidden @ self._head.T, self.soft_cap)

    def _hidden(self, tokens: Tensor, cache: KeyValueCache | None = None, documents: Tensor | None = None) -> Tensor:
        """The last layer's output (B, T, C).

        Args:
            cache: what the tokens see besides each other; it grows by them.
            documents: (B, T), which tokens see each other; without a cache only. None: all before them.
        """
        length = tokens.shape[1]
        positions, mask = placed(tokens, self.context_length, cache, documents)  # (1 or B, T)
        angles = rotary_angles(positions[..., None], self.head_width)  # (1 or B, T, 1, D)
        everything = Seen(mask, angles, cache)
        nearby = Seen(self._nearby(length, mask, cache), angles, cache) if any(self.local) else everything
        x = embedded = self.dropout(self.embedding_norm(self._embedded(tokens, positions, cache)))
        tables = len(self.value_embeddings)
        for layer, (block, local) in enumerate(zip(self.blocks, self.local, strict=True)):
            serves = layer if layer < tables else layer - (len(self.blocks) - tables)
            values = self.value_embeddings[serves](tokens) if tables and serves >= 0 else None  # (B, T, C)
            x = block(x, embedded, values, nearby if local else everything)
        hidden: Tensor = self.norm(x)
        return hidden

    def _embedded(self, tokens: Tensor, positions: Tensor, cache: KeyValueCache | None) -> Tensor:
        """(B, T, C): each token's embedding, with those of the tokens before it."""
        x: Tensor = self.token_embedding(tokens)
        for back, table in enumerate(self.past_embeddings, 1):
            earlier = _before(back, tokens, positions, cache)
            x = x + table(torch.where(positions >= back, earlier, self.vocab_size))
        for back, scale in enumerate(() if self.past_embedding_scales is None else self.past_embedding_scales, 1):
            earlier = _before(back, tokens, positions, cache)
            x = x + self.token_embedding(earlier) * (scale * (positions >= back)[..., None])
        return x

    def _nearby(self, length: int, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """What a local layer sees of what `mask` (None: all before) allows: (T, S) or (B, 1, T, S) bool."""
        total = cache.total if cache is not None else length
        device = self.token_embedding.weight.device
        visible = causal_mask(length, total, device) if mask is None else mask
        if cache is None or cache.even:
            places = torch.arange(total - length, total, device=device)[:, None]  # (T, 1), of the queries
        else:
            places = cache.positions[:, None, :, None]  # (B, 1, T, 1)
        assert self.window is not None
        return visible & (places - torch.arange(total, device=device) < self.window)

    def _initialise(self, zero_init: bool) -> None:
        """Embeddings small, so that a step moves them far (a norm follows); matrices by their number of inputs."""
        for name, parameter in self.named_parameters():
            begins_at_zero = name.startswith(("output", "value_embeddings", "past_embedding_scales"))
            if begins_at_zero or (zero_init and name.endswith("output.weight")):
                nn.init.zeros_(parameter)
            elif "embedding" in name:
                nn.init.normal_(parameter, std=0.02)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def _before(back: int, tokens: Tensor, positions: Tensor, cache: KeyValueCache | None) -> Tensor:
    """(B, T): the token `back` places before each one; any token where that is before the beginning."""
    if cache is None:
        return F.pad(tokens, (back, 0))[:, : tokens.shape[1]]
    places = (positions - back).clamp(min=0, max=cache.tokens.shape[1] - 1)
    return cache.tokens.gather(1, places.expand_as(tokens))


@dataclass(frozen=True)
class Seen:
    """What attention needs to know besides its input: who sees whom, how heads are turned, and what came before."""

    mask: Tensor | None
    angles: tuple[Tensor, Tensor]
    cache: KeyValueCache | None


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to the residual."""

    def __init__(
        self,
        layer: int,
        n_embd: int,
        n_head: int,
        dropout: float,
        qk_norm: bool,
        activation: str,
        embedding_mix: bool,
    ) -> None:
        super().__init__()
        # The shares of the residual and of the first embedding.
        self.mix = nn.Parameter(torch.tensor([1.0, 0.0])) if embedding_mix else None
        self.attention_norm = RMSNorm()
        self.attention = Attention(layer, n_embd, n_head, dropout, qk_norm)
        self.feed_forward_norm = RMSNorm()
        self.feed_forward = FeedForward(n_embd, dropout, activation)

    def forward(self, x: Tensor, embedded: Tensor, values: Tensor | None, seen: Seen) -> Tensor:
        if self.mix is not None:
            x = self.mix[0] * x + self.mix[1] * embedded
        x = x + self.attention(self.attention_norm(x), values, seen)
        added: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return added


class Attention(nn.Module):
    """Causal multi-head self-attention (https://arxiv.org/abs/1706.03762) with normed and turned queries and keys."""

    def __init__(self, layer: int, n_embd: int, n_head: int, dropout: float, qk_norm: bool) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = n_head
        self.query_key_value = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.query_key_norm = RMSNorm() if qk_norm else nn.Identity()
        self.attend = Attend(dropout=dropout)
        self.output = nn.Linear(n_embd, n_embd, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, values: Tensor | None, seen: Seen) -> Tensor:
        """(B, T, C), where `values` (B, T, C) are added to those that are computed from x."""
        rows, length, width = x.shape
        heads = self.query_key_value(x).view(rows, length, 3 * self.n_head, width // self.n_head)
        query_key, value = heads.split([2 * self.n_head, self.n_head], dim=2)
        query_key = rotate(self.query_key_norm(query_key), seen.angles)  # both at once: (B, T, 2 H, D)
        if values is not None:
            value = value + values.view_as(value)
        query, key = query_key.transpose(1, 2).chunk(2, dim=1)  # each (B, H, T, D)
        value = value.transpose(1, 2)
        if seen.cache is not None:
            key, value = seen.cache.extend(self.layer, key, value)  # (B, H, S, D)
        attended = self.attend(query, key, value, seen.mask)  # (B, H, T, D)
        joined = attended.transpose(1, 2).reshape(rows, length, width)  # (B, T, C)
        output: Tensor = self.dropout(self.output(joined))
        return output


class FeedForward(nn.Module):
    """Out to four times the width and back."""

    def __init__(self, n_embd: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.input = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.output = nn.Linear(4 * n_embd, n_embd, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.input(x)  # (B, T, 4 C)
        inside = relu_squared(inside) if self.activation == "relu_squared" else F.gelu(inside, approximate="tanh")
        hidden: Tensor = self.dropout(self.output(inside))
        return hidden
