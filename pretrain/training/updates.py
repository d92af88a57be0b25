"""How a model learns from the training tokens: by gradient, or by counting.

What differs between kinds of models is the update; the loop is one.
"""

import copy
import math
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from annotated_types import Ge
from torch import Tensor

from pretrain.data.batches import Batches
from pretrain.models.language_model import LanguageModel
from pretrain.models.ngram import NGram
from pretrain.stopping import Stop
from pretrain.training.optimizers import Optimizer
from pretrain.training.schedules import Schedule

TOKENS_OF_TRAIN_LOSS = 100_000  # a counting model's training loss is that of its first tokens


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        loss: nats per token, before the step.
        tokens: that it read.
        skipped: whether it left the model alone because loss or gradient was not finite.
    """

    loss: float
    tokens: int
    lr: float | None = None
    grad_norm: float | None = None
    skipped: bool = False


class Update(Protocol):
    """Attributes:
    model: what is saved; working: the same in the precision of the products, which is evaluated and sampled.
    """

    model: LanguageModel
    working: LanguageModel

    def most_steps(self) -> int | None:
        """Steps after which there is nothing left to learn from, or None."""
        ...

    def step(self, number: int, progress: float) -> StepResult:
        """Learn from batch `number`, when `progress` (0 to 1) of the run is done."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load_state(self, state: dict[str, Tensor]) -> None: ...


class GradientUpdate:
    """Accumulate the gradient over a batch, clip it, and step.

    The weights are kept in fp32; where `dtype` is another, products run on a copy of them in it.

    Args:
        model: with fp32 parameters on the device.
        dtype: of the products.
        micro_batch: rows computed at once.
        seed: of dropout, together with the step's number, so that a resumed run drops the same.
        max_grad_norm: the gradient is scaled down to this norm where it is longer; 0 for no clipping.
    """

    def __init__(
        self,
        model: LanguageModel,
        batches: Batches,
        optimizer: Optimizer,
        schedule: Schedule,
        dtype: torch.dtype,
        micro_batch: int,
        seed: int,
        stop: Stop,
        *,
        max_grad_norm: Annotated[float, Ge(0)],
    ) -> None:
        self.model = model
        self.working = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self.batches = batches
        self.optimizer = optimizer
        self.schedule = schedule
        self.micro_batch = micro_batch
        self.seed = seed
        self.stop = stop
        self.max_grad_norm = max_grad_norm

    def most_steps(self) -> int | None:
        return self.batches.most_batches

    def step(self, number: int, progress: float) -> StepResult:
        torch.manual_seed((self.seed * 1_000_003 + number) % 2**63)
        weights = list(self.working.parameters())
        device = weights[0].device
        rows = torch.from_numpy(self.batches[number]).to(device)  # (R, T + 1)
        gradients = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        total = torch.zeros((), device=device)
        self.working.train()
        for micro in torch.split(rows, self.micro_batch):
            self.stop.check()
            nats, _ = self.working.token_losses(micro[:, :-1], micro[:, 1:])
            loss = nats.sum() / self.batches.tokens
            torch._foreach_add_(gradients, list(torch.autograd.grad(loss, weights)))
            total += loss.detach()
        lr = self.optimizer.lr * self.schedule(number, progress)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        result = StepResult(float(total), self.batches.tokens, lr, float(norm))
        if not (math.isfinite(result.loss) and math.isfinite(norm)):
            return StepResult(result.loss, result.tokens, lr, result.grad_norm, skipped=True)
        if self.max_grad_norm and norm > self.max_grad_norm:
            torch._foreach_mul_(gradients, self.max_grad_norm / norm)
        self.optimizer.step(gradients, lr)
        self._refresh()
        return result

    def state(self) -> dict[str, Tensor]:
        return self.optimizer.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.optimizer.load_state(state)
        self._refresh()

    @torch.no_grad()
    def _refresh(self) -> None:
        """Bring the working copy up to date with the fp32 weights."""
        if self.working is not self.model:
            torch._foreach_copy_(list(self.working.parameters()), list(self.model.parameters()))


class CountUpdate:
    """Read the training tokens once, and count.

    Args:
        model: an n-gram.
        end_of_text: id of the token between documents.
    """

    def __init__(self, model: NGram, batches: Batches, end_of_text: int) -> None:
        self.model = self.working = model
        self.batches = batches
        self.end_of_text = end_of_text

    def most_steps(self) -> int:
        return 1

    def step(self, number: int, progress: float) -> StepResult:
        stream = self.batches.stream
        self.model.fit(stream.array(), self.end_of_text)
        first = torch.from_numpy(stream.read(0, TOKENS_OF_TRAIN_LOSS + 1))[None]
        nats, _ = self.model.token_losses(first[:, :-1], first[:, 1:])
        return StepResult(float(nats.mean()), len(stream) - 1)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        pass
