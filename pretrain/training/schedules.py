"""Learning-rate schedules: the share of the peak at each step.

Each warms up linearly, over steps or over tokens. What falls later falls with the share of the run that is done, which
counts in steps, tokens or seconds, as the run's limits do.
"""

import math
from typing import Annotated, ClassVar, Literal, Protocol

from annotated_types import Ge, Gt, Interval


class Schedule(Protocol):
    """Attributes:
    open_ended: whether what has been trained is also the beginning of any longer run.
    """

    open_ended: ClassVar[bool]

    def __call__(self, step: int, tokens: int, progress: float) -> float:
        """The share for step number `step`, from 0 on.

        Args:
            tokens: read when the step is done.
            progress: share of the run that is done before it, from 0 to 1.
        """
        ...


class Constant:
    """Warm-up, then 1.

    Args:
        warmup_steps: steps below the peak.
        warmup_tokens: tokens below the peak; where they are given, steps do not count.
    """

    open_ended: ClassVar[bool] = True

    def __init__(
        self, *, warmup_steps: Annotated[int, Ge(0)], warmup_tokens: Annotated[int, Ge(0)] | None = None
    ) -> None:
        self.warmup_steps, self.warmup_tokens = warmup_steps, warmup_tokens

    def __call__(self, step: int, tokens: int, progress: float) -> float:
        return min(1.0, warmth(step, tokens, self.warmup_steps, self.warmup_tokens))


class Cosine:
    """Warm-up, times half a cosine from 1 to `final_fraction` (https://arxiv.org/abs/1608.03983).

    Args:
        warmup_steps, warmup_tokens: as Constant's.
        final_fraction: share of the peak at the end.
    """

    open_ended: ClassVar[bool] = False

    def __init__(
        self,
        *,
        warmup_steps: Annotated[int, Ge(0)],
        warmup_tokens: Annotated[int, Ge(0)] | None = None,
        final_fraction: Annotated[float, Interval(ge=0, le=1)],
    ) -> None:
        self.warmup_steps, self.warmup_tokens = warmup_steps, warmup_tokens
        self.final_fraction = final_fraction

    def __call__(self, step: int, tokens: int, progress: float) -> float:
        warmup = min(1.0, warmth(step, tokens, self.warmup_steps, self.warmup_tokens))
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
        return warmup * (self.final_fraction + (1 - self.final_fraction) * cosine)


class Linear:
    """Warm-up, times a line from 1 to `final_fraction`, best at 0 (https://arxiv.org/abs/2502.15938).

    Args:
        warmup_steps, warmup_tokens: as Constant's.
        final_fraction: share of the peak at the end.
    """

    open_ended: ClassVar[bool] = False

    def __init__(
        self,
        *,
        warmup_steps: Annotated[int, Ge(0)],
        warmup_tokens: Annotated[int, Ge(0)] | None = None,
        final_fraction: Annotated[float, Interval(ge=0, le=1)],
    ) -> None:
        self.warmup_steps, self.warmup_tokens = warmup_steps, warmup_tokens
        self.final_fraction = final_fraction

    def __call__(self, step: int, tokens: int, progress: float) -> float:
        warmup = min(1.0, warmth(step, tokens, self.warmup_steps, self.warmup_tokens))
        return warmup * (1 - (1 - self.final_fraction) * min(1.0, progress))


class WarmupStableDecay:
    """Warm-up, the peak for most of the run, and a short fall (MiniCPM, https://arxiv.org/abs/2404.06395).

    Args:
        warmup_steps, warmup_tokens: as Constant's.
        decay_fraction: share of the run that falls, its last.
        decay: linear, or sqrt: with one minus the square root of the share of the fall that is done, which was found
            the better (https://arxiv.org/abs/2405.18392).
        final_fraction: share of the peak at the end.
    """

    open_ended: ClassVar[bool] = False

    def __init__(
        self,
        *,
        warmup_steps: Annotated[int, Ge(0)],
        warmup_tokens: Annotated[int, Ge(0)] | None = None,
        decay_fraction: Annotated[float, Interval(gt=0, le=1)],
        decay: Literal["linear", "sqrt"],
        final_fraction: Annotated[float, Interval(ge=0, le=1)],
    ) -> None:
        self.warmup_steps, self.warmup_tokens = warmup_steps, warmup_tokens
        self.decay_fraction, self.decay, self.final_fraction = decay_fraction, decay, final_fraction

    def __call__(self, step: int, tokens: int, progress: float) -> float:
        warmup = min(1.0, warmth(step, tokens, self.warmup_steps, self.warmup_tokens))
        fallen = max(0.0, (min(1.0, progress) - (1 - self.decay_fraction)) / self.decay_fraction)
        return warmup * (1 - (1 - self.final_fraction) * (math.sqrt(fallen) if self.decay == "sqrt" else fallen))


class InverseSqrt:
    """Warm-up, then with one over the square root of steps or tokens (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    Args:
        warmup_steps, warmup_tokens: as Constant's; twice as long after it, the share is 0.71.
    """

    open_ended: ClassVar[bool] = True

    def __init__(
        self, *, warmup_steps: Annotated[int, Ge(0)], warmup_tokens: Annotated[int, Gt(0)] | None = None
    ) -> None:
        self.warmup_steps, self.warmup_tokens = warmup_steps, warmup_tokens

    def __call__(self, step: int, tokens: int, progress: float) -> float:
        warm = warmth(step, tokens, self.warmup_steps, self.warmup_tokens)
        return min(warm, 1 / math.sqrt(warm))


def warmth(step: int, tokens: int, warmup_steps: int, warmup_tokens: int | None) -> float:
    """How far the warm-up is done: 1 where it ends, and on above it."""
    if warmup_tokens is None:
        return (step + 1) / (warmup_steps + 1)
    return tokens / warmup_tokens if warmup_tokens else math.inf
