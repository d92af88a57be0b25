"""Decodings that choose token by token: from a model's logits to those from which the next token is drawn.

-inf is never drawn. Shapes: B rows, V ids.
"""

import math
import sys
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from pretrain.sampling.draws import Draws
from pretrain.sampling.search import Search, Task

Truncation = Callable[[Tensor], Tensor]

LIKELIEST = 128  # tokens that are sorted first, in the hope that a set is among them
COLDEST = 1e-30  # below this, a temperature leaves nothing but the most probable token anyway


class Sampling:
    """Draws from the distribution, after each of these in turn where it is set.

    Args:
        temperature: sharpens the distribution below 1 and flattens it above; 0 is greedy.
        k: only the k most probable tokens are left (Fan et al. 2018, https://arxiv.org/abs/1805.04833).
        p: only the smallest set of tokens whose probability reaches p (Holtzman et al. 2020,
            https://arxiv.org/abs/1904.09751); 1 leaves every token, 0 the most probable one.
        min_p: only tokens with at least this share of the most probable one's probability (Nguyen et al. 2024,
            https://arxiv.org/abs/2407.01082); 0 leaves every token.
        typical: only the smallest set that reaches this probability of tokens whose surprise is nearest to the
            distribution's entropy (Meister et al. 2022, https://arxiv.org/abs/2202.00666); 1 leaves every token.
        repetition_penalty: before all others, the logit of what the prompt and the text already have is divided by it
            where it is above 0, else multiplied (Keskar et al. 2019, https://arxiv.org/abs/1909.05858, where logits
            are above 0; as transformers does); 1 changes nothing.
    """

    def __init__(
        self,
        *,
        temperature: Annotated[float, Ge(0)],
        k: Annotated[int, Ge(1)] | None = None,
        p: Annotated[float, Interval(ge=0, le=1)] | None = None,
        min_p: Annotated[float, Interval(ge=0, le=1)] | None = None,
        typical: Annotated[float, Interval(ge=0, le=1)] | None = None,
        repetition_penalty: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        self.temperature = temperature
        self.repetition_penalty = repetition_penalty
        self.truncations: list[Truncation] = []
        if k is not None:
            self.truncations.append(lambda logits: top_k(logits, k))
        if p is not None:
            self.truncations.append(lambda logits: top_p(logits, p))
        if min_p is not None:
            self.truncations.append(lambda logits: top_share(logits, min_p))
        if typical is not None:
            self.truncations.append(lambda logits: typical_set(logits, typical))

    def __call__(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, V) to (B, V).

        Args:
            seen: (B, V) bool, the tokens of each row so far; None: none.
        """
        logits = penalised(logits, seen, self.repetition_penalty)
        if self.temperature == 0:
            return most_probable(logits)
        if self.temperature != 1:
            # At most 0, so that nothing overflows where the temperature is near 0, which must stay above 0 in fp32.
            logits = (logits - logits.amax(dim=1, keepdim=True)) / max(self.temperature, COLDEST)
        for truncation in self.truncations:
            logits = truncation(logits)
        return logits

    def begin(self, task: Task) -> Search:
        """See Decoding."""
        remembers = self.repetition_penalty != 1
        if self.temperature == 0:
            return Greedy(repetition_penalty=self.repetition_penalty).begin(task)
        return Draws(task, self, random=True, remembers=remembers)


class Greedy:
    """The most probable token, the first of equals.

    Args:
        repetition_penalty: as Sampling's.
    """

    def __init__(self, *, repetition_penalty: Annotated[float, Gt(0)] = 1.0) -> None:
        self.repetition_penalty = repetition_penalty

    def __call__(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, V) to (B, V), see Sampling."""
        return most_probable(penalised(logits, seen, self.repetition_penalty))

    def begin(self, task: Task) -> Search:
        """See Decoding."""

        def change(logits: Tensor, seen: Tensor | None) -> Tensor:
            return penalised(logits, seen, self.repetition_penalty)

        return Draws(task, change, random=False, remembers=self.repetition_penalty != 1)


class Temperature(Sampling):
    """The whole distribution: what older configs name, and short to write in Python."""

    def __init__(self, *, temperature: Annotated[float, Ge(0)]) -> None:
        super().__init__(temperature=temperature)


class TopK(Sampling):
    """As Temperature, for the k most probable tokens."""

    def __init__(self, *, k: Annotated[int, Ge(1)], temperature: Annotated[float, Ge(0)]) -> None:
        super().__init__(temperature=temperature, k=k)


class TopP(Sampling):
    """As Temperature, for the smallest set that reaches p."""

    def __init__(self, *, p: Annotated[float, Interval(ge=0, le=1)], temperature: Annotated[float, Ge(0)]) -> None:
        super().__init__(temperature=temperature, p=p)


def most_probable(logits: Tensor) -> Tensor:
    """(B, V): 0 for the most probable token of each row, the first of equals, and -inf for the others."""
    best = logits.argmax(dim=1, keepdim=True)
    return torch.full_like(logits, -torch.inf).scatter_(1, best, 0.0)


def penalised(logits: Tensor, seen: Tensor | None, penalty: float) -> Tensor:
    """(B, V), where `seen` (B, V) the logits divided by the penalty or, below 0, multiplied."""
    if seen is None or penalty == 1:
        return logits
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: Tensor, k: int) -> Tensor:
    """(B, V) with the k most probable tokens, all of them if there are fewer."""
    if k >= logits.shape[1]:
        return logits
    values, ids = logits.topk(k, dim=1)
    return torch.full_like(logits, -torch.inf).scatter_(1, ids, values)


