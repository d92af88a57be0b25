"""Loss spikes: a step whose loss or gradient norm is far above those of the steps before it."""

import math
from collections import deque
from statistics import median
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

Action = Literal["off", "log", "skip", "rollback"]

DEVIATIONS = 1.4826  # times the median absolute deviation is the standard deviation, for normal numbers
SMALLEST = 0.01  # of the median: a deviation below it is no measure of noise
FEWEST = 16  # steps before which nothing is judged


class SpikeGuard:
    """Judges each step by the robust z-scores of its loss and its gradient norm over the last steps that were taken.

    A median does not move with a few outliers, where a mean and its deviation would hide the second spike behind the
    first. The statistics are a part of the run's state.

    Args:
        action: off; log: only told in the metrics; skip: the step leaves the model alone; rollback: the run goes back
            to its last checkpoint, and passes over the batches since then.
        threshold: z-score from which a step is a spike.
        window: steps that are looked back on.
    """

    def __init__(
        self,
        *,
        action: Action,
        threshold: Annotated[float, Gt(0)],
        window: Annotated[int, Ge(FEWEST)],
    ) -> None:
        self.action = action
        self.threshold = threshold
        self.losses: deque[float] = deque(maxlen=window)
        self.norms: deque[float] = deque(maxlen=window)

    def score(self, loss: float, norm: float) -> float:
        """The larger of the two z-scores; 0 while too few steps are known."""
        if self.action == "off" or len(self.losses) < FEWEST:
            return 0.0
        return max(robust_score(self.losses, loss), robust_score(self.norms, math.log(max(norm, 1e-30))))

    def refuses(self, score: float) -> bool:
        """Whether a step of this score shall leave the model alone."""
        return score > self.threshold and self.action in ("skip", "rollback")

    def take(self, loss: float, norm: float) -> None:
        """Remember a step that was taken."""
        if self.action != "off":
            self.losses.append(loss)
            self.norms.append(math.log(max(norm, 1e-30)))

    def state(self) -> dict[str, Tensor]:
        """What later judgements depend on."""
        return {
            "spikes.losses": torch.tensor(self.losses, dtype=torch.float64),
            "spikes.norms": torch.tensor(self.norms, dtype=torch.float64),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, kept in (("losses", self.losses), ("norms", self.norms)):
            kept.clear()
            kept.extend(state[f"spikes.{name}"].tolist() if f"spikes.{name}" in state else ())


def robust_score(before: deque[float], value: float) -> float:
    """How many standard deviations `value` lies above the median of `before`, both by the median absolute deviation."""
    middle = median(before)
    deviation = DEVIATIONS * median(abs(other - middle) for other in before)
    return (value - middle) / max(deviation, SMALLEST * abs(middle), 1e-12)
