"""Who does the work of a stage: this process, or a pool of processes on this machine.

An executor maps a function over tasks; each task writes its own files, so the order in which they end does not matter.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Annotated, Any, Protocol, TypeVar

from annotated_types import Ge

from pretrain.errors import PretrainError

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R]]:
        """Pairs of task and result, each as soon as it is there."""
        ...

    def close(self) -> None: ...


class Serial:
    """One task after the other, in this process."""

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R]]:
        for task in tasks:
            yield task, function(task)

    def close(self) -> None:
        pass


class Pool:
    """A pool of spawned processes. The tasks of one that dies are given out again, three times at most.

    Args:
        workers: processes; None is one a core.
    """

    restarts = 3

    def __init__(self, *, workers: Annotated[int, Ge(1)] | None) -> None:
        self.workers = workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R]]:
        if len(tasks) == 1:  # not worth a process
            yield tasks[0], function(tasks[0])
            return
        left = list(range(len(tasks)))
        for attempt in range(self.restarts + 1):
            try:
                for index, result in self._results(function, tasks, left):
                    left.remove(index)
                    yield tasks[index], result
                return
            except BrokenProcessPool:
                self.close()
                if attempt == self.restarts:
                    raise PretrainError(
                        f"a worker process died {attempt + 1} times, perhaps for want of memory; "
                        f"try executor.workers={max(1, self.workers // 2)}"
                    ) from None

    def _results(self, function: Callable[[T], R], tasks: Sequence[T], left: list[int]) -> Iterator[tuple[int, R]]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
            )
        futures: dict[Any, int] = {self._pool.submit(function, tasks[index]): index for index in left}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does, even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
