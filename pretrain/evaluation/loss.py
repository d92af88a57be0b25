"""The loss of a model on a stream of tokens: every token after the first is a target once."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.data.shards import TokenStream
from pretrain.errors import EvaluationError
from pretrain.models.language_model import IGNORED, LanguageModel, documents_in
from pretrain.stopping import Stop

TOKENS_AT_ONCE = 16_384


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
        return math.exp(self.mean) if self.mean < 700 else math.inf

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
    """

    stream: TokenStream
    row: int
    stride: int
    some: int
    stop: Stop
    apart: bool = False

    def loss(self, model: LanguageModel, *, whole: bool) -> Loss:
        """The loss on the whole stream, or on rows that are spread evenly over it."""
        most = None if whole else self.some
        return stream_loss(
            model, self.stream, row=self.row, stride=self.stride, stop=self.stop, most=most, apart=self.apart
        )

    def bits_per_byte(self, loss: Loss) -> float:
        """Bits per byte of the text; for a loss on a part, with the tokens a byte of the whole."""
        whole = Loss(loss.mean * (len(self.stream) - 1), len(self.stream) - 1)
        return whole.bits_per(self.stream.bytes)


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
) -> Loss:
    """The loss on `stream`, read in overlapping rows of which the first counts whole, the others by their new end.

    Args:
        row: tokens a row.
        stride: new tokens a row, so that a target sees at least row - stride tokens.
        most: targets, about, from rows spread evenly over the stream; None for all.
        apart: whether no document in a row sees another.
    Raises:
        EvaluationError: the stream has no target.
        Interrupted: a signal came.
    """
    targets = len(stream) - 1
    if targets < 1:
        raise EvaluationError(f"the {stream.name} split holds no target token; bring more text")
    row = min(row, targets)
    stride = min(stride, row)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    # The last row is moved back to end with the stream. (start, targets of it that an earlier row has scored)
    starts = [0, *range(stride, targets - row + stride, stride)]
    places = [(min(start, targets - row), row - stride if start else 0) for start in starts]
    places[-1] = (places[-1][0], places[-2][0] + row - places[-1][0] if len(places) > 1 else 0)
    if most is not None:
        places = places[:: max(1, targets // most)]
    nats = torch.zeros((), dtype=torch.float64)
    counted = unseen = 0
    model.eval()
    at_once = max(1, TOKENS_AT_ONCE // row)
    for first in range(0, len(places), at_once):
        stop.check()
        some = places[first : first + at_once]
        rows = torch.from_numpy(stream.rows(np.array([start for start, _ in some]), row + 1))
        scored = rows[:, 1:].clone()  # (R, row)
        for index, (_, seen) in enumerate(some):
            scored[index, :seen] = IGNORED
        tokens = rows[:, :-1].to(device)
        if apart:
            found = model.document_losses(tokens, scored.to(device), documents_in(tokens, stream.end_of_text))
        else:
            found, _ = model.token_losses(tokens, scored.to(device))  # (R, row)
        counted += int((scored != IGNORED).sum())
        unseen += int(found.isinf().sum())
        nats += found.sum(dtype=torch.float64).cpu()
    return Loss(float(nats), counted, unseen)
