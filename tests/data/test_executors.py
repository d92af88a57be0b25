"""Who does the work: every task once, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pretrain.data import executors
from pretrain.data.collect import FileChanged
from pretrain.data.executors import Pool, Serial
from pretrain.errors import DataError, Interrupted, PretrainError


def squared(task: int) -> int:
    return task * task


def noted(task: tuple[Path, int]) -> int:
    """Leave a file for every call."""
    folder, number = task
    (folder / f"{number}-{time.monotonic_ns()}").touch()
    return number


def idle() -> None:
    pass


def die_some_times(task: tuple[Path, int, int]) -> int:
    """Kill this process at task 2 until it was begun more than `kills` times."""
    folder, number, kills = task
    noted((folder, number))
    if number == 2 and len(list(folder.glob("2-*"))) <= kills:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{os.getpid()}.death").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def own_process(task: int) -> int:
    time.sleep(0.2)  # so that every worker gets one
    return os.getpid()


class Odd(Exception):
    """Cannot be made of its args: what it is made of is not in them."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one)
        self.other = other


def raise_one(kind: type[Exception]) -> None:
    raise kind("the value", "more") if kind is Odd else kind("the value")


def unpicklable(task: str) -> object:
    if task == "a lambda":
        return lambda: None
    error = ValueError("it holds a lambda")
    error.held = lambda: None  # type: ignore[attr-defined]
    raise error


def refuse_three(task: int) -> int:
    if task == 3:
        raise ValueError("three is refused")
    return task


@pytest.fixture(params=["serial", "pool"])
def executor(request):
    chosen = Serial() if request.param == "serial" else Pool(workers=2)
    yield chosen
    chosen.close()


@pytest.fixture
def pool():
    chosen = Pool(workers=2)
    yield chosen
    chosen.close()


@pytest.mark.parametrize("size", [0, 1, 2, 17])
def test_every_task_comes_back_once_with_its_result(executor, size):
    assert sorted(executor.map(squared, range(size), idle)) == [(task, task * task) for task in range(size)]


def test_equal_tasks_are_each_done(executor):
    assert sorted(executor.map(squared, [4, 4, 5], idle)) == [(4, 16), (4, 16), (5, 25)]


def test_every_task_is_done_once(executor, tmp_path):
    assert len(list(executor.map(noted, [(tmp_path, number) for number in range(9)], idle))) == 9
    assert sorted(int(file.name.split("-")[0]) for file in tmp_path.iterdir()) == list(range(9))


def test_an_executor_works_again_after_it_is_closed(executor):
    assert len(list(executor.map(squared, range(3), idle))) == 3
    executor.close()
    executor.close()
    assert len(list(executor.map(squared, range(3), idle))) == 3


def test_an_exception_in_a_task_is_raised_and_the_executor_goes_on(executor):
    with pytest.raises(ValueError, match="three is refused"):
        list(executor.map(refuse_three, range(6), idle))
    assert sorted(executor.map(squared, [1, 2], idle)) == [(1, 1), (2, 4)]


@pytest.mark.parametrize("executor", ["pool"], indirect=True)
@pytest.mark.parametrize("kills", [1, 3])
def test_a_killed_worker_costs_its_own_task_once_more_and_no_other(executor, tmp_path, kills):
    tasks = [(tmp_path, number, kills) for number in range(8)]
    results = list(executor.map(die_some_times, tasks, idle))
    assert sorted(number for _, number in results) == list(range(8))
    assert sorted(task[1] for task, _ in results) == list(range(8))
    calls = [int(file.name.split("-")[0]) for file in tmp_path.iterdir()]
    assert {number: calls.count(number) for number in range(8)} == {n: 1 + kills * (n == 2) for n in range(8)}


def test_a_worker_that_died_while_idle_is_replaced(pool):
    first = {process for _, process in pool.map(own_process, range(2), idle)}
    for process in first:
        os.kill(process, signal.SIGKILL)
    again = list(pool.map(own_process, range(4), idle))
    assert sorted(task for task, _ in again) == list(range(4))
    assert not first & {process for _, process in again}


def test_a_task_that_kills_every_worker_is_given_up_with_advice(pool, tmp_path, monkeypatch):
    assert executors.ATTEMPTS == 10
    monkeypatch.setattr(executors, "ATTEMPTS", 3)  # faster
    with pytest.raises(PretrainError, match=r"3 worker .* died .*executor\.workers=1"):
        list(pool.map(die, [tmp_path, tmp_path / "other"], idle))
    deaths = [len(list(folder.glob("*.death"))) for folder in (tmp_path, tmp_path / "other")]
    assert max(deaths) == 3
    assert sorted(pool.map(squared, [1, 2], idle)) == [(1, 1), (2, 4)]


@pytest.mark.parametrize("kind", [KeyError, DataError, MemoryError, FileChanged, Odd])
def test_an_exception_keeps_its_type_and_says_where_it_was_raised(pool, kind):
    with pytest.raises(kind) as caught:
        list(pool.map(raise_one, [kind, kind], idle))
    assert caught.value.args[0] == "the value"
    assert "in raise_one" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("task", ["a lambda", "an exception with a lambda"])
def test_what_cannot_be_pickled_is_told_and_the_pool_goes_on(pool, task):
    with pytest.raises(PretrainError, match="lambda"):
        list(pool.map(unpicklable, [task, task], idle))
    assert sorted(pool.map(squared, [1, 2], idle)) == [(1, 1), (2, 4)]


def test_what_is_left_of_a_map_that_was_broken_off_is_not_the_next_ones(pool, tmp_path):
    results = pool.map(noted, [(tmp_path, number) for number in range(100)], idle)
    next(results)
    results.close()
    assert sorted(pool.map(squared, [5, 6, 7], idle)) == [(5, 25), (6, 36), (7, 49)]
    assert len(list(tmp_path.iterdir())) < 100


def test_a_signal_is_noticed_while_a_task_goes_on(pool):
    def interrupt() -> None:
        raise Interrupted("stopped")

    started = time.monotonic()
    with pytest.raises(Interrupted):
        list(pool.map(time.sleep, [60, 60], interrupt))
    assert time.monotonic() - started < 10


def alive(process: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "long_task.py").write_text(
        textwrap.dedent(
            """
            import os, time
            from pathlib import Path
            from pretrain.data.executors import Pool

            def sleep(folder):
                (Path(folder) / f"{os.getpid()}.worker").touch()
                time.sleep(100)

            if __name__ == "__main__":
                folder = str(Path(__file__).parent)
                list(Pool(workers=2).map(sleep, [folder, folder], lambda: None))
            """
        ),
        "utf-8",
    )
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "long_task.py"],
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.DEVNULL,  # Python tells there of semaphores that a killed process leaves
    )
    try:
        workers: list[int] = []
        limit = time.monotonic() + 30
        while len(workers) < 2 and time.monotonic() < limit:
            time.sleep(0.05)
            workers = [int(file.stem) for file in tmp_path.glob("*.worker")]
        assert len(workers) == 2
        assert all(alive(worker) for worker in workers)
    finally:
        parent.kill()
        parent.wait()
    limit = time.monotonic() + 10
    while any(alive(worker) for worker in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    left = [worker for worker in workers if alive(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left
