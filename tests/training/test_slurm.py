"""The Slurm script: ranks are started, a signal is passed on, and exit code 75 queues the job again."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "slurm" / "train.sbatch"
TASKS = 2

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script is for bash")

# Stand-ins: srun starts a process a task, passes TERM on, and returns the highest exit code, as Slurm's does.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
number = lambda rank: {{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": "{TASKS}"}}
tasks = [subprocess.Popen(words, env=os.environ | number(rank)) for rank in range({TASKS})]
signal.signal(signal.SIGTERM, lambda *_: [task.send_signal(signal.SIGTERM) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) echo 127.0.0.1 ;;
    requeue) echo "$2" >> requeued ;;
esac
"""
# A program that tells what it was given, and ends with the code that CODE says: 75 when it is told to stop.
PROGRAM = """#!/bin/bash
echo "$@" > "told_$RANK"
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR" >> "told_$RANK"
trap 'exit 75' TERM
[ "$CODE" = stop ] && while true; do sleep 0.05; done
exit "$CODE"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    program = f'#!/bin/bash\nexec "{sys.executable}" -m pretrain "$@"\n'
    for name, content in {"srun": SRUN, "scontrol": SCONTROL, "program": PROGRAM, "real": program}.items():
        (tmp_path / "bin" / name).write_text(content)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def submitted(home: Path, program: str, *words: str, code: str = "0") -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PRETRAIN": str(home / "bin" / program),
    }
    environment |= {"SLURM_JOB_ID": str(free_port() - 20000), "SLURM_JOB_NODELIST": "here", "CODE": code}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["bash", str(SCRIPT), *words],
        env=environment,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    """Between 20000 and 40000, where the script looks for one."""
    for port in range(20000 + os.getpid() % 10000, 40000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


def wait_for(file: Path, text: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 90
    while not (file.is_file() and text in file.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_every_task_is_a_rank_and_gets_the_words_unchanged(home: Path) -> None:
    job = submitted(home, "program", "model=gpt_nano", "sample.prompt=two words")
    job.communicate(timeout=30)
    assert job.returncode == 0
    for rank in range(TASKS):
        words, ranks = (home / f"told_{rank}").read_text().splitlines()
        assert words == "train model=gpt_nano sample.prompt=two words"
        assert ranks == f"{rank} {rank} {TASKS} 127.0.0.1"
    assert not (home / "requeued").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_stops_the_ranks_and_queues_the_job_again(number: signal.Signals, home: Path) -> None:
    job = submitted(home, "program", code="stop")
    for rank in range(TASKS):
        wait_for(home / f"told_{rank}", "127.0.0.1", job)
    job.send_signal(number)
    out, said = job.communicate(timeout=30)
    assert job.returncode == 75, said
    assert "queued again" in out
    assert len((home / "requeued").read_text().split()) == 1


def test_another_failure_does_not(home: Path) -> None:
    job = submitted(home, "program", code="3")
    job.communicate(timeout=30)
    assert job.returncode == 3
    assert not (home / "requeued").exists()


@pytest.mark.faults
def test_a_preempted_run_goes_on_when_it_is_queued_again(home: Path) -> None:
    text = " ".join(f"word{number}" for number in range(400))
    (home / "text.jsonl").write_text("".join(f'{{"text": "{number} {text}"}}\n' for number in range(20)))
    words = [
        *("data=files", "data.paths=text.jsonl", "data/recipe=none", "executor=serial", "tokenizer=byte", "threads=1"),
        *("model=gpt_nano", "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=16"),
        *("trainer.batch_tokens=128", "trainer.max_steps=400", "parallel=fsdp", "name=one", "sample.max_tokens=0"),
    ]
    job = submitted(home, "real", *words)
    wait_for(home / "runs" / "one" / "metrics.jsonl", '"step": 20,', job)
    job.send_signal(signal.SIGUSR1)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 75, said
    stopped = int((home / "runs" / "one" / "latest").read_text().strip().removeprefix("step_"))
    assert 20 <= stopped < 400
    job = submitted(home, "real", *words)
    _, said = job.communicate(timeout=90)
    assert job.returncode == 0, said
    assert f"from step {stopped}" in said
    assert len((home / "requeued").read_text().split()) == 1
