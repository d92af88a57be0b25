"""Whether one model is better than another on the same texts: a paired test between documents or blocks.

Shapes: U units that both have scored.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pretrain.evaluation.sums import ratio_error

STEPS = 100_001  # of the numerical integral
ALIKE = 1_000  # degrees of freedom from which Student's distribution is taken to be that of so many


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    difference: mean of the second less that of the first, so that below 0 the second is better.
    error: its standard error.
    p_value: how likely a difference at least as large would be if there were none.
    interval: where the difference is with a confidence of 95 %.
    """

    difference: float
    error: float
    p_value: float
    interval: tuple[float, float]


def compare(first: NDArray[np.float64], second: NDArray[np.float64], sizes: NDArray[np.number]) -> Comparison | None:
    """Student's paired t-test of two means, each a sum over units divided by the sum of their sizes.

    Args:
        first, second: (U,) totals of nats of two models on the same units.
        sizes: (U,) tokens or bytes of the units, which are the weights of their means.
    Returns:
        None where there are not two units, or a total is not finite.
    """
    differences = second - first
    error = ratio_error(differences, sizes)
    if error is None:
        return None
    difference = float(differences.sum() / sizes.sum())
    if error == 0:  # the same everywhere
        return Comparison(difference, 0.0, 1.0 if difference == 0 else 0.0, (difference, difference))
    t, tails = _student(int((sizes > 0).sum()) - 1)
    p_value = float(np.interp(abs(difference) / error, t, tails))
    margin = error * float(np.interp(-0.05, -tails, t))
    return Comparison(difference, error, p_value, (difference - margin, difference + margin))


@lru_cache
def _student(freedom: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of t from 0 on, and how likely Student's t of so many degrees of freedom is beyond them on either side.

    With t = sqrt(n) tan(a), the density is proportional to cos(a) ** (n - 1).
    """
    freedom = min(freedom, ALIKE)
    angles = np.linspace(0, math.pi / 2, STEPS)
    density = np.cos(angles) ** (freedom - 1)
    steps = (density[1:] + density[:-1]) / 2
    beyond = np.append(np.cumsum(steps[::-1])[::-1], 0.0)
    return math.sqrt(freedom) * np.tan(angles), beyond / beyond[0]
