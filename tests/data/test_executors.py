"""Who does the work: every task once, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pretrain.data.executors import Pool, Serial
from pretrain.errors import PretrainError


def squared(task: int) -> int:
    return task * task


def noted(task: tuple[Path, int]) -> int:
    """Leave a file for every call."""
    folder, number = task
    (folder / f"{number}-{time.monotonic_ns()}").touch()
    return number


def die_once(task: tuple[Path, int]) -> int:
    """Kill this process at task 2, the first time."""
    folder, number = task
    marker = folder / "killed"
    if number == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return noted(task)


def die(task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


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
    assert sorted(executor.map(squared, range(size))) == [(task, task * task) for task in range(size)]


def test_equal_tasks_are_each_done(executor):
    assert sorted(executor.map(squared, [4, 4, 5])) == [(4, 16), (4, 16), (5, 25)]


def test_every_task_is_done_once(executor, tmp_path):
    assert len(list(executor.map(noted, [(tmp_path, number) for number in range(9)]))) == 9
    assert sorted(int(file.name.split("-")[0]) for file in tmp_path.iterdir()) == list(range(9))


def test_an_executor_works_again_after_it_is_closed(executor):
    assert len(list(executor.map(squared, range(3)))) == 3
    executor.close()
    executor.close()
    assert len(list(executor.map(squared, range(3)))) == 3


def test_an_exception_in_a_task_is_raised_and_the_executor_goes_on(executor):
    with pytest.raises(ValueError, match="three is refused"):
        list(executor.map(refuse_three, range(6)))
    assert sorted(executor.map(squared, [1, 2])) == [(1, 1), (2, 4)]


def test_the_tasks_of_a_killed_worker_are_given_out_again(pool, tmp_path):
    tasks = [(tmp_path, number) for number in range(6)]
    results = list(pool.map(die_once, tasks))
    assert (tmp_path / "killed").exists()
    assert sorted(number for _, number in results) == list(range(6))
    assert sorted(task[1] for task, _ in results) == list(range(6))


def test_a_worker_that_always_dies_is_given_up_with_advice(pool):
    with pytest.raises(PretrainError, match=r"died 4 times.*executor\.workers=1"):
        list(pool.map(die, range(2)))


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
                list(Pool(workers=2).map(sleep, [folder, folder]))
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
