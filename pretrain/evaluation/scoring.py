"""The loss and the rank of every target of a stream, some targets at a time, in order.

Shapes: R rows, P positions, S scored targets, N tokens of a stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.data.objectives import Objective
from pretrain.data.shards import TokenStream
from pretrain.errors import EvaluationError
from pretrain.evaluation.loss import device_of, objective_rows, row_starts, side_by_side
from pretrain.models.language_model import IGNORED, LanguageModel, Scores, State, documents_in, positions_in
from pretrain.stopping import Stop

TOKENS_AT_ONCE = {"cpu": 4096}  # else FAR_AT_ONCE: with more, a CPU's caches hold too little of a layer
FAR_AT_ONCE = 2**15
# Probabilities, about, that are looked at for the ranks of a model that needs whole distributions for them, such as an
# n-gram: some seconds. Further targets have no rank.
RANKED = 2**28
POSITIONED = 100_000  # targets, about, that are scored at every place of their rows, for the loss by position

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Tokens(Protocol):
    """Where rows of tokens come from: a TokenStream, or a text's own tokens."""

    name: str

    def __len__(self) -> int: ...

    def rows(self, starts: Ints, length: int) -> Ints: ...


@dataclass
class Text:
    """The tokens (N,) of a text, with an end of text before them."""

    tokens: Ints
    name: str = "text's"

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, starts: Ints, length: int) -> Ints:
        """The `length` tokens from each of `starts` (R,) on."""
        found: Ints = self.tokens[starts[:, None] + np.arange(length)]
        return found


@dataclass(frozen=True)
class Scored:
    """Some scored targets of a stream, (S,) each.

    Attributes:
        places: where in the stream each stands.
        seen: how many tokens before it the model was shown.
        again: whether an earlier row has scored it, with more before it.
        nats: losses.
        higher, equal: ranks, see models.language_model.Scores; equal is 0 where the rank is not known.
    """

    places: Ints
    seen: Ints
    again: NDArray[np.bool_]
    nats: Floats
    higher: Ints
    equal: Ints

    def only(self, chosen: NDArray[np.bool_]) -> "Scored":
        """Those of `chosen` (S,)."""
        return Scored(*(part[chosen] for part in vars(self).values()))


@torch.inference_mode()
def scored(
    model: LanguageModel,
    tokens: Tokens,
    *,
    row: int,
    stride: int,
    stop: Stop,
    end_of_text: int | None = None,
    positioned: int = 0,
) -> Iterator[Scored]:
    """Every token behind the first is scored once, in the rows of loss.stream_loss.

    Args:
        row: tokens a row.
        stride: new tokens a row.
        end_of_text: where it is given, no document in a row sees another.
        positioned: targets, about, of rows that are scored at every place, so that some come `again`.
    Raises:
        EvaluationError: there is no target.
        Interrupted: a signal came.
    """
    targets = len(tokens) - 1
    if targets < 1:
        raise EvaluationError(f"the {tokens.name} split holds no target token; bring more text")
    model.eval()
    if model.whole_documents:
        yield from _read_through(model, tokens, stop)
        return
    row = min(row, targets)
    rows = row_starts(targets, row, stride)
    every = max(1, len(rows) * row // positioned) if positioned else len(rows) + 1
    at_once = max(1, tokens_at_once(model) // row)
    # A model that overrides token_scores has its ranks from the logits of its losses.
    dear = type(model).token_scores is LanguageModel.token_scores
    ranked_every = max(1, len(rows) * row * model.vocab_size // RANKED) if dear else 1
    for number, first in enumerate(range(0, len(rows), at_once)):
        stop.check()
        starts, known = (np.array(part) for part in zip(*rows[first : first + at_once], strict=True))
        read = tokens.rows(starts, row + 1)
        wanted = read[:, 1:].copy()  # (R, row)
        again = np.arange(row) < known[:, None]
        wanted[again & (np.arange(first, first + len(starts)) % every != 0)[:, None]] = IGNORED
        found, seen = _of_rows(model, read[:, :-1], wanted, end_of_text, ranked=number % ranked_every == 0)
        places = starts[:, None] + np.arange(1, row + 1)
        yield _collected(found, wanted, places, seen, again)


def _of_rows(
    model: LanguageModel, tokens: Ints, targets: Ints, end_of_text: int | None, *, ranked: bool = True
) -> tuple[Scores, Ints]:
    """The scores of rows, and how many tokens each target is shown, (R, P)."""
    device = device_of(model)
    given, wanted = (torch.from_numpy(part).to(device) for part in (tokens, targets))
    if end_of_text is None:
        found = model.token_scores(given, wanted) if ranked else _unranked(model.token_losses(given, wanted)[0])
        seen = np.broadcast_to(np.arange(1, tokens.shape[1] + 1), tokens.shape)
    else:
        documents = documents_in(given, end_of_text)
        if ranked:
            found = model.document_scores(given, wanted, documents)
        else:
            found = _unranked(model.document_losses(given, wanted, documents))
        seen = positions_in(documents).cpu().numpy() + 1
    return found, seen if model.context_length is None else np.minimum(seen, model.context_length)


def _unranked(nats: Tensor) -> Scores:
    unknown = torch.zeros_like(nats, dtype=torch.int32)
    return Scores(nats, unknown, unknown)


def _read_through(model: LanguageModel, tokens: Tokens, stop: Stop) -> Iterator[Scored]:
    """Each target after all that stands before it, in one row; it is shown its document, from the end of text on."""
    state: State | None = None
    targets = len(tokens) - 1
    end_of_text, begin = tokens.rows(np.zeros(1, np.int64), 1)[0, 0], 0  # a stream starts with one
    for start in range(0, targets, FAR_AT_ONCE):
        stop.check()
        read = tokens.rows(np.array([start]), min(FAR_AT_ONCE, targets - start) + 1)
        found = model.token_scores(torch.from_numpy(read[:, :-1]), torch.from_numpy(read[:, 1:]), state)
        state = found.state
        places = start + np.arange(1, read.shape[1])[None]
        begins = np.maximum.accumulate(np.where(read[:, :-1] == end_of_text, places - 1, begin), axis=1)
        begin = int(begins[0, -1])
        yield _collected(found, read[:, 1:], places, places - begins, np.zeros(places.shape, np.bool_))


@torch.inference_mode()
def scored_objective(
    model: LanguageModel, stream: TokenStream, objective: Objective, *, row: int, stop: Stop
) -> Iterator[Scored]:
    """The targets that `objective` makes of rows side by side; the place of each is where its row starts.

    Raises:
        EvaluationError: the stream is too short for a source and a target.
        Interrupted: a signal came.
    """
    row, starts = objective_rows(stream, row)
    first = 0
    for tokens, targets in side_by_side(stream, objective, starts, row):
        stop.check()
        found, seen = _of_rows(model, tokens, targets, None)
        places = np.broadcast_to(starts[first : first + len(tokens), None] + 1, targets.shape)
        yield _collected(found, targets, places, seen, np.zeros(targets.shape, np.bool_))
        first += len(tokens)


def _collected(found: Scores, targets: Ints, places: Ints, seen: Ints, again: NDArray[np.bool_]) -> Scored:
    chosen = targets != IGNORED
    nats, higher, equal = (part.cpu().numpy()[chosen] for part in (found.nats, found.higher, found.equal))
    return Scored(places[chosen], seen[chosen], again[chosen], nats.astype(np.float64), higher, equal)


def tokens_at_once(model: LanguageModel) -> int:
    """How many tokens a model reads fastest together."""
    return TOKENS_AT_ONCE.get(device_of(model).type, FAR_AT_ONCE)
