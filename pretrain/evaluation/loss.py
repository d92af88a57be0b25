"""The loss of a model on a stream of tokens: every token after the first is a target once, or as an objective says."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.data.objectives import Objective
from pretrain.data.permutation import mixed
from pretrain.data.shards import TokenStream
from pretrain.errors import EvaluationError
from pretrain.models.language_model import IGNORED, LanguageModel, documents_in
from pretrain.stopping import Stop

TOKENS_AT_ONCE = 16_384
SEED = 0  # of an objective's random numbers: every evaluation draws the same

Pairs = Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]  # tokens and targets, (R, P) each


@dataclass(frozen=True)
class Part:
    """Which rows of an evaluation this process measures.

    Attributes:
        rank, ranks: every `ranks`-th row, from the `rank`-th on.
        sum: of a tensor over all ranks, in place.
    """

    rank: int = 0
    ranks: int = 1
    sum: Callable[[Tensor], Tensor] = lambda numbers: numbers

    def of(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's rows of those of all ranks; where there are none, one without targets, for all keep step."""
        mine = slice(self.rank, None, self.ranks)
        if self.rank < len(tokens):
            return tokens[mine], targets[mine]
        return tokens[:1], torch.full_like(targets[:1], IGNORED)


WHOLE = Part()  # the rows of all ranks where there is one


@dataclass(frozen=True)
class Loss:
    """Attributes:
    nats: total; infinite where a target has no probability.
    tokens: targets.
    unseen: targets without probability.
    """

    nats: float
    tokens: int
    unseen: int = 0

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return math.inf if self.mean >= 700 else math.exp(self.mean)

    def bits_per(self, units: int) -> float:
        """Bits per byte, character or word of the text, of which there are `units`.

        Raises:
            EvaluationError: there are none.
        """
        if not units:
            raise EvaluationError("the validation text is empty: there is nothing to divide the loss by")
        return self.nats / math.log(2) / units


@dataclass(frozen=True)
class Validation:
    """How a run measures itself.

    Attributes:
        row: tokens a row.
        stride: new tokens a row.
        some: targets of an evaluation in the middle of a run.
        apart: whether no document sees another, as in training with packing `documents`.
        objective: what rows are made into, where that is not the next token.
        part: what this process measures of it.
    """

    stream: TokenStream
    row: int
    stride: int
    some: int
    stop: Stop
    apart: bool = False
    objective: Objective | None = None
    part: Part = WHOLE

    def loss(self, model: LanguageModel, *, whole: bool) -> Loss:
        """The loss on the whole stream, or on rows that are spread evenly over it."""
        most = None if whole else self.some
        if self.objective is not None:
            return objective_loss(
                model, self.stream, self.objective, row=self.row, stop=self.stop, most=most, part=self.part
            )
        return stream_loss(
            model,
            self.stream,
            row=self.row,
            stride=self.stride,
            stop=self.stop,
            most=most,
            apart=self.apart,
            part=self.part,
        )

    def bits_per_byte(self, loss: Loss) -> float | None:
        """Bits per byte of the text; for a loss on a part, with the tokens a byte of the whole.

        None for an objective whose targets are not the text.
        """
        return self._bits_per(loss, self.stream.bytes)

    def bits_per_character(self, loss: Loss) -> float | None:
        """Likewise, per Unicode character."""
        return self._bits_per(loss, self.stream.characters)

    def _bits_per(self, loss: Loss, units: int) -> float | None:
        if self.objective is not None:
            return None
        return Loss(loss.mean * (len(self.stream) - 1), len(self.stream) - 1).bits_per(units)


