"""What a way to train on many processes is, and the one on a single process."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.models.language_model import LanguageModel
from pretrain.stopping import Stop
from pretrain.training.parallel.pieces import Share


class Parallel(Protocol):
    """How the processes of a run, its ranks, share the work.

    All ranks call all of these methods but `stop` and `parameters` in the same order.

    Attributes:
        rank, ranks: this process, from 0 on, and how many there are.
        local_ranks: of them, those that share this machine's memory.
        data_rank, data_ranks: which part of every batch this process reads, and of how many.
        share: of the tensors, what this process holds and writes; known once a model is prepared.
        sums_at_once: whether the gradients that are taken are those of the rows of all ranks already.
    """

    rank: int
    ranks: int
    local_ranks: int
    data_rank: int
    data_ranks: int
    share: Share
    sums_at_once: bool

    def joined(self, device: torch.device, stop: Stop) -> AbstractContextManager[None]:
        """Be one of the ranks. An error in the block ends the other ranks too; they name this one."""
        ...

    def stop(self, stop: Stop) -> Stop:
        """What asks all ranks to stop at the same place, when a signal has come to one of them."""
        ...

    def turn(self, work: Callable[[], str]) -> str:
        """What `work` returns on rank 0, which alone does it. The others wait for it, however long it takes."""
        ...

    def same(self, number: float) -> float:
        """Rank 0's number, on all ranks."""
        ...

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all parts of the batch of `numbers`, which is changed in place."""
        ...

    def prepare(self, model: LanguageModel, dtype: torch.dtype) -> None:
        """Share the parameters of `model`, which are whole, among the ranks."""
        ...

    def working(self, model: LanguageModel, dtype: torch.dtype) -> LanguageModel:
        """The model whose products are in `dtype`: the prepared one, or a copy."""
        ...

    def parameters(self, model: LanguageModel) -> dict[str, Tensor]:
        """By name, the part of each parameter that this rank moves."""
        ...

    def parameter_count(self, model: LanguageModel) -> int:
        """Elements of all parameters of the whole model, a shared one counted once."""
        ...

    def weights(self, model: LanguageModel) -> dict[str, Tensor]:
        """By name, what this rank saves of the model."""
        ...

    def load(self, model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
        """Bring the prepared `model` to whole `weights`."""
        ...

    def gradients(self, weights: Iterable[nn.Parameter]) -> list[Tensor]:
        """Take the gradients, in fp32, of the part of each of `weights` that this rank moves; zeros for none."""
        ...

    def reduce(self, gradients: list[Tensor]) -> None:
        """Make the gradients of this rank's rows those of the whole batch, in place."""
        ...

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """The norm of the whole gradient, on all ranks the same."""
        ...

    def rows(self, own: Tensor) -> Tensor:
        """The rows of all parts of a batch, from this rank's own."""
        ...


class Single:
    """All in one process."""

    rank = data_rank = 0
    ranks = local_ranks = data_ranks = 1
    share = Share(0, 1, {})
    sums_at_once = False

    @contextmanager
    def joined(self, device: torch.device, stop: Stop) -> Iterator[None]:
        if (started := os.environ.get("WORLD_SIZE", "1")) != "1":
            raise ConfigError(f"there are {started} processes, but parallel=none is for one; add parallel=ddp or fsdp")
        yield

    def stop(self, stop: Stop) -> Stop:
        return stop

    def turn(self, work: Callable[[], str]) -> str:
        return work()

    def same(self, number: float) -> float:
        return number

    def sum(self, numbers: Tensor) -> Tensor:
        return numbers

    def prepare(self, model: LanguageModel, dtype: torch.dtype) -> None:
        pass

    def working(self, model: LanguageModel, dtype: torch.dtype) -> LanguageModel:
        return in_precision(model, dtype)

    def parameters(self, model: LanguageModel) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in model.named_parameters()}

    def parameter_count(self, model: LanguageModel) -> int:
        return model.parameter_count()

    def weights(self, model: LanguageModel) -> dict[str, Tensor]:
        return dict(model.state_dict())

    def load(self, model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
        model.load_weights(weights)

    def gradients(self, weights: Iterable[nn.Parameter]) -> list[Tensor]:
        return taken(weights)

    def reduce(self, gradients: list[Tensor]) -> None:
        pass

    def norm(self, gradients: list[Tensor]) -> Tensor:
        return norm(gradients)

    def rows(self, own: Tensor) -> Tensor:
        return own


def in_precision(model: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """`model`, whose parameters are fp32, or a copy of it in another `dtype`."""
    return model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)


def taken(weights: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients of `weights` in fp32, zeros for none; the weights are left without."""
    found = []
    for weight in weights:
        found.append(torch.zeros_like(weight, dtype=torch.float32) if weight.grad is None else weight.grad.float())
        weight.grad = None
    return found


def norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of all numbers in `tensors`."""
    found: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return found
