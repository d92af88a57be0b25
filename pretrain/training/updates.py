"""How a model learns from the training tokens: by gradient, or by counting.

What differs between kinds of models is the update; the loop is one.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from numpy.typing import NDArray
from torch import Tensor

from pretrain.data.batches import Batches
from pretrain.errors import ConfigError
from pretrain.models.language_model import LanguageModel, State, documents_in
from pretrain.stopping import Stop
from pretrain.training.activation_checkpointing import Activations, checkpoint_activations
from pretrain.training.compiling import Compilation
from pretrain.training.fp8 import learn_in_fp8
from pretrain.training.loss_scale import LossScale
from pretrain.training.measures import GradientNoise, update_ratios
from pretrain.training.optimizers import Optimizer
from pretrain.training.optimizers.averaged import Averaged
from pretrain.training.parallel import Parallel, Single
from pretrain.training.schedules import Schedule
from pretrain.training.stability import Action, SpikeGuard

CARRIED = "carried."  # begins the names of the model's own state among the saved tensors
APART = 2**40  # sets the seeds of the ranks' dropout apart
TOKENS_OF_TRAIN_LOSS = 100_000  # a counting model's training loss is that of its first tokens


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        loss: nats per token, before the step.
        tokens: that it read.
        spike: by how many standard deviations the loss or the gradient's norm stood out, where that was judged.
        skipped: whether it left the model alone: loss or gradient was not finite, or a spike.
        rescaled: whether it was skipped for the loss being scaled too much, which is mended and no sign of divergence.
        loss_scale: what the loss was multiplied with, in fp16.
        rollback: whether the run is to go back to its last checkpoint because of it.
        measures: further figures, by their names in metrics.jsonl.
    """

    loss: float
    tokens: int
    lr: float | None = None
    grad_norm: float | None = None
    spike: float | None = None
    skipped: bool = False
    rescaled: bool = False
    loss_scale: float | None = None
    rollback: bool = False
    measures: dict[str, float | str | None] = field(default_factory=dict)


