"""Who does the work of a stage: this process, a pool of processes on this machine, or a Ray cluster.

An executor maps a function over tasks; each task writes its own files, so the order in which they end does not matter,
and a task whose worker died is simply done again.
"""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Annotated, Any, Protocol, TypeVar

from annotated_types import Ge, Gt

from pretrain.data.memory import release_memory
from pretrain.errors import PretrainError, UsageError

T = TypeVar("T")
R = TypeVar("R")

ATTEMPTS = 10  # workers that may die over one task before it is given up
LIGHT = 1_000_000  # bytes that a task weighs, where it says so, below which it is done at once
GRACE = 5.0  # seconds in which a worker may finish its shard when its parent was killed
PATIENCE = 0.2  # seconds between two looks at whether the program is to stop

Idle = Callable[[], None]  # called while results are awaited, at least every PATIENCE seconds


class Executor(Protocol):
    def map(self, function: Callable[[T], R], tasks: Sequence[T], idle: Idle) -> Iterator[tuple[T, R]]:
        """Pairs of task and result, each as soon as it is there; tasks are begun in their order.

        Raises:
            PretrainError: a task killed every worker that tried it.
        """
        ...

    def close(self) -> None: ...


class Serial:
    """One task after the other, in this process."""

    workers = 1

    def map(self, function: Callable[[T], R], tasks: Sequence[T], idle: Idle) -> Iterator[tuple[T, R]]:
        for task in tasks:
            idle()
            yield task, function(task)

    def close(self) -> None:
        pass


class Pool:
    """Processes on this machine. One that dies is noticed at once, and replaced; its task alone is done again.

    Args:
        workers: processes; None is one a core.
    """

    def __init__(self, *, workers: Annotated[int, Ge(1)] | None) -> None:
        self.workers = workers or os.cpu_count() or 1
        self._idle: list[_Worker] = []

    def map(self, function: Callable[[T], R], tasks: Sequence[T], idle: Idle) -> Iterator[tuple[T, R]]:
        if len(tasks) == 1 and getattr(tasks[0], "weight", 0) < LIGHT:  # not worth a process
            yield tasks[0], function(tasks[0])
            return
        waiting = deque(range(len(tasks)))
        busy: dict[_Worker, int] = {}
        deaths: Counter[int] = Counter()
        try:
            while waiting or busy:
                while waiting and len(busy) < self.workers:
                    worker = self._idle.pop() if self._idle else _Worker()
                    number = waiting.popleft()
                    busy[worker] = number
                    worker.give(function, tasks[number])
                idle()
                ready = set(wait([worker.connection for worker in busy], PATIENCE))
                for worker in [worker for worker in busy if worker.connection in ready]:
                    number = busy.pop(worker)
                    try:
                        result, error = worker.take()
                    except (EOFError, OSError):  # OSError: it was killed while it sent its answer
                        worker.end()
                        deaths[number] += 1
                        self._refuse(deaths[number])
                        waiting.appendleft(number)
                        continue
                    self._idle.append(worker)
                    if error is not None:
                        raise error
                    yield tasks[number], result
        finally:
            for worker in busy:
                worker.end()

    def _refuse(self, deaths: int) -> None:
        if deaths == ATTEMPTS:
            raise PretrainError(
                f"{deaths} worker processes died over the same piece of work, perhaps for want of memory; "
                f"try executor.workers={max(1, self.workers // 2)}"
            )

    def close(self) -> None:
        for worker in self._idle:
            worker.end()
        self._idle.clear()


class Ray:
    """Core tasks on a Ray cluster that is there already, or on one that is started on this machine for the time.

    Every machine of the cluster must have this program installed, and see `data_dir` and the sources under the same
    paths. https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html

    Args:
        address: of the cluster: auto finds the one on this machine; None starts one.
        cpus: that a task takes.
        tasks_in_flight: given to the cluster at the same time, at most.
    """

    def __init__(
        self, *, address: str | None, cpus: Annotated[float, Gt(0)], tasks_in_flight: Annotated[int, Ge(1)]
    ) -> None:
        self.address = address
        self.cpus = cpus
        self.tasks_in_flight = tasks_in_flight
        self._ray: Any = None

    @property
    def workers(self) -> int:
        """Tasks that the cluster can run at the same time."""
        return max(1, int(self._connected().cluster_resources().get("CPU", 1) / self.cpus))

    def map(self, function: Callable[[T], R], tasks: Sequence[T], idle: Idle) -> Iterator[tuple[T, R]]:
        ray = self._connected()
        call = ray.remote(num_cpus=self.cpus, max_retries=ATTEMPTS)(_call)
        shared = ray.put(function)
        waiting = deque(range(len(tasks)))
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.tasks_in_flight:
                    number = waiting.popleft()
                    running[call.remote(shared, tasks[number])] = number
                idle()
                ready, _ = ray.wait(list(running), num_returns=1, timeout=PATIENCE)
                for reference in ready:
                    number = running.pop(reference)
                    yield tasks[number], self._result(reference)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _result(self, reference: Any) -> Any:
        ray = self._ray
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from None
        except ray.exceptions.RayError as error:
            first = str(error).strip().partition("\n")[0]
            raise PretrainError(f"Ray gave a piece of work up after {ATTEMPTS} more attempts: {first}") from None

    def _connected(self) -> Any:
        if self._ray is None:
            try:
                import ray
            except ImportError:
                raise UsageError("executor=ray needs the package ray: pip install 'pretrain[ray]'") from None
            try:
                stopping = signal.getsignal(signal.SIGTERM)
                ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
                signal.signal(signal.SIGTERM, stopping)  # Ray puts its own there, which ends the process
            except (ConnectionError, ValueError) as error:
                first = str(error).strip().partition("\n")[0]
                raise UsageError(
                    f"executor.address={self.address}: no Ray cluster answers ({first}); "
                    "executor.address=null starts one"
                ) from None
            self._ray = ray
        return self._ray

    def close(self) -> None:
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None


def _call(function: Callable[[T], R], task: T) -> R:
    _calm()
    return function(task)


class _Worker:
    """A process that does one task after the other. It is started fresh, not forked: threads do not survive a fork."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()  # so that the pipe ends when the process does

    def give(self, function: Callable[[Any], Any], task: Any) -> None:
        with contextlib.suppress(ConnectionError):  # it died while idle: take() tells so
            self.connection.send((function, task))

    def take(self) -> tuple[Any, BaseException | None]:
        """The task's result, or what it raised.

        Raises:
            EOFError: the process died.
        """
        result, failure = self.connection.recv()
        if failure is None:
            return result, None
        kind, args, state = failure
        error: BaseException = kind.__new__(kind, *args)  # its __init__ may want other arguments than it kept
        error.args = args
        error.__dict__.update(state)
        return None, error

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    """The life of a worker: Ctrl-C is for the parent. Where that is killed, it may finish what it is at, and ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    _calm()
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            _answer(connection)
            release_memory()


def _answer(connection: Connection) -> None:
    """Do one task and send its result, or what it raised."""
    function, task = connection.recv()
    result: Any = None
    failure = None
    try:
        result = function(task)
    except Exception as error:  # noqa: BLE001  raised again by the parent
        error.add_note(traceback.format_exc())
        result, failure = error, (type(error), error.args, error.__dict__)
    try:
        connection.send((None if failure else result, failure))
    except (TypeError, AttributeError, ValueError, pickle.PicklingError):  # it can still be told
        connection.send((None, (PretrainError, (f"{type(result).__name__}: {result}",), {})))


def _calm() -> None:
    """One thread a worker: the others have the other cores."""
    import pyarrow as pa

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pa.set_cpu_count(1)