@torch.inference_mode()
def stream_loss(
    model: LanguageModel,
    stream: TokenStream,
    *,
    row: int,
    stride: int,
    stop: Stop,
    most: int | None = None,
    apart: bool = False,
    part: Part = WHOLE,
) -> Loss:
    """The loss on `stream`, read in overlapping rows of which the first counts whole, the others by their new end.

    A model of whole documents (Prefix) knows nothing of a row that begins inside one: it reads the stream from its
    beginning, whatever `row` and `stride` are.

    Args:
        row: tokens a row.
        stride: new tokens a row, so that a target sees at least row - stride tokens.
        most: targets, about, from rows spread evenly over the stream; None for all.
        apart: whether no document in a row sees another.
        part: what this process measures of it; the loss is that on all parts.
    Raises:
        EvaluationError: the stream has no target.
        Interrupted: a signal came.
    """
    targets = len(stream) - 1
    if targets < 1:
        raise EvaluationError(f"the {stream.name} split holds no target token; bring more text")
    if model.whole_documents:
        return _read_through(model, stream, targets if most is None else min(most, targets), stop)
    row = min(row, targets)
    places = row_starts(targets, row, stride)
    if most is not None:
        places = places[:: max(1, targets // most)]
    return _summed(model, _overlapping(stream, places, row), stop, part, stream.end_of_text if apart else None)


def row_starts(targets: int, row: int, stride: int) -> list[tuple[int, int]]:
    """Where rows of `row` tokens start that score each of `targets` once, and how many an earlier row has scored.

    Args:
        row: at most `targets`.
        stride: new tokens a row; more than a row are a row.
    """
    stride = min(stride, row)
    # The last row is moved back to end with the stream.
    starts = [0, *range(stride, targets - row + stride, stride)]
    places = [(min(start, targets - row), row - stride if start else 0) for start in starts]
    places[-1] = (places[-1][0], places[-2][0] + row - places[-1][0] if len(places) > 1 else 0)
    return places


def _read_through(model: LanguageModel, stream: TokenStream, targets: int, stop: Stop) -> Loss:
    """The loss on the first `targets` targets of the stream, each after all that stands before it."""
    nats, unseen, state = 0.0, 0, None
    for start in range(0, targets, TOKENS_AT_ONCE):
        stop.check()
        row = torch.from_numpy(stream.rows(np.array([start]), min(TOKENS_AT_ONCE, targets - start) + 1))
        found, state = model.token_losses(row[:, :-1], row[:, 1:], state)
        nats += float(found.sum(dtype=torch.float64))
        unseen += int(found.isinf().sum())
    return Loss(nats, targets, unseen)


@torch.inference_mode()
def objective_loss(
    model: LanguageModel,
    stream: TokenStream,
    objective: Objective,
    *,
    row: int,
    stop: Stop,
    most: int | None = None,
    part: Part = WHOLE,
) -> Loss:
    """The loss on the targets that `objective` makes of `stream`, read in rows side by side, but for a last, short one.

    Args:
        row: tokens a row.
        most: tokens, about, in rows spread evenly over the stream; None for all.
        part: what this process measures of it; the loss is that on all parts.
    Raises:
        EvaluationError: the stream is too short for a source and a target.
        Interrupted: a signal came.
    """
    row, starts = objective_rows(stream, row)
    if most is not None:
        starts = starts[:: max(1, (len(stream) - 1) // most)]
    return _summed(model, side_by_side(stream, objective, starts, row), stop, part)


def objective_rows(stream: TokenStream, row: int) -> tuple[int, NDArray[np.int64]]:
    """How long the rows of an evaluation are that objectives turn into others, and where each starts.

    Raises:
        EvaluationError: the stream is too short for a source and a target.
    """
    tokens = len(stream) - 1
    if tokens < 2:
        raise EvaluationError(f"the {stream.name} split is too short for a source and a target; bring more text")
    row = min(row, tokens)
    return row, np.arange(0, tokens - row + 1, row)


def _overlapping(stream: TokenStream, places: list[tuple[int, int]], row: int) -> Pairs:
    at_once = max(1, TOKENS_AT_ONCE // row)
    for first in range(0, len(places), at_once):
        some = places[first : first + at_once]
        rows = stream.rows(np.array([start for start, _ in some]), row + 1)
        targets = rows[:, 1:].copy()  # (R, row)
        for index, (_, seen) in enumerate(some):
            targets[index, :seen] = IGNORED
        yield rows[:, :-1], targets


def side_by_side(stream: TokenStream, objective: Objective, starts: NDArray[np.int64], row: int) -> Pairs:
    """What an objective makes of the rows from `starts` (R,) on."""
    at_once = max(1, TOKENS_AT_ONCE // row)
    for first in range(0, len(starts), at_once):
        some = starts[first : first + at_once]
        yield objective(stream.rows(some, row + 1), mixed(SEED, some))


def _summed(model: LanguageModel, pairs: Pairs, stop: Stop, part: Part, end_of_text: int | None = None) -> Loss:
    """The loss on all targets of `pairs`.

    Args:
        end_of_text: where it is given, no document in a row sees another.
    """
    device = device_of(model)
    sums = torch.zeros(3, dtype=torch.float64)  # nats, targets, those unseen
    model.eval()
    for pair in pairs:
        stop.check()
        tokens, targets = part.of(*(torch.from_numpy(half).to(device) for half in pair))
        if end_of_text is None:
            found, _ = model.token_losses(tokens, targets)  # (R, P)
        else:
            found = model.document_losses(tokens, targets, documents_in(tokens, end_of_text))
        found_here = (found.sum(dtype=torch.float64), (targets != IGNORED).sum(), found.isinf().sum())
        sums += torch.stack([number.double() for number in found_here]).cpu()
    nats, counted, unseen = part.sum(sums).tolist()
    return Loss(nats, int(counted), int(unseen))


def device_of(model: LanguageModel) -> torch.device:
    """Where a model computes; one of counts has no parameters, and computes on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
