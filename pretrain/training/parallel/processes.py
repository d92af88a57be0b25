"""The processes of a run: how they find each other, agree and wait, and how one that fails, dies or hangs ends all.

torchrun starts them, or whatever else sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each.
"""

import itertools
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from pretrain.errors import Interrupted, PretrainError, RankError, UsageError
from pretrain.models.language_model import LanguageModel
from pretrain.stopping import Stop
from pretrain.training.parallel.pieces import Share
from pretrain.training.parallel.single import in_precision, norm, taken

COMING = 60.0  # seconds, at least, that ranks wait for each other at the start: they import and read at their own pace
ROLL_CALL = 3.0  # seconds in which ranks whose connections broke tell each other that they are there
TOGETHER = 2**23  # numbers of gradients that are summed in one exchange
POLL = 0.1  # seconds between two looks at whether rank 0 is through
FORWARDED = 5.0  # seconds in which a second signal is the first one once more: a launcher sends on what a terminal sent
_JOINED = itertools.count()  # how often processes have joined: each time they write to a part of the store of its own
HERE, FAILED, FAILURES = "here", "failed", "failures"  # names in the store


class Processes:
    """Several processes, each with the whole model unless a child says otherwise.

    A rank that meets an error records it in the store that all share, and ends. The others then fail in their next
    exchange: they look up who was first. A rank that has recorded nothing, though its exchange must have failed too,
    has died or hangs.

    Args:
        timeout_seconds: that an exchange between ranks may take.
    """

    rank = data_rank = 0
    ranks = local_ranks = data_ranks = 1
    share = Share(0, 1, {})
    sums_at_once = False

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._turns = 0
        self._data_group: dist.ProcessGroup | None = None  # of ranks with other parts of the batch; None: all
        self._own_stop = Stop()

    @contextmanager
    def joined(self, device: torch.device, stop: Stop) -> Iterator[None]:
        try:
            self.rank, self.ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        except KeyError:
            raise UsageError(
                "parallel= needs several processes; start them with torchrun --nproc-per-node=2 -m pretrain train ..., "
                "or choose parallel=none"
            ) from None
        self.local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", self.ranks))
        self._own_stop = stop
        stop.forwarded_seconds = FORWARDED
        try:
            self._join(device)
            yield
        except Interrupted:
            raise
        except Exception as error:
            raise self._cause(error) from error
        dist.destroy_process_group()

    def stop(self, stop: Stop) -> Stop:
        return _CommonStop(stop, self._largest)

    def turn(self, work: Callable[[], str]) -> str:
        self._turns += 1
        name = f"turn/{self._turns}"
        if self.rank == 0:
            self._store.set(name, found := work())
            return found
        while not self._store.check([name]):
            self._own_stop.check()
            if self._store.check([f"{FAILURES}/1"]):
                raise _OtherRank
            time.sleep(POLL)
        return str(self._store.get(name).decode())

    def same(self, number: float) -> float:
        box = torch.tensor(number, dtype=torch.float64)
        dist.broadcast(box, 0)
        return float(box)

    def sum(self, numbers: Tensor) -> Tensor:
        dist.all_reduce(numbers, group=self._data_group)
        return numbers

    def prepare(self, model: LanguageModel, dtype: torch.dtype) -> None:
        self.share = Share(0, 1, {}, writes=self.rank == 0)

    def working(self, model: LanguageModel, dtype: torch.dtype) -> LanguageModel:
        return in_precision(model, dtype)

    def parameters(self, model: LanguageModel) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in model.named_parameters()}

    def parameter_count(self, model: LanguageModel) -> int:
        return model.parameter_count()

    def weights(self, model: LanguageModel) -> dict[str, Tensor]:
        return dict(model.state_dict())

    def load(self, model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
        own = self.share.own(weights)
        for name, parameter in self.parameters(model).items():
            parameter.copy_(own[name])

    def gradients(self, weights: Iterable[nn.Parameter]) -> list[Tensor]:
        return taken(weights)

    def reduce(self, gradients: list[Tensor]) -> None:
        for bucket in _buckets(gradients):
            joined = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(joined, group=self._data_group)
            parts = torch.split(joined, [gradient.numel() for gradient in bucket])
            torch._foreach_copy_(bucket, [part.view_as(to) for part, to in zip(parts, bucket, strict=True)])

    def norm(self, gradients: list[Tensor]) -> Tensor:
        return norm(gradients)

    def rows(self, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(self.data_ranks)]
        dist.all_gather(parts, own.contiguous(), group=self._data_group)
        return torch.cat(parts)

    def _largest(self, number: int) -> int:
        box = torch.tensor(number)
        dist.all_reduce(box, dist.ReduceOp.MAX)
        return int(box)

    def _join(self, device: torch.device) -> None:
        timeout = timedelta(seconds=self.timeout_seconds)
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        coming = max(self.timeout_seconds, COMING)
        try:
            store = PrefixStore(f"pretrain/{next(_JOINED)}", _meeting_point(self.rank, self.ranks, coming))
            self._store = PrefixStore("ranks", store)
            self._store.set(f"{HERE}/{self.rank}", f"{socket.gethostname()} {os.getpid()}")
            self._store.wait([f"{HERE}/{rank}" for rank in range(self.ranks)], timedelta(seconds=coming))
        except dist.DistError as error:
            raise RankError(f"not all {self.ranks} processes came within {coming:.0f} s: {_line(error)}") from error
        # What lies in the machine's own memory, such as the wish to stop, never waits for a GPU.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.ranks, timeout=timeout)
        self.data_rank, self.data_ranks = self.rank, self.ranks

    def _grid(self, device: torch.device, inner: int, names: tuple[str, str]) -> DeviceMesh:
        """The ranks in rows of `inner`, where an exchange in a column or a row may take as long as one of all."""
        ranks = torch.arange(self.ranks).view(-1, inner)
        timeout = timedelta(seconds=self.timeout_seconds)
        own = []
        for lines in (ranks.T, ranks):
            groups = [dist.new_group(line.tolist(), timeout=timeout) for line in lines]
            own.append(next(group for group, line in zip(groups, lines, strict=True) if self.rank in line))
        return DeviceMesh.from_group(own, device.type, mesh=ranks, mesh_dim_names=names)

    def _cause(self, error: Exception) -> Exception:
        """What to tell of an `error` on this rank, which may be but what follows from another rank's."""
        follows = isinstance(error, _OtherRank)
        try:
            self._store.set_timeout(timedelta(seconds=ROLL_CALL))
            if not follows:
                place = self._store.add(FAILURES, 1)
                self._store.set(f"{FAILURES}/{place}", json.dumps([self.rank, _line(error)]))
            self._store.set(f"{FAILED}/{self.rank}", _line(error))
            if _broken(error) and (absent := self._absent()):
                return RankError(f"{' and '.join(absent)} died or hangs: nothing came from there in time")
            if follows or _broken(error):
                rank, said = json.loads(self._store.get(f"{FAILURES}/1"))
                return RankError(f"rank {rank} failed: {said}")
            if self.rank != 0 and self._said_by_first(error):
                return type(error)("")
        except (RuntimeError, AttributeError):  # the store cannot be reached, nor rank 0 where it holds it
            if follows or _broken(error):
                return RankError(f"rank 0 died, hangs or cannot be reached: {_line(error)}")
        return error

    def _said_by_first(self, error: Exception) -> bool:
        """Whether rank 0 meets the same error, which is told once then."""
        end = time.monotonic() + 1
        while not (there := self._store.check([f"{FAILED}/0"])) and time.monotonic() < end:
            time.sleep(POLL / 2)
        return isinstance(error, PretrainError) and there and self._store.get(f"{FAILED}/0").decode() == _line(error)

    def _absent(self) -> list[str]:
        """Ranks that do not answer in time, each with its place; those on this machine are ended."""
        waiting, end = set(range(self.ranks)), time.monotonic() + ROLL_CALL
        while waiting and time.monotonic() < end:
            waiting = {rank for rank in waiting if not self._store.check([f"{FAILED}/{rank}"])}
            time.sleep(POLL / 2)
        found = []
        for rank in sorted(waiting):
            if not self._store.check([f"{HERE}/{rank}"]):
                found.append(f"rank {rank} (which never came)")
                continue
            host, process = self._store.get(f"{HERE}/{rank}").decode().split()
            found.append(f"rank {rank} (process {process} on {host})")
            if host == socket.gethostname():  # a launcher would wait half a minute for one that hangs
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
        return found


@cache
def _meeting_point(rank: int, ranks: int, timeout_seconds: float) -> Store:
    """The store at MASTER_ADDR:MASTER_PORT, which lives as long as the processes."""
    store: Store
    store, _, _ = next(iter(rendezvous("env://", rank, ranks, timeout=timedelta(seconds=timeout_seconds))))
    return store


class _OtherRank(PretrainError):
    """Another rank has failed; the store knows which."""


class _CommonStop(Stop):
    """Asks all ranks to stop where one was asked to; they check it at the same places."""

    def __init__(self, own: Stop, largest: Callable[[int], int]) -> None:
        super().__init__()
        self._own, self._largest = own, largest

    def check(self) -> None:
        if number := self._largest(self._own.signal or 0):
            self.signal = signal.Signals(number)
        super().check()


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, as many at a time as hold TOGETHER numbers at least."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(other.numel() for other in bucket) >= TOGETHER:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _broken(error: Exception) -> bool:
    """Whether it is an exchange between ranks that failed."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _line(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, PretrainError) else f"{type(error).__name__}: {first}"
