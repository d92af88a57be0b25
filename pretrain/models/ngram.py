"""n-gram model: the next token depends on the last n-1 tokens only; counted, not trained by gradients.

Shapes: B rows, T positions, V ids of the vocabulary, N tokens of a stream, R contexts; M_n nodes of order n, which are
the n-grams that occur twice or more (see ngram_counts).
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Gt, Interval
from numpy.typing import NDArray
from torch import Tensor

from pretrain.errors import CheckpointError, ConfigError, DataError, TrainingError
from pretrain.models.language_model import IGNORED, LanguageModel, State
from pretrain.models.ngram_arpa import arpa_tables
from pretrain.models.ngram_counts import OrderCounts, count_ngrams, distinct, exceeds
from pretrain.models.ngram_packed import pack, packed_names, unpack
from pretrain.models.ngram_storage import Ints
from pretrain.models.ngram_tables import NO_TOKEN, NGramTables, fits
from pretrain.models.ngram_trie import ABSENT, mismatches
from pretrain.models.smoothing import NODES, Floats, chosen_counts, estimated

TARGETS_AT_ONCE = 2**16  # of a thread
STREAM_CHUNK = 2**20  # tokens scored at a time


class NGram(LanguageModel):
    """Log-probabilities of the next token from counts of n-grams.

    At the start of a document (EOT is its first context) or of a row a context is as long as it can be, and add_k and
    none use the estimate of the order that fits it.

    Args:
        order: n, the tokens of the longest n-gram; 1 looks at no context.
        smoothing: kneser_ney (interpolated, modified), absolute and witten_bell: every order has a say. add_k, and
            none: maximum likelihood, where an unseen n-gram and all that follows an unseen context have an infinite
            loss. stupid_backoff (Brants et al. 2007, https://aclanthology.org/D07-1090/) gives scores that do not sum
            to 1, so its losses are NaN. arpa: nothing is counted, the ARPA file `path` has the probabilities.
        k: added to every count by add_k; the others do not use it.
        memory_bytes: a model that needs more is fitted, kept and looked up on disk, see ngram_storage.
        path: of an ARPA file whose words are token ids in decimal, plain or compressed by gzip.
        quantised: whether counts above 191 are rounded by a few per cent, and the model is saved in few bytes; it is
            unpacked in memory, whatever memory_bytes is.

    The tables stay in the computer's memory whatever the device: token ids come to them, results go back.

    Buffers: keys_n, links_n and tails, see ngram_trie; and
        unigrams: (V,) probabilities without a context.
        nodes_n: (NODES + M_n, 3) weight, scale and rest, or (NODES + M_n, 1) for the order itself; see smoothing.
        end_of_text: () int64, the id that parts documents.
    """

    end_of_text: Tensor

    def __init__(
        self,
        vocab_size: int,
        *,
        order: Annotated[int, Interval(ge=1, le=32)],
        smoothing: Literal["kneser_ney", "absolute", "witten_bell", "add_k", "none", "stupid_backoff", "arpa"],
        k: Annotated[float, Gt(0)],
        memory_bytes: Annotated[int, Gt(0)] = 2**33,
        path: str | None = None,
        quantised: bool = False,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = order - 1
        self.order = order
        self.smoothing = smoothing
        self.k = k
        self.memory_bytes = memory_bytes
        self.path = path
        if (smoothing == "arpa") != (path is not None):
            raise ConfigError(f"model.smoothing={smoothing} with model.path={path}; model.path names the file of arpa")
        self.quantised = quantised
        if quantised and smoothing == "arpa":
            raise ConfigError("model.quantised=true rounds counts, and model.smoothing=arpa has none; set it to false")
        self._tables: NGramTables | None = None
        for name, dtype in _buffers(order, vocab_size, quantised).items():
            self.register_buffer(name, torch.empty(0, dtype=dtype))
        self.register_buffer("end_of_text", torch.tensor(0))

    def _apply(self, fn: Any, recurse: bool = True) -> "NGram":
        return self

    def fit(self, tokens: NDArray[Any], end_of_text: int) -> None:
        """Count a stream (N,), EOT document EOT ... EOT, and estimate.

        Raises:
            DataError: no target, an id outside the vocabulary, or no text as long as the order.
        """
        if self.path is not None:
            ids = {str(id): id for id in range(self.vocab_size)}
            self._take(arpa_tables(Path(self.path), ids, self.order, self.vocab_size, end_of_text), end_of_text)
            return
        self.fit_counts(self._counted(tokens, end_of_text), end_of_text)

    def _counted(self, tokens: NDArray[Any], end_of_text: int) -> list[OrderCounts]:
        sizes = {"vocab_size": self.vocab_size, "end_of_text": end_of_text}
        counts = count_ngrams(tokens, self.order, memory_bytes=self.memory_bytes, **sizes)
        self.refuse_beyond(counts)
        return counts

    def refuse_beyond(self, counts: list[OrderCounts]) -> None:
        """Raise DataError where no text is as long as the order."""
        longest = max(n for n, kinds in enumerate(distinct(counts, self.vocab_size), start=1) if kinds)
        if longest < self.order:
            raise DataError(
                f"model.order={self.order} is beyond the training text: no document in it, its two ends included, has "
                f"more than {longest} tokens; try model.order={longest}"
            )

    def on_disk(self, counts: list[OrderCounts]) -> bool:
        """Whether a model of these counts needs more than memory_bytes."""
        return exceeds(self.memory_bytes, int(counts[0].counts.sum()) + 1, self.order, self.vocab_size)

    def fit_counts(self, counts: list[OrderCounts], end_of_text: int) -> None:
        """Estimate from counts of this order or a higher one: one count serves models of several orders."""
        counts = counts[: self.order]
        if self.quantised:
            used = chosen_counts(counts, self.smoothing)
            self._take_packed(pack(counts, used, self.vocab_size, end_of_text), end_of_text)
        else:
            arrays = estimated(counts, self.vocab_size, self.smoothing, self.k, on_disk=self.on_disk(counts))
            del counts  # its memory is wanted for the hash tables
            self._take(arrays, end_of_text)

    def forward(self, tokens: Tensor) -> Tensor:
        """Log-probabilities (B, T, V) float64 of the token after each of `tokens` (B, T); errors as token_losses."""
        ids = self.checked(tokens, lowest=0)
        probs = self.tables.distributions([states.ravel() for states in self.tables.contexts(ids)], ids.size)
        return _logarithms(probs).view(*tokens.shape, self.vocab_size).to(tokens.device)

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See LanguageModel; the state is that of the trie after the last 1, 2 ... n-1 tokens of each row."""
        ids, ends = self.checked(tokens, lowest=0), lengths.cpu().numpy()
        states = np.full((len(ids), max(1, self.order - 1)), ABSENT) if state is None else state["states"].cpu().numpy()
        for back in range(min(ids.shape[1], states.shape[1]), 0, -1):  # earlier tokens do not matter
            there = ends >= back
            column = ids[np.arange(len(ids)), np.maximum(ends - back, 0)]
            states = np.where(there[:, None], self.tables.step(states, column), states)
        probs = self.tables.distributions(list(states.T[: self.order - 1]), len(ids))
        return _logarithms(probs).to(tokens.device), {"states": torch.from_numpy(states).to(tokens.device)}

    def window(self, tokens: Tensor, lengths: Tensor, state: State | None, width: int) -> tuple[Ints, State]:
        """The last tokens (B, width) of each row, NO_TOKEN before its start, and the state that keeps them."""
        self.checked(tokens, lowest=0)
        before = tokens.new_full((len(tokens), width), NO_TOKEN) if state is None else state["window"]
        places = lengths[:, None] + torch.arange(width, device=tokens.device)
        window = torch.cat([before, tokens], dim=1).gather(1, places)
        return window.cpu().numpy(), {"window": window}

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Nats (B, T) in float64, each target looked up: no (B, T, V) is made. There is no state; see LanguageModel.

        Raises:
            DataError: an id outside the vocabulary.
            TrainingError: nothing was counted yet.
        """
        nats = -self.log_scores(tokens, targets)
        if self.smoothing == "stupid_backoff":
            nats = nats.masked_fill(targets != IGNORED, torch.nan)  # a score is no probability
        return nats, None

    def log_scores(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Logarithms (B, T) of the probabilities of `targets` (B, T), or of stupid_backoff's scores; 0 if IGNORED."""
        ids, wanted = self.checked(tokens, lowest=0), self.checked(targets, lowest=IGNORED)
        scores = np.empty(wanted.shape)

        def score(piece: tuple[slice, int, int]) -> None:
            rows, start, stop = piece
            left = max(0, start - self.order)
            here = wanted[rows, left:stop]
            ignored = here == IGNORED
            if some := bool(ignored.any()):
                here = np.where(ignored, np.roll(ids[rows, left:stop], -1, axis=1), here)
            probs = self.tables.probabilities(ids[rows, left:stop], here)[:, start - left :]
            with np.errstate(divide="ignore"):  # the log of 0 is meant: maximum likelihood, unseen
                np.log(probs, out=scores[rows, start:stop])
            if some:
                scores[rows, start:stop][ignored[:, start - left :]] = 0.0

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(score, _pieces(*wanted.shape)))
        return torch.from_numpy(scores).to(tokens.device)

    def stream_losses(self, stream: NDArray[Any]) -> NDArray[np.float64]:
        """Nats (N-1,) of each token of a stream (N,) after the first, with all the context that it has there."""
        losses = np.empty(max(0, len(stream) - 1))
        for start, stop in _spans(len(losses), STREAM_CHUNK):
            left = max(0, start - self.order)
            chunk = torch.from_numpy(stream[left : stop + 1].astype(np.int64))
            losses[start:stop] = self.token_losses(chunk[None, :-1], chunk[None, 1:])[0][0, start - left :].numpy()
        return losses

    def parameter_count(self) -> int:
        """Stored n-grams of all orders; those of order 1 are the V ids."""
        return self._tables.ngrams() if self._tables else 0

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over fitted tables, whatever the sizes that the text has given them.

        Raises:
            CheckpointError: they are not the tables of an n-gram of this order and vocabulary.
        """
        if self.quantised and weights.keys() == self.state_dict().keys():
            packed = {name: table.cpu().numpy() for name, table in weights.items()}
            self._take_packed(packed, int(packed.pop("end_of_text")))
            return
        wrong = self._mismatches(weights)
        if wrong:
            shown = "; ".join(wrong[:4]) + ("; ..." if len(wrong) > 4 else "")
            raise CheckpointError(f"not the tables of an n-gram of order {self.order}, {self.vocab_size} ids: {shown}")
        arrays: dict[str, Ints] = {name: table.cpu().numpy() for name, table in weights.items()}
        if fits(arrays, self.memory_bytes):  # else they stay in the file that they come from
            arrays = {name: np.array(table) for name, table in arrays.items()}  # in large pages, by NumPy
        self._take(arrays, int(arrays.pop("end_of_text")))

    def _mismatches(self, weights: Mapping[str, Tensor]) -> list[str]:
        own = self.state_dict()
        wrong = [f"{name} {tuple(table.shape)} is unknown" for name, table in weights.items() if name not in own]
        wrong += [f"{name} is missing" for name in own if name not in weights]
        if wrong:
            return wrong
        nodes = {n: len(weights[f"nodes_{n}"]) - NODES for n in range(2, self.order + 1)} | {1: self.vocab_size}
        shapes: dict[str, tuple[int, ...]] = {"unigrams": (self.vocab_size,), "end_of_text": ()}
        shapes |= {f"nodes_{n}": (NODES + count, 3 if n < self.order else 1) for n, count in nodes.items()}
        for name, table in weights.items():
            found, shape = (table.dtype, table.shape), shapes.get(name, table.shape)
            if found != (own[name].dtype, shape) and not (name.startswith("links") and table.dtype == torch.int64):
                wrong.append(f"{name} is {table.dtype} {tuple(table.shape)}, not {own[name].dtype} {shape}")
        arrays = {name: table.cpu().numpy() for name, table in weights.items()}
        return wrong or mismatches(arrays, nodes, self.order, self.vocab_size)

    def _take_packed(self, packed: Mapping[str, NDArray[Any]], end_of_text: int) -> None:
        counts = unpack(packed, self.order, self.vocab_size, end_of_text)
        self._take(estimated(counts, self.vocab_size, self.smoothing, self.k), end_of_text, saved=packed)

    def _take(
        self, arrays: Mapping[str, Ints], end_of_text: int, saved: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        for name, array in (arrays if saved is None else saved).items():
            setattr(self, name, torch.from_numpy(array))
        self.end_of_text = torch.tensor(end_of_text)
        self._tables = NGramTables(
            self.order, self.vocab_size, self.smoothing, arrays, end_of_text, memory_bytes=self.memory_bytes
        )

    @property
    def tables(self) -> NGramTables:
        """What is looked up; TrainingError where nothing was counted yet."""
        if self._tables is None:
            raise TrainingError("this n-gram has not counted anything yet; call fit or load_weights first")
        return self._tables

    def checked(self, ids: Tensor, lowest: int) -> Ints:
        """The ids as an array."""
        assert self.tables
        found: Ints = ids.cpu().numpy()
        for token in (found.min(), found.max()) if found.size else ():
            if not lowest <= token < self.vocab_size:
                raise DataError(f"token id {token} is not in the vocabulary of {self.vocab_size} ids")
        return found


def _logarithms(probs: Floats) -> Tensor:
    with np.errstate(divide="ignore"):  # the log of 0 is meant: maximum likelihood, unseen
        return torch.from_numpy(np.log(probs))


def _buffers(order: int, vocab_size: int, quantised: bool) -> dict[str, torch.dtype]:
    """The names and types of what is saved."""
    if quantised:
        whole = ("counts", "largest", "many")
        return {name: torch.int64 if name.startswith(whole) else torch.uint8 for name in packed_names(order)}
    longer = range(2, order + 1)
    types = {"unigrams": torch.float64, "tails": torch.int16 if vocab_size < 2**15 else torch.int32}
    types |= {f"nodes_{n}": torch.float64 for n in range(1, order + 1)}
    return types | {f"keys_{n}": torch.int64 for n in longer} | {f"links_{n}": torch.int32 for n in longer}


def _pieces(rows: int, length: int) -> Iterator[tuple[slice, int, int]]:
    """(rows, start, stop) of parts of a (rows, length) tensor: equal ones, of about TARGETS_AT_ONCE targets at most."""
    for first, last in _spans(rows, max(1, TARGETS_AT_ONCE // max(1, length))):
        for start, stop in _spans(length, TARGETS_AT_ONCE):
            yield slice(first, last), start, stop


def _spans(count: int, most: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of equal parts of at most `most` things each; where it takes several, an even number of them."""
    parts = -(-count // most)
    parts += parts % 2 * (1 < parts < count)  # two threads end together
    for part in range(parts):
        yield count * part // parts, count * (part + 1) // parts
