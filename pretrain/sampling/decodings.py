"""Decodings: from a model's logits to those from which the next token is drawn. -inf is never drawn."""

from typing import Annotated, Protocol

import torch
from annotated_types import Ge, Interval
from torch import Tensor


class Decoding(Protocol):
    def __call__(self, logits: Tensor) -> Tensor:
        """(B, V) to (B, V)."""
        ...


class Greedy:
    """The most probable token, the first of equals."""

    def __call__(self, logits: Tensor) -> Tensor:
        best = logits.argmax(dim=1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter_(1, best, 0.0)


class Temperature:
    """The whole distribution, sharpened below 1 and flattened above; 0 is greedy."""

    def __init__(self, *, temperature: Annotated[float, Ge(0)]) -> None:
        self.temperature = temperature

    def __call__(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return Greedy()(logits)
        return (logits - logits.amax(dim=1, keepdim=True)) / self.temperature  # at most 0: no overflow near 0


class TopK:
    """The k most probable tokens (Fan et al. 2018, https://arxiv.org/abs/1805.04833)."""

    def __init__(self, *, k: Annotated[int, Ge(1)], temperature: Annotated[float, Ge(0)]) -> None:
        self.k = k
        self.temperature = Temperature(temperature=temperature)

    def __call__(self, logits: Tensor) -> Tensor:
        logits = self.temperature(logits)
        values, ids = logits.topk(min(self.k, logits.shape[1]), dim=1)
        return torch.full_like(logits, -torch.inf).scatter_(1, ids, values)


class TopP:
    """The smallest set of tokens whose probability reaches p (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751).

    p = 1 keeps every token, p = 0 the most probable one.
    """

    def __init__(self, *, p: Annotated[float, Interval(ge=0, le=1)], temperature: Annotated[float, Ge(0)]) -> None:
        self.p = p
        self.temperature = Temperature(temperature=temperature)

    def __call__(self, logits: Tensor) -> Tensor:
        logits = self.temperature(logits)
        ordered, ids = logits.sort(dim=1, descending=True, stable=True)
        probabilities = ordered.double().softmax(dim=1)
        before = probabilities.cumsum(dim=1) - probabilities  # mass of the more probable tokens
        outside = before >= self.p if self.p < 1 else torch.zeros_like(before, dtype=torch.bool)
        outside[:, 0] = False
        return torch.full_like(logits, -torch.inf).scatter_(1, ids, ordered.masked_fill(outside, -torch.inf))
