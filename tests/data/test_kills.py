"""Whoever does the work, in whatever order, and whoever is killed on the way: the same bytes, and little done twice."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pretrain.data.executors import Pool

DRIVER = Path(__file__).with_name("pipeline_driver.py")
DOCUMENTS = 400  # in shards of 10 kB: about 40

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Files of JSON lines, with copies among the documents."""
    folder = tmp_path_factory.mktemp("corpus")
    words = [f"word{number}" for number in range(500)]
    chance = random.Random(1)
    texts = [" ".join(chance.choices(words, k=150)) for _ in range(DOCUMENTS)]
    texts[::9] = [texts[0]] * len(texts[::9])
    for start in range(0, DOCUMENTS, 10):
        lines = [json.dumps({"text": text}) for text in texts[start : start + 10]]
        (folder / f"{start:05d}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def drive(data_dir, corpus, executor, *more, marks=None):
    """Start the pipeline as a process."""
    marks = marks or data_dir.with_name(f"{data_dir.name}-marks")
    marks.mkdir(exist_ok=True)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    words = [sys.executable, "-W", "ignore", str(DRIVER), str(data_dir), str(corpus), str(marks), executor, *more]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process):
    _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said


def content(data_dir):
    """Every file but what tells the cost, by its path."""
    files = (path for path in data_dir.rglob("*") if path.is_file())
    return {
        str(path.relative_to(data_dir)): path.read_bytes()
        for path in files
        if path.name not in ("cost.json", "file_hashes.json")
    }


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """What a serial build leaves."""
    data_dir = tmp_path_factory.mktemp("undisturbed") / "data"
    finish(drive(data_dir, corpus, "serial"))
    result = content(data_dir)
    assert len([name for name in result if name.endswith("manifest.json")]) == 6
    assert len([name for name in result if "noted" in name and name.endswith(".parquet")]) == 40
    return result


@pytest.mark.parametrize("executor", [("shuffled",), ("pool", "1"), ("pool", "2"), ("pool", "8"), ("ray",)], ids=str)
def test_any_executor_with_any_number_of_workers_gives_the_same_bytes(corpus, undisturbed, tmp_path, executor):
    finish(drive(tmp_path / "data", corpus, *executor))
    assert differing(tmp_path / "data", undisturbed) == []


def differing(data_dir, expected):
    """The files that are missing, too many or of other bytes: names, for pytest would compare megabytes for minutes."""
    found = content(data_dir)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def workers_of(pid):
    """The processes of a pool whose parent is `pid`."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


def redone(marks):
    """Attempts at a shard beyond its first one."""
    attempts = Counter(mark.name.partition(".")[0] for mark in marks.iterdir())
    return sum(attempts.values()) - len(attempts)


HOW_MANY = [pytest.param(5, id="five"), pytest.param(100, id="hundred", marks=[pytest.mark.faults])]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", HOW_MANY)
def test_killed_workers_change_no_byte_and_cost_a_shard_each(corpus, undisturbed, tmp_path, kills):
    chance = random.Random(kills)
    done = 0
    while done < kills:
        data_dir = tmp_path / f"data{done}"
        before = done
        process = drive(data_dir, corpus, "pool")
        while process.poll() is None and done < kills:
            time.sleep(chance.uniform(0.1, 0.6))
            if victims := workers_of(process.pid):
                os.kill(chance.choice(victims), signal.SIGKILL)
                done += 1
        finish(process)
        assert differing(data_dir, undisturbed) == []
        assert redone(tmp_path / f"{data_dir.name}-marks") <= done - before


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", HOW_MANY)
def test_a_killed_driver_goes_on_with_the_same_bytes_and_redoes_a_shard_at_most(corpus, undisturbed, tmp_path, kills):
    chance = random.Random(kills)
    done = 0
    for build in itertools.count():  # each in a folder of its own: a finished one is found in no time, and not killed
        if done == kills:
            break
        data_dir, before = tmp_path / f"data{build}", done
        while True:
            process = drive(data_dir, corpus, "pool")
            if done == kills:
                break
            try:
                process.wait(chance.uniform(0.4, 2.0))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                done += 1
        finish(process)
        assert differing(data_dir, undisturbed) == []
        assert redone(tmp_path / f"{data_dir.name}-marks") <= done - before


def die_at_first(task):
    """Note the time, and at the first attempt die."""
    folder, _ = task
    (folder / str(time.monotonic_ns())).touch()
    if len(list(folder.iterdir())) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_dead_worker_is_noticed_within_five_seconds(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    pool = Pool(workers=2)
    assert len(list(pool.map(die_at_first, [(folder, 0) for folder in folders], lambda: None))) == 2
    pool.close()
    for folder in folders:
        first, second = sorted(int(file.name) for file in folder.iterdir())
        assert (second - first) / 1e9 < 5
