"""Counts of whole prefixes: the next token given all tokens of the document before it, and nothing less.

The first rung: exact, and useless beyond the texts it has read, for almost every prefix of some length is new.

Shapes: B rows, T positions, V ids of the vocabulary, N tokens of a stream, K distinct pairs of a prefix and a token.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.errors import CheckpointError, DataError, TrainingError
from pretrain.models.language_model import IGNORED, LanguageModel, Scores, State

NO_PLACE = -1  # before the first EOT of a row: nobody knows what the prefix is
NO_STATE = np.array([[0, NO_PLACE]])

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Prefix(LanguageModel):
    """Maximum likelihood of the next token after a whole prefix of a document.

    A prefix is known by a 64-bit hash, the sum of a hash of each token with its place: two of ten million prefixes
    share one with a probability of 3e-6. A row that begins without EOT, and that no state goes before, has no prefix,
    and nothing is seen after it.

    Attributes:
        whole_documents: an evaluation reads the stream from its beginning, and carries the state (see evaluation.loss).

    Buffers, sorted by prefix, then token:
        prefixes: (K,) int64 hash of a prefix, without its EOT.
        following: (K,) int64 the token behind it.
        counts: (K,) int64 how often.
        end_of_text: () int64, the id that parts documents.
    """

    prefixes: Tensor
    following: Tensor
    counts: Tensor
    end_of_text: Tensor
    whole_documents = True

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = None
        for name in ("prefixes", "following", "counts"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int64))
        self.register_buffer("end_of_text", torch.tensor(0))

    def _apply(self, fn: Any, recurse: bool = True) -> "Prefix":
        return self  # counts stay in the computer's memory, whatever the device

    def fit(self, tokens: NDArray[Any], end_of_text: int) -> None:
        """Count a stream (N,), EOT document EOT ... EOT.

        Raises:
            DataError: no target to count, or an id outside the vocabulary.
        """
        if len(tokens) < 2:
            raise DataError(f"nothing to count: the stream has {len(tokens)} tokens, and its first is only a context")
        self._refuse_strangers(tokens, 0)
        self.end_of_text = torch.tensor(end_of_text)
        hashes, places = self._hashes(np.asarray(tokens, np.int64)[None], NO_STATE)
        known = places[0, :-1] != NO_PLACE
        prefixes, following = hashes[0, :-1][known], tokens[1:][known].astype(np.int64)
        order = np.lexsort((following, prefixes))
        prefixes, following = prefixes[order], following[order]
        differs = (prefixes[1:] != prefixes[:-1]) | (following[1:] != following[:-1])
        first = np.flatnonzero(np.append(len(prefixes) > 0, differs))
        counts = np.diff(first, append=len(prefixes))
        tables = {"prefixes": prefixes[first], "following": following[first], "counts": counts}
        self._take({name: torch.from_numpy(table) for name, table in tables.items()})

    def forward(self, tokens: Tensor) -> Tensor:
        """Log-probabilities (B, T, V) float64 of the token after each of `tokens` (B, T); all -inf where unseen."""
        rows, following, counts, totals = self._seen(*self._hashes(self._checked(tokens, 0), NO_STATE))
        return self._log_probs(rows, following, counts, totals).view(*tokens.shape, -1).to(tokens.device)

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See LanguageModel; the state is each row's hash and place."""
        before = NO_STATE if state is None else state["prefix"].cpu().numpy()
        found = self._hashes(self._checked(tokens, 0), before)
        last = lengths.cpu().numpy()[:, None] - 1
        hashes, places = (np.take_along_axis(table, last, axis=1) for table in found)
        log_probs = self._log_probs(*self._seen(hashes, places))
        return log_probs.to(tokens.device), _state(hashes, places, tokens.device)

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Nats (B, T) in float64, and the state of next_logits: see LanguageModel.

        Errors as fit, and TrainingError before it.
        """
        wanted = self._checked(targets, IGNORED).ravel()
        before = NO_STATE if state is None else state["prefix"].cpu().numpy()
        hashes, places = self._hashes(self._checked(tokens, 0), before)
        first, stop = self._entries(hashes, places)
        following = self.following.numpy()
        entries, end = first.copy(), stop.copy()
        while (entries < end).any():  # a binary search among what followed each prefix
            middle = (entries + end) // 2
            below = (entries < end) & (following.take(middle, mode="clip") < wanted)
            entries, end = np.where(below, middle + 1, entries), np.where(below, end, middle)
        hits = np.flatnonzero((entries < stop) & (following.take(entries, mode="clip") == wanted))
        probs = np.zeros(len(wanted))
        totals = self._sums[stop[hits]] - self._sums[first[hits]]
        probs[hits] = self.counts.numpy()[entries[hits]] / totals
        with np.errstate(divide="ignore"):  # the log of 0 is meant: unseen
            losses = np.where(wanted == IGNORED, 0.0, -np.log(probs))
        nats = torch.from_numpy(losses).view(targets.shape)
        return nats.to(targets.device), _state(hashes[:, -1:], places[:, -1:], targets.device)

    def token_scores(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> Scores:
        """As LanguageModel.token_scores; what was never seen behind a prefix shares the places behind what was."""
        nats, carried = self.token_losses(tokens, targets, state)
        wanted, device = targets.cpu().numpy().ravel(), targets.device
        before = NO_STATE if state is None else state["prefix"].cpu().numpy()
        rows, following, counts, _ = self._seen(*self._hashes(self._checked(tokens, 0), before))
        own = np.bincount(rows, counts * (following == wanted[rows]), len(wanted))  # (R,)
        higher = np.bincount(rows, counts > own[rows], len(wanted))
        unseen = self.vocab_size - np.bincount(rows, minlength=len(wanted))
        equal = np.where(own > 0, np.bincount(rows, counts == own[rows], len(wanted)), unseen)
        ranks = (torch.from_numpy(np.where(wanted == IGNORED, 0, count)).int() for count in (higher, equal))
        first, second = (count.view(targets.shape).to(device) for count in ranks)
        return Scores(nats, first, second, carried)

    def parameter_count(self) -> int:
        """Stored pairs of a prefix and a token."""
        return len(self.counts)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over fitted tables.

        Raises:
            CheckpointError: they are not those of a prefix model.
        """
        own = self.state_dict()
        sizes = {weights[name].shape for name in ("prefixes", "following", "counts") if name in weights}
        if weights.keys() != own.keys() or len(sizes) != 1 or any(t.dtype != torch.int64 for t in weights.values()):
            shown = ", ".join(f"{name} {table.dtype} {tuple(table.shape)}" for name, table in weights.items())
            raise CheckpointError(f"not the tables of a prefix model: {shown}")
        self._take(weights)

    def _take(self, tables: Mapping[str, Tensor]) -> None:
        for name, table in tables.items():
            setattr(self, name, table.cpu())
        self._sums = np.append(0, np.cumsum(self.counts.numpy()))  # (K + 1,) of the counts before each entry

    def _hashes(self, tokens: NDArray[np.int64], before: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The hash (B, T) of the prefix up to each of `tokens` (B, T), and that token's place in its document.

        Args:
            before: (B or 1, 2) hash and place of what stands before each row.
        """
        index = np.arange(tokens.shape[1])
        ends = np.maximum.accumulate(np.where(tokens == int(self.end_of_text), index, -1), axis=1)
        went_on = np.where(before[:, 1:] == NO_PLACE, NO_PLACE, before[:, 1:] + 1 + index)
        places = np.where(ends >= 0, index - ends, went_on)
        terms = np.where((ends == index) | (places == NO_PLACE), np.uint64(0), _mixed(tokens, places, self.vocab_size))
        sums = np.cumsum(terms, axis=1, dtype=np.uint64)
        at_end = np.take_along_axis(sums, np.maximum(ends, 0), axis=1)
        earlier = np.ascontiguousarray(before[:, :1]).view(np.uint64)
        return np.where(ends >= 0, sums - at_end, sums + earlier).view(np.int64), places

    def _entries(self, hashes: NDArray[Any], places: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """For R = B * T prefixes: where in the tables what was seen after them begins (R,) and stops (R,)."""
        first = np.searchsorted(self.prefixes.numpy(), hashes.ravel())
        stop = np.searchsorted(self.prefixes.numpy(), hashes.ravel(), side="right")
        return first, np.where(places.ravel() == NO_PLACE, first, stop)

    def _seen(self, hashes: NDArray[Any], places: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """For R = B * T prefixes: all that was seen after them (row of the prefix, token, count), and totals (R,)."""
        first, stop = self._entries(hashes, places)
        seen = stop - first
        rows = np.repeat(np.arange(len(seen)), seen)
        entries = np.arange(len(rows)) + np.repeat(first - np.cumsum(seen) + seen, seen)
        totals = self._sums[stop] - self._sums[first]
        return rows, self.following.numpy().take(entries), self.counts.numpy().take(entries), totals

    def _log_probs(
        self, rows: NDArray[Any], following: NDArray[Any], counts: NDArray[Any], totals: NDArray[Any]
    ) -> Tensor:
        log_probs = np.full((len(totals), self.vocab_size), -np.inf)
        log_probs[rows, following] = np.log(counts / totals[rows])
        return torch.from_numpy(log_probs)

    def _checked(self, ids: Tensor, lowest: int) -> NDArray[np.int64]:
        if not len(self.counts):
            raise TrainingError("this model has not counted anything yet; call fit or load_weights first")
        found: NDArray[np.int64] = ids.cpu().numpy()
        self._refuse_strangers(found, lowest)
        return found

    def _refuse_strangers(self, ids: NDArray[Any], lowest: int) -> None:
        for token in (ids.min(), ids.max()) if ids.size else ():
            if not lowest <= token < self.vocab_size:
                raise DataError(f"token id {token} is not in the vocabulary of {self.vocab_size} ids")


def _state(hashes: NDArray[Any], places: NDArray[Any], device: torch.device) -> State:
    """(B, 2) of hashes and places (B, 1)."""
    return {"prefix": torch.from_numpy(np.concatenate([hashes, places], axis=1)).to(device)}


def _mixed(tokens: NDArray[Any], places: NDArray[Any], vocab_size: int) -> NDArray[np.uint64]:
    """A hash of each token and its place: SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2714064.2660195)."""
    bits = (places * vocab_size + tokens).astype(np.uint64) * GOLDEN
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    mixed: NDArray[np.uint64] = bits ^ (bits >> np.uint64(31))
    return mixed
