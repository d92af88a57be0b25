"""What the loop of generation.py and every way to write have in common: the task, what comes of it, and a search.

Shapes: P prompts, R rows of a model's batch, V ids.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, Protocol

import torch
from torch import Tensor

from pretrain.errors import SamplingError
from pretrain.models.language_model import State

Ended = Literal["end_of_text", "stop", "length"]


@dataclass(frozen=True)
class Continuation:
    """Attributes:
    tokens: the new ids, without the prompt and without the end of text that may follow.
    logprobs: natural logarithm of the probability of each of them under the model itself, and of the end of text
        where it follows.
    ended: what ended it: the model, a stop string, or the number of tokens that were asked for.
    """

    tokens: list[int]
    logprobs: list[float]
    ended: Ended = "length"

    @property
    def logprob(self) -> float:
        """The sum of logprobs."""
        return sum(self.logprobs)


@dataclass(frozen=True)
class Task:
    """What is to be written.

    Attributes:
        prompts: P lists of ids, none of them empty.
        numbers: of each prompt among all that the user gave: its random numbers depend on it.
        n: continuations of each prompt.
        max_tokens: new tokens at most.
        seed: of the draws.
        end_of_text: the id at which a continuation ends.
        ends: whether a continuation with these new tokens is complete; it is asked after each token.
        heard: is told the number of the continuation among the P * n, and a token, as soon as it is certain.
    """

    prompts: Sequence[list[int]]
    numbers: Sequence[int]
    n: int
    max_tokens: int
    seed: int
    end_of_text: int
    ends: Callable[[Sequence[int]], bool] | None = None
    heard: Callable[[int, int], None] | None = None


class Search(Protocol):
    """A way to write on its way. It decides which rows the model computes and what they read next.

    Attributes:
        over: whether nothing is left to do.
    """

    over: bool

    def step(self, logits: Tensor, state: State) -> tuple[Tensor, Tensor | None]:
        """From the logits (R, V) of the next token to the tokens (R',) that are read next, and the rows they follow.

        At first R is P. The second tensor (R',) holds indices of the R rows; None: each row follows itself.

        Args:
            state: the model's, after what it has read.
        """
        ...

    def continuations(self) -> list[Continuation]:
        """What was written, P times n."""
        ...


class Decoding(Protocol):
    """What configs/decoding names."""

    def begin(self, task: Task) -> Search: ...


def scores_of(logits: Tensor) -> Tensor:
    """The logits in fp32 at least, where they can be worked with."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.cpu() if logits.device.type == "mps" else logits  # which has no float64 to draw with


def refuse_unusable(logits: Tensor) -> NoReturn:
    """Say why no token can be drawn from some of the `logits` (R, V)."""
    if (logits.isnan() | (logits == torch.inf)).any():
        raise SamplingError("the model's logits are NaN or infinite; its weights are damaged, try an older step=N")
    raise SamplingError("the model gives no token any probability here; an n-gram needs model.smoothing for that")