def top_p(logits: Tensor, p: float) -> Tensor:
    """(B, V) with the smallest set of tokens whose probability reaches p, one at least; of equals the first."""
    return logits if p >= 1 else smallest_set(logits, logits, p)


def top_share(logits: Tensor, share: float) -> Tensor:
    """(B, V) with the tokens that have at least a `share` of the most probable one's probability."""
    if share <= 0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=1, keepdim=True) + math.log(share), -torch.inf)


def typical_set(logits: Tensor, p: float) -> Tensor:
    """(B, V) with the smallest set reaching p of tokens whose surprise is nearest to the mean one; one at least."""
    if p >= 1:
        return logits
    logs = logits.log_softmax(dim=1)
    entropy = -(logs.exp() * logs).nan_to_num(0.0).sum(dim=1, keepdim=True)
    return smallest_set(logits, -(logs + entropy).abs(), p)


def smallest_set(logits: Tensor, order: Tensor, p: float) -> Tensor:
    """(B, V) with the first tokens by `order` (B, V), the greatest first, that together reach the probability p.

    One token is left at least. Of equals the first comes first.
    """
    probabilities = logits.softmax(dim=1, dtype=torch.float64)
    if logits.shape[1] > LIKELIEST:  # sorting fifty thousand would take milliseconds
        some, ids = order.topk(LIKELIEST, dim=1)
        ids = ids.sort(dim=1)[0]
        ids = ids.gather(1, order.gather(1, ids).sort(dim=1, descending=True, stable=True)[1])
        outside = _outside(probabilities.gather(1, ids), p)
        # The last of them may have equals that are not among them.
        if bool((outside | (order.gather(1, ids) > some[:, -1:])).all()):
            left_out = torch.ones_like(logits, dtype=torch.bool).scatter_(1, ids, outside)
            return logits.masked_fill(left_out, -torch.inf)
    ids = order.sort(dim=1, descending=True, stable=True)[1]
    outside = _outside(probabilities.gather(1, ids), p)
    return logits.masked_fill(torch.empty_like(outside).scatter_(1, ids, outside), -torch.inf)


def _outside(probabilities: Tensor, p: float) -> Tensor:
    """(B, N) bool: of tokens in their order those before which the probability is p or more; never the first."""
    return probabilities.cumsum(dim=1) - probabilities >= max(p, sys.float_info.min)
