"""The keys and values of the tokens so far, so that the next token costs one position and not all of them again.

Shapes: B rows, T new tokens, S tokens so far, R room for them, L layers, G heads of keys and values, D width of a head.
"""

import torch
from torch import Tensor

from pretrain.errors import ConfigError
from pretrain.models.attending import causal_mask, document_mask
from pretrain.models.language_model import State, positions_in

FIRST_ROOM = 64  # tokens; the room is doubled where it is full


class KeyValueCache:
    """Rows of different lengths, each written at its own end.

    The state that it begins from is used up: its tensors are written to. To branch, index it, which copies.

    Args:
        state: what state() gave, or None to begin.
        tokens: (B, T) int64, the new tokens, each row padded on the right.
        lengths: (B,) int64, how many of them are real.
        layers: L.
        most: the room is never more than this and T; None: without bound.
    """

    def __init__(self, state: State | None, tokens: Tensor, lengths: Tensor, layers: int, most: int | None) -> None:
        self.layers = layers
        self.new = tokens.shape[1]
        self.past = state["lengths"] if state else torch.zeros_like(lengths)  # (B,)
        self.lengths = self.past + lengths
        self.state = state
        # Where all rows end at the same place, slices do. Plain numbers tell faster than tensors would.
        ends = state["lengths"].tolist() if state else [0]
        longest = max(ends)
        self.even = min(ends) == longest and min(lengths.tolist()) == self.new
        self.total = longest + self.new
        room = FIRST_ROOM
        while room < self.total:
            room *= 2
        self.room = room if most is None else max(min(room, most), self.total)
        if self.even:
            self.positions = torch.arange(longest, self.total, device=tokens.device)[None]  # (1, T)
        else:
            self.positions = self.past[:, None] + torch.arange(self.new, device=tokens.device)  # (B, T)
        self.tokens = self._widened(state["tokens"] if state else None, tokens, 1)
        self._write(self.tokens, tokens, 1)
        self.keys: Tensor | None = None  # (B, L, G, R, D), made with the first layer's
        self.values: Tensor | None = None
        self.outputs: Tensor | None = None  # (B, T, C), the last layer's
        self._known: tuple[Tensor, ...] = ()  # keys and values of all tokens so far, (B, L, G, S, D)
        self._end: tuple[Tensor, ...] = ()  # those of the new ones, where all rows end at the same place

    def mask(self) -> Tensor | None:
        """(B, 1, T, S) bool, what each new token sees; None where that is what a causal Attend does anyway."""
        if self.even:
            return None
        return torch.arange(self.total, device=self.positions.device) <= self.positions[:, None, :, None]

    def visible(self) -> Tensor:
        """As mask(), and (T, S) where all rows are alike."""
        mask = self.mask()
        return causal_mask(self.new, self.total, self.positions.device) if mask is None else mask

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the new keys and values (B, G, T, D) of a layer; all so far come back, (B, G, S, D)."""
        if self.keys is None or self.values is None:
            old = self.state or {}
            self.keys = self._widened(old.get("keys"), _layered(key, self.layers), 3)
            self.values = self._widened(old.get("values"), _layered(value, self.layers), 3)
            # Cut for all layers at once, for each cut takes its time.
            self._known = tuple(room.narrow(3, 0, self.total) for room in (self.keys, self.values))
            self._end = tuple(known.narrow(3, self.total - self.new, self.new) for known in self._known)
        keys, values = self._known[0].select(1, layer), self._known[1].select(1, layer)  # (B, G, S, D)
        if self.even:
            self._end[0].select(1, layer).copy_(key)
            self._end[1].select(1, layer).copy_(value)
        else:
            self._write(keys, key, 2)
            self._write(values, value, 2)
        return keys, values

    def last(self, hidden: Tensor) -> Tensor:
        """(B, C): of the outputs (B, T, C) that of each row's last real token."""
        self.outputs = hidden
        if self.even:
            return hidden[:, -1]
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows, self.lengths - self.past - 1]

    def grown(self) -> State:
        """The state to go on from. Of the outputs it holds those of the new tokens, for who compares them."""
        if self.keys is None or self.values is None or self.outputs is None:
            raise AssertionError("no layer has extended the cache, or last() was not asked")
        return {
            "tokens": self.tokens,
            "lengths": self.lengths,
            "keys": self.keys,
            "values": self.values,
            "outputs": self.outputs,
        }

    def _widened(self, old: Tensor | None, like: Tensor, dimension: int) -> Tensor:
        """`old` with room R in `dimension`; without it, zeros in the shape of `like` with that room."""
        if old is not None and old.shape[dimension] >= self.room:
            return old
        shape = list(like.shape)
        shape[dimension] = self.room
        wide = like.new_zeros(shape)
        if old is not None:
            wide.narrow(dimension, 0, old.shape[dimension]).copy_(old)
        return wide

    def _write(self, kept: Tensor, new: Tensor, dimension: int) -> None:
        if self.even:
            kept.narrow(dimension, self.total - self.new, self.new).copy_(new)
            return
        places = self.positions.view(len(new), *(1,) * (dimension - 1), self.new, *(1,) * (new.dim() - dimension - 1))
        kept.scatter_(dimension, places.expand_as(new), new)


