"""What a step is measured by on request: the noise of its gradient, and how far it moves the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pretrain.models.language_model import IGNORED
from pretrain.training.parallel import Parallel

DECAY = 0.99  # of the noise's averages, per step


class GradientNoise:
    """The simple noise scale of McCandlish et al. 2018 (https://arxiv.org/abs/1812.06162, appendix A), in targets.

    The mean gradient of n targets has an expected squared norm of |G|^2 + S/n. From that of a batch's parts and that of
    the batch follow |G|^2 and S. Both are averaged over steps, for single ones are noisy and may be negative. Their
    ratio S / |G|^2 is about the batch beyond which more tokens a step pay less and less.

    Args:
        parallel: the ranks whose parts are taken together.
    """

    def __init__(self, parallel: Parallel) -> None:
        self.parallel = parallel
        self.square = self.variance = 0.0  # averages of |G|^2 and S; both begin at 0, which their ratio does not show
        self.begin()

    def begin(self) -> None:
        """A new batch."""
        self._norms: list[Tensor] = []
        self._targets: list[Tensor] = []

    def take(self, gradients: list[Tensor], targets: Tensor) -> None:
        """Take a part of the batch.

        Args:
            gradients: of the sum of its nats divided by the targets of the batch.
            targets: of the part, (B, T); those that are IGNORED do not count.
        """
        self._norms.append(self.parallel.norm(gradients))
        self._targets.append((targets != IGNORED).sum())

    def figures(self, norm: float, whole: int) -> dict[str, float | str | None]:
        """The noise scale with this batch, by its name in metrics.jsonl; nothing where the batch was one part.

        Args:
            norm: of the batch's gradient.
            whole: targets of the batch.
        """
        targets = torch.stack(self._targets)
        if self.parallel.sums_at_once:
            self.parallel.sum(targets)
        pairs = zip(torch.stack(self._norms).tolist(), targets.tolist(), strict=True)
        parts = [((part * whole / count) ** 2, 1 / count) for part, count in pairs if count]
        sums = torch.tensor([len(parts), *map(sum, zip(*parts, strict=True))], dtype=torch.float64)
        if not self.parallel.sums_at_once:
            self.parallel.sum(sums)
        number, squares, inverses = sums.tolist()
        if number < 2:
            return {}
        variance = (squares / number - norm**2) / (inverses / number - 1 / whole)
        self.variance += (1 - DECAY) * (variance - self.variance)
        self.square += (1 - DECAY) * (norm**2 - variance / whole - self.square)
        return {"gradient_noise_scale": self.variance / self.square if self.square > 0 else None}

    def state(self) -> dict[str, Tensor]:
        return {"noise.averages": torch.tensor([self.square, self.variance], dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.square, self.variance = state["noise.averages"].tolist() if "noise.averages" in state else (0.0, 0.0)


def update_ratios(
    parallel: Parallel, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, float | str | None]:
    """The norm of a step over that of the weights before it, by the names in metrics.jsonl.

    Of all weights together; and the largest of a matrix, with its name. A matrix of zeros has none. Where weights are
    in pieces, a matrix is the piece on this rank.

    Args:
        before, after: the weights by name.
    """
    moves = list(torch._foreach_sub(list(after.values()), list(before.values())))
    ratio = float(parallel.norm(moves) / parallel.norm(list(before.values())))
    norms = zip(*(torch.stack(torch._foreach_norm(of)).tolist() for of in (moves, list(before.values()))), strict=True)
    pairs = zip(before.items(), norms, strict=True)
    ratios = [(moved / norm, name) for (name, weight), (moved, norm) in pairs if weight.dim() > 1 and norm > 0]
    largest, name = max(ratios, default=(None, None))
    return {"update_ratio": ratio, "largest_update_ratio": largest, "largest_update_of": name}
