"""The scaling law L(N, D) = E + A / N^alpha + B / D^beta: fitted to runs, with its uncertainty (Hoffmann et al. 2022,
https://arxiv.org/abs/2203.15556, approach 3).

Tokens that are read again count as worth less than new ones (Muennighoff et al. 2023, https://arxiv.org/abs/2305.16264).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor

from pretrain.errors import TrainingError

HUBER = 1e-3  # differences of log-losses beyond which they count linearly, Hoffmann's
REPEATS = 15.4  # Muennighoff's R*: where text is read R* times more, 1 - 1 / e of what that could ever add is there
PRIOR = 1e-6  # weight of the squared distance of log R* from it, which decides where no run tells
FEWEST_RUNS = 6  # one more than the constants that runs of one epoch tell
STARTS = ((0.25, 0.7), (0.25, 0.7), (0.4, 0.8))  # alpha, beta, and E as a share of the lowest loss
ITERATIONS = 80  # of a search
RESAMPLES = 20


@dataclass(frozen=True)
class Run:
    """A finished run: its parameters N, the tokens D that it read, of which `unique` were there, and nats per token."""

    parameters: float
    tokens: float
    unique: float
    loss: float


@dataclass(frozen=True)
class Law:
    """The constants of L(N, D).

    Attributes:
        E: what no model of any size loses less than, in nats per token.
        A, alpha: what a model of N parameters loses more, A / N^alpha.
        B, beta: what one that has read D tokens loses more, B / D^beta.
        repeats: R*, by which tokens read again are discounted.
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    repeats: float = REPEATS

    def loss(self, parameters: float, tokens: float, unique: float) -> float:
        """Nats per token."""
        seen = effective_tokens(tokens, unique, self.repeats)
        return float(self.E + self.A / parameters**self.alpha + self.B / seen**self.beta)


def effective_tokens(tokens: float, unique: float, repeats: float = REPEATS) -> float:
    """New tokens that are worth as much as `tokens` out of a text of `unique` (Muennighoff's equation 5)."""
    if tokens <= unique:
        return tokens
    return unique + unique * repeats * -math.expm1(-(tokens / unique - 1) / repeats)


def fit(runs: Sequence[Run]) -> Law:
    """The law with the least Huber loss between logarithms, the best of several starts of L-BFGS.

    Raises:
        TrainingError: there are fewer than six runs, or all are of one size or one number of tokens.
    """
    _refuse_too_few(runs)
    objective = _Objective(runs)
    return min((_minimised(objective, start) for start in objective.starts()), key=lambda found: found[0])[1]


def resampled(runs: Sequence[Run], law: Law, seed: int, count: int = RESAMPLES) -> list[Law]:
    """Laws of `count` samples of the runs, drawn with replacement: how much they differ is how little is known.

    Args:
        law: of all runs, where each search starts.
    """
    random = np.random.default_rng(seed)
    found: list[Law] = []
    while len(found) < count:
        sample = [runs[place] for place in random.integers(len(runs), size=len(runs))]
        if len({run.parameters for run in sample}) > 1 and len({run.tokens for run in sample}) > 1:
            objective = _Objective(sample)
            found.append(_minimised(objective, objective.point(law))[1])
    return found


def interval(values: Sequence[float], share: float) -> tuple[float, float]:
    """Between which the middle `share` of values lies, such as a constant of resampled laws."""
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


class _Objective:
    """The Huber loss of constants on some runs, in logarithms around the runs' middle, where they are of like size."""

    def __init__(self, runs: Sequence[Run]) -> None:
        columns = torch.tensor([astuple(run) for run in runs], dtype=torch.float64)
        parameters, tokens, self.unique, loss = columns.unbind(1)
        self.parameters, self.tokens, self.loss = parameters.log(), tokens, loss.log()
        self.middle = (float(self.parameters.mean()), float(tokens.log().mean()))
        self.lowest = float(loss.min())

    def starts(self) -> list[Tensor]:
        """E as a share of the lowest loss; what is left of it is halved between size and tokens."""
        found = []
        for alpha, beta, share in itertools.product(*STARTS):
            half = math.log(self.lowest * (1 - share) / 2)
            found.append(self._tensor(math.log(self.lowest * share), half, alpha, half, beta, REPEATS))
        return found

    def point(self, law: Law) -> Tensor:
        size = math.log(law.A) - law.alpha * self.middle[0]
        text = math.log(law.B) - law.beta * self.middle[1]
        return self._tensor(math.log(law.E), size, law.alpha, text, law.beta, law.repeats)

    def law(self, point: Tensor) -> Law:
        least, size, alpha, text, beta, repeats = point.tolist()
        a, b = math.exp(alpha), math.exp(beta)
        scale = (math.exp(size + a * self.middle[0]), math.exp(text + b * self.middle[1]))
        return Law(math.exp(least), scale[0], a, scale[1], b, math.exp(repeats))

    def __call__(self, point: Tensor) -> Tensor:
        least, size, alpha, text, beta, repeats = point
        again = (self.tokens / self.unique - 1).clamp(min=0)
        seen = self.tokens.minimum(self.unique) - self.unique * repeats.exp() * torch.expm1(-again / repeats.exp())
        terms = [
            least.expand_as(self.loss),
            size - alpha.exp() * (self.parameters - self.middle[0]),
            text - beta.exp() * (seen.log() - self.middle[1]),
        ]
        told = torch.logsumexp(torch.stack(terms), 0)
        misses: Tensor = torch.nn.functional.huber_loss(told, self.loss, reduction="sum", delta=HUBER)
        misses += PRIOR * (repeats - math.log(REPEATS)) ** 2
        return misses

    @staticmethod
    def _tensor(least: float, size: float, alpha: float, text: float, beta: float, repeats: float) -> Tensor:
        return torch.tensor(
            [least, size, math.log(alpha), text, math.log(beta), math.log(repeats)], dtype=torch.float64
        )


def _minimised(objective: _Objective, start: Tensor) -> tuple[float, Law]:
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point], max_iter=ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(point) / HUBER**2
        value.backward()  # type: ignore[no-untyped-call]  # torch's own is untyped
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # likewise
    value = float(objective(point.detach()))
    return (value if math.isfinite(value) else math.inf), objective.law(point.detach())


def _refuse_too_few(runs: Sequence[Run]) -> None:
    sizes, budgets = ({getattr(run, name) for run in runs} for name in ("parameters", "tokens"))
    if len(runs) < FEWEST_RUNS or len(sizes) < 2 or len(budgets) < 2:
        raise TrainingError(
            f"a law of five constants needs at least {FEWEST_RUNS} runs, of two sizes and two numbers of tokens; "
            f"here are {len(runs)} of {len(sizes)} and {len(budgets)}"
        )
