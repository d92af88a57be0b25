"""The original Transformer: an encoder reads the source, a decoder writes the target (Vaswani et al. 2017).

https://arxiv.org/abs/1706.03762. A row is `source SEP target`; one without SEP is a target with an empty source.

Shapes: B rows, T positions of a row, N of its source and SEP, D of SEP and its target, C width, H heads, W = C / H
width of a head, V ids, L blocks.
"""

import math
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval, MultipleOf
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.models.attending import Attend
from pretrain.models.dropout import Dropout
from pretrain.models.key_value_cache import KeyValueCache, within_context
from pretrain.models.language_model import IGNORED, LanguageModel, Scores, State, linear_cross_entropy, linear_scores
from pretrain.models.positions import sinusoids

Norm = Literal["post", "pre"]


class EncoderDecoder(LanguageModel):
    """The model. Source, target and output layer share the token embedding, as in the paper.

    In a source there is nothing to predict: the logits there are 0, all ids alike.

    Args:
        vocab_size: V, the ids that are predicted.
        special_ids: ids from V on that are only read: V is SEP, which always is there.
        context_length: tokens of a source, and of a target with SEP, that it can see.
        n_layer: blocks of the encoder, and of the decoder.
        n_head: attention heads a block.
        n_embd: width, a multiple of n_head.
        dropout: share of activations dropped in training.
        norm: post: each layer's sum is normalised, as in the paper. pre: what goes into a layer is, as in GPT-2.
    """

    context_length: int

    def __init__(
        self,
        vocab_size: Annotated[int, Ge(1)],
        special_ids: Annotated[int, Ge(0)] = 1,
        *,
        context_length: Annotated[int, Ge(1)],
        n_layer: Annotated[int, Ge(1)],
        n_head: Annotated[int, Ge(1)],
        n_embd: Annotated[int, Ge(1), MultipleOf("n_head")],
        dropout: Annotated[float, Interval(ge=0, lt=1)],
        norm: Norm,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.token_embedding = nn.Embedding(vocab_size + max(1, special_ids), n_embd)
        self.dropout = Dropout(dropout)
        self.encoder = nn.ModuleList(EncoderBlock(n_embd, n_head, dropout, norm) for _ in range(n_layer))
        self.blocks = nn.ModuleList(DecoderBlock(layer, n_embd, n_head, dropout, norm) for layer in range(n_layer))
        self.encoder_norm = nn.LayerNorm(n_embd) if norm == "pre" else nn.Identity()
        self.norm = nn.LayerNorm(n_embd) if norm == "pre" else nn.Identity()
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() >= 2:
                nn.init.xavier_uniform_(parameter)
        # Less than the paper's 1 / sqrt(C), so that an untrained model is near the uniform one; with much less, tokens
        # would be lost among positions.
        nn.init.normal_(self.token_embedding.weight, std=0.4 / math.sqrt(n_embd))

    def forward(self, tokens: Tensor) -> Tensor:
        begins = self._begins(tokens)
        hidden = self._decoded(tokens, begins, torch.full_like(begins, tokens.shape[1]))  # (B, D, C)
        places, in_target = _places_in_target(tokens, begins, hidden.shape[1])
        hidden = hidden.gather(1, places[:, :, None].expand(-1, -1, hidden.shape[2]))
        return hidden.masked_fill(~in_target[:, :, None], 0.0) @ self._output().T  # (B, T, V)

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, None]:
        hidden, wanted, places, in_target = self._written(tokens, targets)
        nats = linear_cross_entropy(hidden, self._output(), wanted, z_loss=self.z_loss).gather(1, places)  # (B, T)
        return torch.where(in_target, nats, math.log(self.vocab_size)).masked_fill(targets == IGNORED, 0.0), None

    def token_scores(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> Scores:
        hidden, wanted, places, in_target = self._written(tokens, targets)
        in_source = (math.log(self.vocab_size), 0, self.vocab_size)
        pairs = zip(linear_scores(hidden, self._output(), wanted)[:3], in_source, strict=True)
        found = (torch.where(in_target, part.gather(1, places), other) for part, other in pairs)
        nats, higher, equal = (part.masked_fill(targets == IGNORED, 0) for part in found)
        return Scores(nats, higher, equal)

    def _written(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The decoder's output (B, D, C), its targets (B, D), and as _places_in_target, but of D = the longest."""
        begins, places = self._begins(tokens), torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        # What is behind a row's last target need not be computed.
        ends = ((targets != IGNORED) * places).amax(1) if tokens.numel() else begins
        hidden = self._decoded(tokens, begins, ends)
        places, in_target = _places_in_target(tokens, begins, hidden.shape[1])
        # What is in a source comes to place 0 with -1, where the greatest is kept.
        wanted = targets.new_full(hidden.shape[:2], IGNORED)  # (B, D)
        wanted = wanted.scatter_reduce(1, places, targets.masked_fill(~in_target, IGNORED), "amax")
        return hidden, wanted, places, in_target

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As LanguageModel.next_logits; the state holds keys and values of source and target, and is used up.

        The first call brings the whole source and SEP. Where a target outgrows context_length, the last half of it is
        read again as if it began there; the source stays.
        """
        if state is None:
            begins = self._begins(tokens, lengths)
            source, seen = self._encoded(tokens, begins)
            pairs = [block.cross_attention.keys_and_values(source) for block in self._decoder()]
            read = {
                "source_keys": torch.stack([key for key, _ in pairs], 1),  # (B, L, H, N, W)
                "source_values": torch.stack([value for _, value in pairs], 1),
                "source_seen": seen,  # (B, 1, 1, N)
            }
            lengths = lengths - begins
            past, tokens = None, _from(tokens, begins, int(lengths.max()))
        else:
            read = {name: state[name] for name in ("source_keys", "source_values", "source_seen")}
            past = {name: tensor for name, tensor in state.items() if name not in read}
        past, tokens, lengths = within_context(past, tokens, lengths, self.context_length)
        cache = KeyValueCache(past, tokens, lengths, len(self.blocks), self.context_length)
        x = self._embedded(tokens, cache.positions)
        for block, *pair in zip(
            self.blocks, read["source_keys"].unbind(1), read["source_values"].unbind(1), strict=True
        ):
            x = block(x, pair, read["source_seen"], cache)
        return cache.last(self.norm(x)) @ self._output().T, cache.grown() | read

    def _decoder(self) -> list["DecoderBlock"]:
        return cast(list[DecoderBlock], list(self.blocks))

    def _output(self) -> Tensor:
        """(V, C)."""
        return self.token_embedding.weight[: self.vocab_size]

    def _begins(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B,): where in each of `tokens` (B, T), of which `lengths` (B,) are real, the target begins."""
        separators = tokens == self.vocab_size
        if lengths is not None:
            separators = separators & (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])
        if not tokens.shape[1]:
            return tokens.new_zeros(len(tokens))
        return separators.byte().argmax(1)  # the first; 0 where there is none

    def _decoded(self, tokens: Tensor, begins: Tensor, ends: Tensor) -> Tensor:
        """The decoder's output (B, D, C) from where the rows' targets begin to where the longest of them ends.

        Args:
            begins, ends: (B,) places in `tokens` (B, T).
        """
        source, seen = self._encoded(tokens, begins)
        length = max(1, int((ends - begins).max())) if tokens.numel() else 0
        self._refuse_long(length, "target")
        target = _from(tokens, begins, length)  # (B, D)
        x = self._embedded(target, torch.arange(target.shape[1], device=tokens.device))
        mask = None if bool(seen.all()) else seen
        for block in self._decoder():
            x = block(x, block.cross_attention.keys_and_values(source), mask, None)
        decoded: Tensor = self.norm(x)
        return decoded

    def _encoded(self, tokens: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output (B, N, C) for the `begins` (B,) first tokens and SEP, and what of it is real."""
        length = int(begins.max()) if len(tokens) else 0
        self._refuse_long(length, "source")
        places = torch.arange(length + 1, device=tokens.device)
        source = torch.where(places < begins[:, None], F.pad(tokens[:, :length], (0, 1)), self.vocab_size)  # (B, N)
        seen = (places <= begins[:, None])[:, None, None]
        x = self._embedded(source, places)
        mask = None if bool(seen.all()) else seen
        for block in self.encoder:
            x = block(x, mask)
        return self.encoder_norm(x), seen

    def _embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.token_embedding(tokens) * math.sqrt(self.token_embedding.embedding_dim)
        embedded: Tensor = self.dropout(x + sinusoids(positions, x.shape[-1]).to(x.dtype))
        return embedded

    def _refuse_long(self, length: int, what: str) -> None:
        if length > self.context_length:
            raise ConfigError(
                f"a {what} of {length} tokens does not fit model.context_length={self.context_length}; "
                f"try trainer.sequence_length={self.context_length}, or a shorter prompt"
            )


class EncoderBlock(nn.Module):
    """Attention over the whole source, then a feed-forward layer, each added to what goes in."""

    def __init__(self, n_embd: int, n_head: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.pre = norm == "pre"
        self.attention = Attention(n_embd, n_head, dropout, causal=False)
        self.attention_norm = nn.LayerNorm(n_embd)
        self.feed_forward = FeedForward(n_embd, dropout)
        self.feed_forward_norm = nn.LayerNorm(n_embd)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        y = self.attention_norm(x) if self.pre else x
        x = x + self.attention(y, *self.attention.keys_and_values(y), seen)
        x = x if self.pre else self.attention_norm(x)
        y = self.feed_forward_norm(x) if self.pre else x
        x = x + self.feed_forward(y)
        return x if self.pre else self.feed_forward_norm(x)


class DecoderBlock(nn.Module):
    """Attention to the target so far, to the source, then a feed-forward layer, each added to what goes in."""

    def __init__(self, layer: int, n_embd: int, n_head: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.layer = layer
        self.pre = norm == "pre"
        self.attention = Attention(n_embd, n_head, dropout, causal=True)
        self.attention_norm = nn.LayerNorm(n_embd)
        self.cross_attention = Attention(n_embd, n_head, dropout, causal=False)
        self.cross_attention_norm = nn.LayerNorm(n_embd)
        self.feed_forward = FeedForward(n_embd, dropout)
        self.feed_forward_norm = nn.LayerNorm(n_embd)

    def forward(
        self, x: Tensor, source: tuple[Tensor, Tensor], seen: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        """(B, D, C).

        Args:
            source: its keys and values, each (B, H, N, W), of which those count that are `seen` (B, 1, 1, N), or all.
            cache: the target before x; it grows by x.
        """
        y = self.attention_norm(x) if self.pre else x
        key, value = self.attention.keys_and_values(y)
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)
        x = x + self.attention(y, key, value, cache.mask() if cache else None)
        x = x if self.pre else self.attention_norm(x)
        y = self.cross_attention_norm(x) if self.pre else x
        x = x + self.cross_attention(y, *source, seen)
        x = x if self.pre else self.cross_attention_norm(x)
        y = self.feed_forward_norm(x) if self.pre else x
        x = x + self.feed_forward(y)
        return x if self.pre else self.feed_forward_norm(x)


class Attention(nn.Module):
    """Multi-head attention from x to what the keys and values are made of: x itself, or the source."""

    def __init__(self, n_embd: int, n_head: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.n_head = n_head
        self.query = nn.Linear(n_embd, n_embd)
        self.key_value = nn.Linear(n_embd, 2 * n_embd)
        self.attend = Attend(dropout=dropout, causal=causal)
        self.output = nn.Linear(n_embd, n_embd)
        self.dropout = Dropout(dropout)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Each (B, H, N, W), of (B, N, C)."""
        key, value = self.key_value(memory).unflatten(2, (2, self.n_head, -1)).permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query = self.query(x).unflatten(2, (self.n_head, -1)).transpose(1, 2)  # (B, H, T, W)
        attended = self.attend(query, key, value, mask).transpose(1, 2).flatten(2)  # (B, T, C)
        output: Tensor = self.dropout(self.output(attended))
        return output


class FeedForward(nn.Module):
    """Out to four times the width and back, with ReLU in between."""

    def __init__(self, n_embd: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Linear(n_embd, 4 * n_embd)
        self.output = nn.Linear(4 * n_embd, n_embd)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.dropout(self.output(F.relu(self.input(x))))
        return hidden


def _from(tokens: Tensor, begins: Tensor, length: int) -> Tensor:
    """(B, length): of each row of `tokens` (B, T) what stands from `begins` (B,) on; behind its end the last again."""
    places = begins[:, None] + torch.arange(length, device=tokens.device)
    return tokens.gather(1, places.clamp(max=tokens.shape[1] - 1))


def _places_in_target(tokens: Tensor, begins: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The place in its target of `length` of each of `tokens`, 0 in a source, and whether it is in a target; (B, T)."""
    places = torch.arange(tokens.shape[1], device=tokens.device) - begins[:, None]
    return places.clamp(min=0, max=max(0, length - 1)), places >= 0
