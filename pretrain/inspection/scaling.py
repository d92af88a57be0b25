"""Why attention divides by the root of a head's width: without it, weights at the start fall on one key.

Products of independent queries and keys of unit variance have the variance of the width (Vaswani et al. 2017, footnote
4, https://arxiv.org/abs/1706.03762): the softmax of large numbers is all but 0 and 1, where it has hardly a gradient.
"""

import math
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Interval

from pretrain.inspection.view import Curves, Picture, Table
from pretrain.models.attending import Attend

MIN_WIDTH = 4
WAYS = {"scaled": None, "unscaled": 1.0}  # the scale of Attend


class ScalingView:
    """Rows of attention between random queries and keys, with and without 1 / sqrt(D).

    Args:
        max_width: the largest D, of a head; the others are its half, the half of that, and so on down to 4.
        keys: that a query may attend to.
        queries: drawn for each width.
        seed: of the draws.
    """

    needs: ClassVar[str] = "nothing"

    def __init__(
        self,
        *,
        max_width: Annotated[int, Ge(1)],
        keys: Annotated[int, Ge(2)],
        queries: Annotated[int, Ge(1)],
        seed: Annotated[int, Interval(ge=0, le=2**63 - 1)],
    ) -> None:
        halvings = max(0, (max_width // MIN_WIDTH).bit_length() - 1)
        self.widths = [max_width >> halving for halving in range(halvings, -1, -1)]
        self.keys = keys
        self.queries = queries
        self.seed = seed

    def __call__(self) -> dict[str, Any]:
        """A JSON document: {view, keys, uniform, widths: [{width, scaled, unscaled}]}.

        Each of the two has the means over the rows of entropy in nats, largest weight, and gradient: the trace of the
        softmax's Jacobian, 1 - sum of squares.
        """
        generator = torch.Generator().manual_seed(self.seed)
        rows = [{"width": width} | self._measured(width, generator) for width in self.widths]
        return {"view": "scaling", "keys": self.keys, "uniform": math.log(self.keys), "widths": rows}

    def _measured(self, width: int, generator: torch.Generator) -> dict[str, Any]:
        query = torch.randn(1, 1, self.queries, width, generator=generator)
        key = torch.randn(1, 1, self.keys, width, generator=generator)
        found = {}
        for name, scale in WAYS.items():
            weights = Attend(scale=scale, causal=False).weights(query, key)[0, 0].double()  # (queries, keys)
            found[name] = {
                "entropy": float(torch.special.entr(weights).sum(1).mean()),
                "largest": float(weights.amax(1).mean()),
                "gradient": float((1 - weights.square().sum(1)).mean()),
            }
        return found


def tables(document: dict[str, Any]) -> list[Table]:
    """The document as people read it."""
    rows = [
        [str(row["width"]), *(f"{row[way][name]:.3f}" for name in ("entropy", "largest", "gradient") for way in WAYS)]
        for row in document["widths"]
    ]
    title = f"Attention at the start over {document['keys']} keys; all alike: {document['uniform']:.3f} nats"
    columns = ["width", "entropy scaled", "not", "largest scaled", "not", "gradient scaled", "not"]
    return [Table(title, columns, rows)]


def pictures(document: dict[str, Any]) -> dict[str, Picture]:
    """The entropies against the width."""
    widths = document["widths"]
    lines = {
        "all keys alike": [document["uniform"]] * len(widths),
        "with 1/sqrt(d)": [row["scaled"]["entropy"] for row in widths],
        "without": [row["unscaled"]["entropy"] for row in widths],
    }
    title = f"Entropy of attention at the start, {document['keys']} keys"
    return {"scaling": Curves(title, ("width of a head", "nats"), [row["width"] for row in widths], lines)}
