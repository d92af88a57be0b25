"""n-gram model: the next token depends on the last n-1 tokens only; counted, not trained by gradients.

Every order's n-grams are a sorted table, and all tables together a trie: an n-gram's key is the index of its first n-1
tokens in the table before, times V, plus its last token. Walking a text through the trie takes one search an order.

Shapes: B rows, T positions, V ids of the vocabulary, K_n distinct n-grams of order n, N tokens of a stream.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Gt, Interval
from numpy.typing import NDArray
from torch import Tensor

from pretrain.errors import CheckpointError, DataError, TrainingError
from pretrain.models.language_model import IGNORED, LanguageModel, State
from pretrain.models.ngram_counts import OrderCounts, count_ngrams
from pretrain.models.smoothing import additive, kneser_ney

UNSEEN = -1  # a context that the training text does not have
ABSENT = -2  # no context of this length: it would cross the row's start or the document's

STREAM_CHUNK = 2**20  # tokens scored at a time


class NGram(LanguageModel):
    """Log-probabilities of the next token from counts of n-grams.

    At the start of a document (EOT is its first context) or of a row a context is as long as it can be, and add_k and
    none use the estimate of the order that fits it.

    Args:
        order: n, the tokens of the longest n-gram; 1 looks at no context.
        smoothing: kneser_ney (interpolated, modified: every order has a say), add_k, or none: maximum likelihood,
            where an unseen n-gram and all that follows an unseen context have an infinite loss.
        k: added to every count by add_k; the others do not use it.

    Buffers, all of them saved (natural logarithms in float64):
        keys_n: (K_n,) int64, ascending, for n from 2; the unigrams are the V ids.
        log_probs_n: (K_n,) of an n-gram's last token after the others.
        log_unseen_n: (K_n,) for n below the order: what the n-gram, as a context, gives a token never seen after it.
            With kneser_ney a weight to add to the shorter context's log-probability, else the log-probability itself.
        end_of_text: () int64, the id that parts documents.
    """

    end_of_text: Tensor

    def __init__(
        self,
        vocab_size: int,
        *,
        order: Annotated[int, Interval(ge=1, le=32)],
        smoothing: Literal["kneser_ney", "add_k", "none"],
        k: Annotated[float, Gt(0)],
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = order - 1
        self.order = order
        self.smoothing = smoothing
        self.k = k
        # After an unseen context Kneser-Ney asks the shorter one, add_k finds all tokens alike, none allows no token.
        self.log_unseen_context = {"kneser_ney": 0.0, "add_k": -math.log(vocab_size), "none": -math.inf}[smoothing]
        for n in range(1, order + 1):
            self.register_buffer(f"log_probs_{n}", torch.empty(0, dtype=torch.float64))
        for n in range(2, order + 1):
            self.register_buffer(f"keys_{n}", torch.empty(0, dtype=torch.int64))
            self.register_buffer(f"log_unseen_{n - 1}", torch.empty(0, dtype=torch.float64))
        self.register_buffer("end_of_text", torch.tensor(0))

    def fit(self, tokens: NDArray[np.integer], end_of_text: int) -> None:
        """Count a stream (N,), EOT document EOT ... EOT, and estimate.

        Raises:
            DataError: no target to count, or an id outside the vocabulary.
        """
        counts = count_ngrams(tokens, self.order, vocab_size=self.vocab_size, end_of_text=end_of_text)
        self.fit_counts(counts, end_of_text)

    def fit_counts(self, counts: list[OrderCounts], end_of_text: int) -> None:
        """Estimate from counts of this order or a higher one: one count serves models of several orders."""
        counts = counts[: self.order]
        if self.smoothing == "kneser_ney":
            estimates = kneser_ney(counts, self.vocab_size)
        else:
            estimates = additive(counts, self.vocab_size, self.k if self.smoothing == "add_k" else 0.0)
        tables = {f"log_probs_{n}": table for n, table in enumerate(estimates.log_probs, start=1)}
        tables |= {f"log_unseen_{n}": table for n, table in enumerate(estimates.log_unseen) if n > 0}
        keys = {f"keys_{n}": level.keys for n, level in enumerate(counts, start=1) if n > 1}
        tensors = {name: torch.from_numpy(table) for name, table in (tables | keys).items()}
        self._take(tensors | {"end_of_text": torch.tensor(end_of_text)})

    def forward(self, tokens: Tensor) -> Tensor:
        """Log-probabilities (B, T, V) float64 of the token after each of `tokens` (B, T); errors as token_losses."""
        self._check(tokens, lowest=0)
        log_probs, contexts = self._table("log_probs", 1).repeat(*tokens.shape, 1), tokens  # (B, T, V), (B, T)
        for n in range(2, self.order + 1):
            log_probs = self._unless_seen(n, contexts[..., None], log_probs)
            keys, flat = self._table("keys", n), contexts.flatten()  # (K_n,), (B*T,)
            first = torch.searchsorted(keys, flat * self.vocab_size)  # (B*T,)
            counts = torch.searchsorted(keys, (flat + 1) * self.vocab_size) - first  # n-grams that begin so
            rows = torch.repeat_interleave(counts)  # (S,) the position that each of these S n-grams belongs to
            seen = first[rows] + torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
            log_probs.view(-1, self.vocab_size)[rows, keys[seen] % self.vocab_size] = self._table("log_probs", n)[seen]
            contexts = self._extended(n, contexts, tokens, None)
        return log_probs

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Nats (B, T) in float64, each target looked up: no (B, T, V) is made. There is no state; see LanguageModel.

        Raises:
            DataError: an id outside the vocabulary.
            TrainingError: nothing was counted yet.
        """
        self._check(tokens, lowest=0)
        self._check(targets, lowest=IGNORED)
        ignored = targets == IGNORED
        targets = torch.where(ignored, tokens.roll(-1, dims=1), targets)
        runs_on = torch.equal(targets[:, :-1], tokens[:, 1:])  # then what a target ends is the next position's context
        log_probs, contexts = self._table("log_probs", 1)[targets], tokens  # (B, T)
        for n in range(2, self.order + 1):
            found = self._find(n, contexts, targets)
            log_probs = _at(self._table("log_probs", n), found, self._unless_seen(n, contexts, log_probs))
            contexts = self._extended(n, contexts, tokens, found[:, :-1] if runs_on else None)
        return (-log_probs).masked_fill(ignored, 0.0), None

    def stream_losses(self, stream: NDArray[np.integer]) -> NDArray[np.float64]:
        """Nats (N-1,) of each token of a stream (N,) after the first, with all the context that it has there."""
        losses = np.empty(max(0, len(stream) - 1))
        for start in range(0, len(losses), STREAM_CHUNK):
            stop = min(start + STREAM_CHUNK, len(losses))
            left = max(0, start - self.order)
            chunk = torch.from_numpy(stream[left : stop + 1].astype(np.int64)).to(self.end_of_text.device)
            nats, _ = self.token_losses(chunk[None, :-1], chunk[None, 1:])
            losses[start:stop] = nats[0, start - left :].cpu().numpy()
        return losses

    def parameter_count(self) -> int:
        """Stored n-grams of all orders; those of order 1 are the V ids."""
        return sum(len(self._table("log_probs", n)) for n in range(1, self.order + 1))

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over fitted tables, whatever the sizes that the text has given them.

        Raises:
            CheckpointError: they are not the tables of an n-gram of this order and vocabulary.
        """
        wrong = self._mismatches(weights)
        if wrong:
            shown = "; ".join(wrong[:4]) + ("; ..." if len(wrong) > 4 else "")
            raise CheckpointError(f"not the tables of an n-gram of order {self.order}, {self.vocab_size} ids: {shown}")
        self._take(weights)

    def _mismatches(self, weights: Mapping[str, Tensor]) -> list[str]:
        own = dict(self.named_buffers())
        wrong = [f"{name} {tuple(table.shape)} is unknown" for name, table in weights.items() if name not in own]
        wrong += [f"{name} is missing" for name in own if name not in weights]
        if wrong:
            return wrong
        sizes = {n: weights[f"keys_{n}"].numel() for n in range(2, self.order + 1)} | {1: self.vocab_size}
        for name, table in weights.items():
            shape = () if name == "end_of_text" else (sizes[int(name.rpartition("_")[2])],)
            if (table.dtype, table.shape) != (own[name].dtype, shape):
                wrong.append(f"{name} is {table.dtype} {tuple(table.shape)}, not {own[name].dtype} {shape}")
        if wrong:
            return wrong
        for n in range(2, self.order + 1):
            keys, bound = weights[f"keys_{n}"], sizes[n - 1] * self.vocab_size
            if len(keys) and not (keys[0] >= 0 and keys[-1] < bound and bool((keys.diff() > 0).all())):
                wrong.append(f"keys_{n} {tuple(keys.shape)} are not ascending from 0 to below {bound}")
        return wrong

    def _take(self, tables: Mapping[str, Tensor]) -> None:
        for name, table in tables.items():
            setattr(self, name, table.to(self.end_of_text.device))

    def _table(self, kind: Literal["keys", "log_probs", "log_unseen"], n: int) -> Tensor:
        return self.get_buffer(f"{kind}_{n}")

    def _check(self, ids: Tensor, lowest: int) -> None:
        if not len(self._table("log_probs", 1)):
            raise TrainingError("this n-gram has not counted anything yet; call fit or load_weights first")
        for token in ids.aminmax() if ids.numel() else ():
            if not lowest <= int(token) < self.vocab_size:
                raise DataError(f"token id {int(token)} is not in the vocabulary of {self.vocab_size} ids")

    def _extended(self, n: int, contexts: Tensor, tokens: Tensor, found: Tensor | None) -> Tensor:
        """The contexts of order n+1, n tokens up to each position, from those of order n; all (B, T).

        Args:
            found: (B, T-1) the n-gram of each context and the token of the next position, where it is known already.
        """
        if n == self.order:
            return contexts
        shorter, last = contexts[:, :-1], tokens[:, 1:]
        found = self._find(n, shorter, last) if found is None else found
        absent = (shorter == ABSENT) | (last == self.end_of_text)
        return F.pad(found.masked_fill(absent, ABSENT), (1, 0), value=ABSENT)

    def _find(self, n: int, contexts: Tensor, following: Tensor) -> Tensor:
        """Index of the n-gram of each context and the token that follows it, or UNSEEN; shaped as they are."""
        keys = self._table("keys", n)
        if not len(keys):
            return torch.full_like(contexts, UNSEEN)
        wanted = contexts * self.vocab_size + following  # negative, and in no table, for a context that has no index
        places = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return places.masked_fill(keys[places] != wanted, UNSEEN)

    def _unless_seen(self, n: int, contexts: Tensor, shorter: Tensor) -> Tensor:
        """Log-probability of tokens that order n has not seen after `contexts`, given that of order n-1."""
        unseen = _at(self._table("log_unseen", n - 1), contexts, shorter.new_tensor(self.log_unseen_context))
        if self.smoothing == "kneser_ney":
            unseen = unseen + shorter
        return torch.where(contexts == ABSENT, shorter, unseen)


def _at(table: Tensor, indices: Tensor, otherwise: Tensor) -> Tensor:
    """table[indices], and `otherwise` where an index is negative."""
    if not len(table):
        return otherwise.expand_as(indices)
    return torch.where(indices >= 0, table[indices.clamp(min=0)], otherwise)