def placed(
    tokens: Tensor, context_length: int, cache: KeyValueCache | None, documents: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Where each of `tokens` (B, T) stands, (1 or B, T), and whom it sees, (B, 1, T, S) bool; None: all before it.

    Args:
        cache: what the tokens see besides each other.
        documents: (B, T), which tokens see each other; without a cache only. None: all before them.
    Raises:
        ConfigError: a row without a cache is longer than `context_length`.
    """
    length = tokens.shape[1]
    if cache is not None:
        if cache.even:
            return cache.positions, None
        return cache.positions.clamp(max=context_length - 1), cache.mask()  # padding may stand behind the last place
    if length > context_length:
        raise ConfigError(
            f"a row of {length} tokens does not fit model.context_length={context_length}; "
            f"try trainer.sequence_length={context_length}"
        )
    if documents is not None:
        return positions_in(documents), document_mask(documents)
    return torch.arange(length, device=tokens.device)[None], None


def within_context(
    state: State | None, tokens: Tensor, lengths: Tensor, most: int
) -> tuple[State | None, Tensor, Tensor]:
    """What to read, where a row of `state` and `tokens` may outgrow a context of `most` tokens.

    Then all rows are read again: the last half context of those that are too long (all new tokens that fit, at least),
    as if the row began there, and the others whole. So a row does not depend on the rows beside it.
    """
    ends = state["lengths"].tolist() if state else [0] * len(lengths)
    if max(end + new for end, new in zip(ends, lengths.tolist(), strict=True)) <= most:
        return state, tokens, lengths
    past = state["lengths"] if state else torch.zeros_like(lengths)
    total = past + lengths
    joined = torch.cat([state["tokens"], tokens], dim=1) if state else tokens
    if state:
        width = state["tokens"].shape[1]
        places = torch.arange(tokens.shape[1], device=tokens.device) + past[:, None]
        joined = torch.cat([state["tokens"], torch.zeros_like(tokens)], dim=1).scatter(1, places, tokens)
        joined = joined[:, : width + tokens.shape[1]]
    kept = torch.where(total > most, lengths.clamp(min=most // 2, max=most), total)
    places = (total - kept)[:, None] + torch.arange(int(kept.max()), device=tokens.device)
    return None, joined.gather(1, places.clamp(max=joined.shape[1] - 1)), kept


def _layered(tensor: Tensor, layers: int) -> Tensor:
    """A view (B, L, G, T, D) of (B, G, T, D), for its shape."""
    return tensor[:, None].expand(-1, layers, -1, -1, -1)