class Update(Protocol):
    """Attributes:
    model: what is saved; working: the same in the precision of the products, which is evaluated and sampled.
    """

    model: LanguageModel
    working: LanguageModel

    def most_batches(self) -> int | None:
        """The number of the batch from which on there is nothing left to learn from, or None."""
        ...

    def step(self, number: int, batch: int, progress: float) -> StepResult:
        """Step `number`: learn from the batch number `batch`, when `progress` (0 to 1) of the run is done."""
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
        seed: of dropout, together with the batch's number, so that a resumed run drops the same.
        activation_checkpointing: as in checkpoint_activations.
        fp8: whether linear layers learn in fp8.
        compilation: whether losses are compiled; None: they are not.
        parallel: among how many processes the work is shared, and how; None: there is one.
        max_grad_norm: the gradient is scaled down to this norm where it is longer; 0 for no clipping.
        spike_action, spike_threshold, spike_window: as in SpikeGuard.
        ema_decay: the model is a moving average of the weights with this decay per step; None: it is the weights.
        z_loss: as of LanguageModel; the loss that is told stays the cross-entropy.
        log_noise: measure each step's gradient noise and update ratios.
    Raises:
        ConfigError: a moving average of weights of which this process holds pieces, or of what is an average already.
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
        parallel: Parallel | None = None,
        activation_checkpointing: Activations = "none",
        fp8: bool = False,
        compilation: Compilation | None = None,
        *,
        max_grad_norm: Annotated[float, Ge(0)],
        spike_action: Action = "off",
        spike_threshold: Annotated[float, Gt(0)] = 8.0,
        spike_window: Annotated[int, Ge(16)] = 128,
        ema_decay: Annotated[float, Interval(gt=0, lt=1)] | None = None,
        z_loss: Annotated[float, Ge(0)] = 0.0,
        log_noise: bool = False,
    ) -> None:
        self.parallel = parallel or Single()
        self.model = model
        if ema_decay is not None:
            if optimizer.points() is not None:
                raise ConfigError(
                    "update.ema_decay averages weights, which this optimizer does already; set it to null"
                )
            if self.parallel.share.pieces:
                raise ConfigError("update.ema_decay needs whole weights, with parallel=none or ddp; set it to null")
            optimizer = Averaged(optimizer, self.parallel.parameters(model), ema_decay)
        self.working = self.parallel.working(model, dtype)
        # Where the optimizer's parameters are an average of weights, gradients are taken elsewhere.
        self.learning = self.working if optimizer.points() is None else copy.deepcopy(self.working)
        self.learning.z_loss = z_loss
        if fp8:
            learn_in_fp8(self.learning)
        checkpoint_activations(self.learning, activation_checkpointing)
        self.compilation = compilation or Compilation(False, lambda reason: None)
        self.batches = batches
        self.optimizer = optimizer
        self.schedule = schedule
        self.micro_batch = micro_batch
        self.seed = seed
        self.carried: list[State | None] = []  # of each micro-batch, what the model knows of the rows before
        self.stop = stop
        self.loss_scale = LossScale(dtype)
        self.max_grad_norm = max_grad_norm
        self.spikes = SpikeGuard(action=spike_action, threshold=spike_threshold, window=spike_window)
        self.noise = GradientNoise(self.parallel) if log_noise else None

    def most_batches(self) -> int | None:
        return self.batches.most_batches

    def step(self, number: int, batch: int, progress: float) -> StepResult:
        started = time.perf_counter()
        torch.manual_seed((self.seed * 1_000_003 + batch + self.parallel.data_rank * APART) % 2**63)
        weights = list(self.learning.parameters())
        device = weights[0].device
        tokens, targets = (_sent(part, device) for part in self.batches.pairs(batch))  # (R, P)
        count = self.batches.targets(batch)
        gradients: list[Tensor] = []
        total = torch.zeros((), device=device)
        self.learning.train()
        micros = list(zip(torch.split(tokens, self.micro_batch), torch.split(targets, self.micro_batch), strict=True))
        carried = self.carried if self.batches.goes_on(batch) and self.carried else [None] * len(micros)
        carried_on: list[State | None] = []
        if self.noise:
            self.noise.begin()
        for micro, state in zip(micros, carried, strict=True):
            self.stop.check()
            try:
                loss, state = self._loss(*micro, state, count)
            except RuntimeError as error:
                if not self.compilation.failed(error):
                    raise
                self.parallel.gradients(weights)  # those that came before it failed
                loss, state = self._loss(*micro, state, count)
            carried_on.append(state and {name: tensor.detach() for name, tensor in state.items()})
            found = self.parallel.gradients(weights)
            self.loss_scale.unscale(found)
            if self.noise:
                self.noise.take(found, micro[1])
            if gradients:
                torch._foreach_add_(gradients, found)
            gradients = gradients or found
            total += loss
        self.parallel.reduce(gradients)
        self.parallel.sum(total)
        lr = self.optimizer.lr * self.schedule(number, self._tokens_until(number + 1), progress)
        norm_there = self.parallel.norm(gradients)
        # The one time that the host waits for the device: whether the step is taken depends on both numbers.
        loss, norm = torch.stack([total, norm_there]).tolist()
        result = StepResult(loss, self.batches.tokens_in(batch), lr, norm)
        result = replace(result, loss_scale=self.loss_scale.scale if self.loss_scale.dynamic else None)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            rescaled = math.isfinite(loss) and self.loss_scale.overflowed()
            return replace(result, skipped=True, rescaled=rescaled)
        self.loss_scale.held()
        spike = self.spikes.score(loss, norm)
        result = replace(result, spike=spike)
        if self.spikes.refuses(spike):
            return replace(result, skipped=True, rollback=self.spikes.action == "rollback")
        self.spikes.take(loss, norm)
        if self.max_grad_norm and norm > self.max_grad_norm:
            torch._foreach_mul_(gradients, self.max_grad_norm / norm_there)
        if self.noise:
            before = {name: weight.clone() for name, weight in self._moved().items()}
        self.optimizer.step(gradients, lr)
        if self.noise:
            measures = self.noise.figures(norm, count) | update_ratios(self.parallel, before, self._moved())
            result = replace(result, measures=measures)
        self._refresh()
        self.carried = carried_on if self.batches.packing == "contiguous" else []
        self.compilation.took(time.perf_counter() - started, progress)
        return result

    def _tokens_until(self, number: int) -> int:
        return self.batches.first_row(number) * self.batches.sequence_length

    def _loss(self, tokens: Tensor, targets: Tensor, state: State | None, count: int) -> tuple[Tensor, State | None]:
        """The loss of a micro-batch, whose gradient is left at the weights, and the state that the next rows take.

        Args:
            count: targets of the batch.
        """
        nats, state = self._losses(tokens, targets, state)
        loss = nats.sum() / count
        (loss * self.loss_scale.scale).backward()  # type: ignore[no-untyped-call]  # torch's own is untyped
        return loss.detach(), state

    def _losses(self, tokens: Tensor, targets: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """Nats (B, T), and the state that the next rows go on with."""
        if self.batches.packing == "documents":
            documents = documents_in(tokens, self.batches.stream.end_of_text)
            losses: Callable[..., Tensor] = self.learning.document_losses
            if type(self.learning).document_losses is not LanguageModel.document_losses:
                losses = self.compilation.of(losses)  # else every batch has a shape of its own
            return losses(tokens, targets, documents), None
        found: tuple[Tensor, State | None] = self.compilation.of(self.learning.token_losses)(tokens, targets, state)
        return found

    def state(self) -> dict[str, Tensor]:
        states = [state for state in self.carried if state]
        names = states[0] if states else {}
        own = {CARRIED + name: torch.cat([state[name] for state in states]) for name in names}
        carried = {name: self.parallel.rows(rows) for name, rows in own.items()}
        noise = self.noise.state() if self.noise else {}
        return self.optimizer.state() | self.spikes.state() | self.loss_scale.state() | noise | carried

    def load_state(self, state: dict[str, Tensor]) -> None:
        all_rows = {name.removeprefix(CARRIED): tensor for name, tensor in state.items() if name.startswith(CARRIED)}
        rank, ranks = self.parallel.data_rank, self.parallel.data_ranks
        rows = {name: tensor.tensor_split(ranks)[rank] for name, tensor in all_rows.items()}
        device = next(self.working.parameters()).device
        pieces = {name: torch.split(tensor.to(device), self.micro_batch) for name, tensor in rows.items()}
        self.carried = [dict(zip(pieces, parts, strict=True)) for parts in zip(*pieces.values(), strict=True)]
        self.spikes.load_state(state)
        if self.noise:
            self.noise.load_state(state)
        self.loss_scale.load_state(state)
        self.optimizer.load_state({name: tensor for name, tensor in state.items() if not name.startswith(CARRIED)})
        self._refresh()

    def _moved(self) -> dict[str, Tensor]:
        """By name, the weights at which gradients are taken, in fp32."""
        parameters = self.parallel.parameters(self.model)
        points = self.optimizer.points()
        return parameters if points is None else dict(zip(parameters, points, strict=True))

    @torch.no_grad()
    def _refresh(self) -> None:
        """Bring the copies up to date with the fp32 weights."""
        if self.working is not self.model:
            torch._foreach_copy_(list(self.working.parameters()), list(self.model.parameters()))
        if (points := self.optimizer.points()) is not None:
            torch._foreach_copy_(list(self.learning.parameters()), points)


def _sent(part: NDArray[np.int64], device: torch.device) -> Tensor:
    """`part` on the device; a GPU copies from pinned memory while the host goes on."""
    tensor = torch.from_numpy(part)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class CountUpdate:
    """Read the training tokens once, and count.

    Args:
        model: n-grams of any kind, or whole prefixes.
        end_of_text: id of the token between documents.
    """

    def __init__(self, model: LanguageModel, batches: Batches, end_of_text: int) -> None:
        self.model = self.working = model
        self.batches = batches
        self.end_of_text = end_of_text

    def most_batches(self) -> int:
        return 1

    def step(self, number: int, batch: int, progress: float) -> StepResult:
        stream = self.batches.stream
        fit: Callable[[NDArray[Any], int], None] | None = getattr(self.model, "fit", None)
        if fit is None:
            raise ConfigError(f"update=count needs a model that counts; {type(self.model).__name__} does not")
        stream.verify()  # all of it is read at once, so that damage found beside would come too late
        fit(stream.array(), self.end_of_text)
        # A model that can see everything before reads the whole beginning, the others rows as in evaluation.
        row = TOKENS_OF_TRAIN_LOSS if self.model.context_length is None else self.batches.sequence_length
        length = min(row, len(stream) - 1)
        count = max(1, min(TOKENS_OF_TRAIN_LOSS, len(stream) - 1) // length)
        rows = torch.from_numpy(np.stack([stream.read(i * length, (i + 1) * length + 1) for i in range(count)]))
        nats, _ = self.model.token_losses(rows[:, :-1], rows[:, 1:])
        loss = float(nats.mean())  # NaN for scores that are no probabilities, inf where one is 0
        return StepResult(loss, len(stream) - 1, skipped=False)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        pass
