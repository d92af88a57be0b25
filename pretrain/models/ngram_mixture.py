"""A mixture of n-grams of all orders and a cache of the recent text: better than the best single n-gram.

Kneser-Ney of each order from 1 to the longest gives a probability, and so does what the row itself has shown so far.
Their weights depend on how much of the context the training text has, how often, and how much of it the row has
(Jelinek and Mercer 1980; caches: Kuhn and De Mori 1990, https://doi.org/10.1109/34.56193). They are fitted by
expectation maximisation to held-out training text.

Shapes: B rows, T positions, V ids of the vocabulary, N tokens of a stream, R = B * T, C components: one an order, and
the cache; S buckets of weights, M_n nodes of order n (see ngram_counts).
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt, Interval
from numpy.typing import NDArray
from torch import Tensor

from pretrain.errors import CheckpointError, ConfigError
from pretrain.models.language_model import IGNORED, LanguageModel, State
from pretrain.models.ngram import NGram
from pretrain.models.ngram_cache import cache_distributions, cache_probabilities
from pretrain.models.ngram_counts import OrderCounts, count_ngrams
from pretrain.models.ngram_storage import Ints
from pretrain.models.ngram_trie import ABSENT, UNSEEN
from pretrain.models.smoothing import NODES, Floats, estimated

LEVELS = 8  # of a context's count: 1, 2 to 3, 4 to 7 ... 128 or more
ROUNDS = 50  # of expectation maximisation
PRIOR = 20.0  # held-out tokens that a bucket's weights start from, spread as those of all buckets
MOST_HELD_OUT = 500_000  # tokens


class NGramMixture(LanguageModel):
    """Log-probabilities of the next token from a weighted sum.

    Args:
        order: tokens of the longest n-gram.
        cache_order: tokens of the longest context that is looked for in the row itself.
        context_length: tokens of the row that the cache sees, at most.
        held_out: the share of the training text, at its end, on which the weights are fitted.

    Buffers, besides those of the n-gram of the longest order (float64):
        weights: (S, C).
        tops_n: (NODES + M_n, 3) as nodes_n of an n-gram, from counts that are not adjusted: where n or n + 1 is the
            longest order.
        unigrams: (V,)
    """

    weights: Tensor
    unigrams: Tensor
    context_length: int

    def __init__(
        self,
        vocab_size: int,
        *,
        order: Annotated[int, Interval(ge=2, le=32)],
        cache_order: Annotated[int, Interval(ge=0, le=32)],
        context_length: Annotated[int, Interval(ge=1)],
        held_out: Annotated[float, Interval(gt=0, lt=1)],
        memory_bytes: Annotated[int, Gt(0)],
    ) -> None:
        super().__init__()
        if context_length < order - 1:
            raise ConfigError(f"model.context_length={context_length} is less than model.order - 1; try {order - 1}")
        self.vocab_size = vocab_size
        self.order = order
        self.cache_order = cache_order
        self.context_length = context_length
        self.held_out = held_out
        self.ngram = NGram(vocab_size, order=order, smoothing="kneser_ney", k=1.0, memory_bytes=memory_bytes)
        for n in range(1, order):
            self.register_buffer(f"tops_{n}", torch.empty(0, dtype=torch.float64))
        self.register_buffer("unigrams", torch.empty(0, dtype=torch.float64))
        self.register_buffer("weights", torch.empty(0, dtype=torch.float64))

    def _apply(self, fn: Any, recurse: bool = True) -> "NGramMixture":
        return self

    def fit(self, tokens: NDArray[Any], end_of_text: int) -> None:
        """Fit the weights on the end of a stream (N,) after counting the rest, then count all of it.

        Raises:
            DataError: no target to count, an id outside the vocabulary, or no document as long as the order.
        """
        cut = len(tokens) - min(MOST_HELD_OUT, int(len(tokens) * self.held_out))
        buckets = self.order * LEVELS * (self.cache_order + 1)
        weights = np.full((buckets, self.order + 1), 1 / (self.order + 1))
        if cut > self.order and len(tokens) - cut > self.order:
            self._count(tokens[:cut], end_of_text)
            held_out = np.asarray(tokens[cut - 1 :], np.int64)
            rows = [held_out[i : i + self.context_length + 1] for i in range(0, len(held_out), self.context_length)]
            parts = [self._components(row[None, :-1], row[None, 1:]) for row in rows if len(row) > 1]
            probs, places = (np.concatenate(some, axis=-1) for some in zip(*parts, strict=True))
            weights = _maximised(probs, places, weights)
        self._count(tokens, end_of_text)
        self.weights = torch.from_numpy(weights)

    def _count(self, tokens: NDArray[Any], end_of_text: int) -> None:
        sizes = {"vocab_size": self.vocab_size, "end_of_text": end_of_text}
        counts = count_ngrams(tokens, self.order, memory_bytes=self.ngram.memory_bytes, **sizes)
        self.ngram.refuse_beyond(counts)
        self.ngram.fit_counts(counts, end_of_text)
        self.unigrams = torch.from_numpy(estimated(counts[:1], self.vocab_size, "kneser_ney", 1.0)["unigrams"])
        for n in range(1, self.order):
            setattr(self, f"tops_{n}", torch.from_numpy(self._top(counts, n)))

    def _top(self, counts: list[OrderCounts], n: int) -> Floats:
        """(NODES + M_n, 3) weights of a model that ends with order n, scale and rest of one that ends with n + 1."""
        on_disk = self.ngram.on_disk(counts)
        last, context = (
            estimated(counts[:longest], self.vocab_size, "kneser_ney", 1.0, on_disk=on_disk)[f"nodes_{n}"]
            for longest in (n, n + 1)
        )
        context[:, 0] = last[:, 0]
        return context

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Nats (B, T) in float64; see LanguageModel. There is no state.

        Raises:
            ConfigError: a row is longer than context_length.
            DataError: an id outside the vocabulary.
            TrainingError: nothing was counted yet.
        """
        ids, wanted = self._row(tokens), self.ngram.checked(targets, lowest=IGNORED)
        if not ids.size:
            return torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device), None
        filled = np.where(wanted == IGNORED, np.roll(ids, -1, axis=1), wanted)
        if np.array_equal(filled[:, :-1], ids[:, 1:]):
            probs, places = self._components(ids, filled)
            nats = -np.log((self.weights.numpy()[places].T * probs).sum(0)).reshape(wanted.shape)
        else:  # the cache's look-up needs targets that are the next tokens
            nats = -np.take_along_axis(self(tokens).numpy(), filled[..., None], axis=2)[..., 0]
        return torch.from_numpy(np.where(wanted == IGNORED, 0.0, nats)).to(tokens.device), None

    def forward(self, tokens: Tensor) -> Tensor:
        """Log-probabilities (B, T, V) float64 of the token after each of `tokens` (B, T); errors as token_losses."""
        ids = self._row(tokens)
        steps = [self._distributions(ids[:, : stop + 1]) for stop in range(ids.shape[1])]
        probabilities = np.stack(steps, axis=1) if steps else np.ones((*tokens.shape, self.vocab_size))
        return torch.from_numpy(np.log(probabilities)).to(tokens.device)

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See LanguageModel; the state is a window on the last tokens, NO_TOKEN before the row's start."""
        window, state = self.ngram.window(tokens, lengths, state, self.context_length)
        return torch.from_numpy(np.log(self._distributions(window))).to(tokens.device), state

    def parameter_count(self) -> int:
        """Stored n-grams of all orders, and the weights."""
        return self.ngram.parameter_count() + self.weights.numel()

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over fitted tables.

        Raises:
            CheckpointError: they are not those of this model.
        """
        inner = {name.removeprefix("ngram."): table for name, table in weights.items() if name.startswith("ngram.")}
        self.ngram.load_weights(inner)
        shapes = {f"tops_{n}": inner[f"nodes_{n}"].shape for n in range(1, self.order)}
        shapes["unigrams"] = torch.Size([self.vocab_size])
        shapes["weights"] = torch.Size([self.order * LEVELS * (self.cache_order + 1), self.order + 1])
        found = {name: table.shape for name, table in weights.items() if not name.startswith("ngram.")}
        if found != shapes:
            wrong = next(name for name in sorted(found.keys() | shapes) if found.get(name) != shapes.get(name))
            raise CheckpointError(f"not a mixture's {wrong}: {found.get(wrong)} where {shapes.get(wrong)} is wanted")
        for name in shapes:
            setattr(self, name, weights[name].cpu())

    def _row(self, tokens: Tensor) -> Ints:
        if tokens.shape[1] > self.context_length:
            raise ConfigError(
                f"a row of {tokens.shape[1]} tokens is longer than model.context_length={self.context_length}; "
                f"try trainer.sequence_length={self.context_length}"
            )
        return self.ngram.checked(tokens, lowest=0)

    def _components(self, tokens: Ints, targets: Ints) -> tuple[Floats, Ints]:
        """Of targets (B, T) that are the next tokens: probabilities (C, R), and the bucket (R,) of their weights."""
        adjusted = self.ngram.tables.unigrams.take(targets.ravel())
        found_probs = [self.unigrams.numpy().take(targets.ravel())]
        seen, totals = np.zeros(tokens.size, np.int64), np.ones(tokens.size)
        for n, contexts, found in self.ngram.tables.walk(tokens, targets, runs_on=True):
            context = self._top_rows(n - 1, contexts)
            weight = (self._top_rows(n, found) if n < self.order else self.ngram.tables.rows(n, found))[:, 0]
            found_probs.append(weight * context[:, 1] + context[:, 2] * adjusted)
            if n < self.order:
                row = self.ngram.tables.rows(n - 1, contexts)
                adjusted = self.ngram.tables.rows(n, found)[:, 0] * row[:, 1] + row[:, 2] * adjusted
            _note(seen, totals, n - 1, contexts, context)
        cache, longest = cache_probabilities(tokens, targets, self.cache_order, self.vocab_size)
        return np.stack([*found_probs, cache.ravel()]), self._buckets(seen, totals, longest.ravel())

    def _distributions(self, tokens: Ints) -> Floats:
        """(B, V) of the token after rows (B, T)."""
        count, rows_of_tokens = len(tokens), tokens[:, -max(1, self.order - 1) :]
        adjusted = np.tile(self.ngram.tables.unigrams, (count, 1))
        found_probs = [np.tile(self.unigrams.numpy(), (count, 1))]
        seen, totals = np.zeros(count, np.int64), np.ones(count)
        for n, states in enumerate(self.ngram.tables.contexts(rows_of_tokens), start=2):
            contexts = states[:, -1]
            context = self._top_rows(n - 1, contexts)
            rows, following, found = self.ngram.tables.continuations(n, contexts)
            weight = (self._top_rows(n, found) if n < self.order else self.ngram.tables.rows(n, found))[:, 0]
            probs = context[:, 2:] * adjusted
            probs[rows, following] += weight * context[:, 1].take(rows)
            found_probs.append(probs)
            if n < self.order:
                row = self.ngram.tables.rows(n - 1, contexts)
                adjusted = row[:, 2:] * adjusted
                adjusted[rows, following] += self.ngram.tables.rows(n, found)[:, 0] * row[:, 1].take(rows)
            _note(seen, totals, n - 1, contexts, context)
        cache, longest = cache_distributions(tokens, self.cache_order, self.vocab_size)
        weights = self.weights.numpy()[self._buckets(seen, totals, longest)]  # (B, C)
        mixed: Floats = np.einsum("bc,cbv->bv", weights, np.stack([*found_probs, cache]))
        return mixed

    def _top_rows(self, n: int, states: Ints) -> Floats:
        places = np.maximum(states, -NODES) + NODES
        return self.get_buffer(f"tops_{n}").numpy().take(places, axis=0)

    def _buckets(self, seen: Ints, totals: Floats, longest: Ints) -> Ints:
        levels = np.minimum(np.log2(totals + 0.5).astype(np.int64), LEVELS - 1)
        return (seen * LEVELS + levels) * (self.cache_order + 1) + longest


def _note(seen: Ints, totals: Floats, n: int, contexts: Ints, rows: Floats) -> None:
    """Keep, for positions whose context of n tokens the training text has, n and how often it has it."""
    there = (contexts != ABSENT) & (contexts != UNSEEN) & (rows[:, 1] > 0)
    seen[there] = n
    totals[there] = 1 / rows[there, 1]


def _maximised(probs: Floats, buckets: Ints, weights: Floats) -> Floats:
    """Weights (S, C) under which probabilities (C, R) in buckets (R,) are most likely, drawn towards their average."""
    for _ in range(ROUNDS):
        shares = weights[buckets].T * probs
        shares /= shares.sum(0)
        sums = np.stack([np.bincount(buckets, share, len(weights)) for share in shares], axis=1)
        weights = sums + PRIOR * sums.sum(0) / sums.sum()
        weights /= weights.sum(1, keepdims=True)
    return weights
