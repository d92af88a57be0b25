"""Learning-rate schedules: the share of the peak at each step."""

import math
from typing import Annotated, ClassVar, Protocol

from annotated_types import Ge, Interval


class Schedule(Protocol):
    """Attributes:
    open_ended: whether what has been trained is also the beginning of any longer run.
    """

    open_ended: ClassVar[bool]

    def __call__(self, step: int, progress: float) -> float:
        """The share for step number `step`, from 0 on, when `progress` (0 to 1) of the run is done."""
        ...


class Constant:
    """Linear warm-up, then 1."""

    open_ended: ClassVar[bool] = True

    def __init__(self, *, warmup_steps: Annotated[int, Ge(0)]) -> None:
        self.warmup_steps = warmup_steps

    def __call__(self, step: int, progress: float) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


class Cosine:
    """Linear warm-up, times half a cosine from 1 to `final_fraction` (https://arxiv.org/abs/1608.03983)."""

    open_ended: ClassVar[bool] = False

    def __init__(
        self, *, warmup_steps: Annotated[int, Ge(0)], final_fraction: Annotated[float, Interval(ge=0, le=1)]
    ) -> None:
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction

    def __call__(self, step: int, progress: float) -> float:
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
        return warmup * (self.final_fraction + (1 - self.final_fraction) * cosine)
