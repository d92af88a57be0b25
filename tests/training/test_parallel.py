"""Training on several processes is training on one: the same losses, one end for all, whoever fails is named."""

import contextlib
import importlib.util
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain import cli
from pretrain.errors import ConfigError, RankError
from pretrain.stopping import Stop
from pretrain.training.parallel import Single
from pretrain.training.parallel.replicas import DDP

DRIVER = Path(__file__).with_name("parallel_driver.py")
ROOT = DRIVER.parents[2]

spec = importlib.util.spec_from_file_location("parallel_driver", DRIVER)
assert spec is not None
assert spec.loader is not None
driver = importlib.util.module_from_spec(spec)
spec.loader.exec_module(driver)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the ranks have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(ranks: int, *words: str, cwd: Path) -> list[subprocess.Popen[str]]:
    """Start the driver in `ranks` processes, as torchrun would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(DRIVER), *words],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def finish(processes: list[subprocess.Popen[str]], seconds: float = 100) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, stdout and stderr of each rank; none is left behind."""
    end = time.monotonic() + seconds
    try:
        spoken = [process.communicate(timeout=max(0.1, end - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], [out for out, _ in spoken], [err for _, err in spoken]


def largest_difference(one: list[float], other: list[float]) -> float:
    assert len(one) == len(other)
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("ranks", "kinds"),
    [
        pytest.param(2, ["ddp", "fsdp", "tensor", "llama-tensor"], id="two"),
        pytest.param(4, ["ddp", "fsdp", "hsdp", "tensor", "llama-tensor"], id="four", marks=[pytest.mark.faults]),
    ],
)
def test_many_processes_give_the_losses_of_one(ranks: int, kinds: list[str], tmp_path: Path) -> None:
    codes, _, said = finish(start(ranks, "steps", str(tmp_path / "out"), *kinds, cwd=tmp_path))
    assert codes == [0] * ranks, said
    for kind in kinds:
        expected = driver.steps(kind.replace(kind.rpartition("-")[2], "none"), Single(), tmp_path)
        assert expected["loss"][-1] < expected["loss"][0] - 0.1
        found = [json.loads((tmp_path / f"{kind}-{rank}.json").read_text()) for rank in range(ranks)]
        assert all(result == found[0] for result in found), "each rank must see the same numbers"
        assert largest_difference(found[0]["loss"], expected["loss"]) < 1e-5
        assert largest_difference(found[0]["norm"], expected["norm"]) < 1e-5
        assert largest_difference(found[0]["ratio"], expected["ratio"]) < 1e-5
        if not kind.endswith("sdp"):  # whose micro-batches are of the rows of all ranks
            assert found[0]["noise"] == pytest.approx(expected["noise"], rel=1e-3)
        # The first step's gradient is that of the big batch, with uneven numbers of targets a rank and a micro-batch.
        assert abs(found[0]["norm"][0] - expected["norm"][0]) < 1e-6


@pytest.mark.faults
def test_all_ranks_scale_the_loss_alike(tmp_path: Path) -> None:
    kinds = ["fp16-ddp", "fp16-fsdp"]
    codes, _, said = finish(start(2, "steps", str(tmp_path / "out"), *kinds, cwd=tmp_path))
    assert codes == [0, 0], said
    expected = driver.steps("fp16-none", Single(), tmp_path)
    assert expected["scale"][0] > expected["scale"][-1]  # some were skipped
    assert expected["loss"][-1] < expected["loss"][0] - 0.1
    for kind in kinds:
        found = [(tmp_path / f"{kind}-{rank}.json").read_text() for rank in range(2)]
        assert len(set(found)) == 1, "each rank must see the same numbers"
        numbers = json.loads(found[0])
        assert numbers["scale"] == expected["scale"]
        assert largest_difference(numbers["loss"], expected["loss"]) < 1e-2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    words = "the cat sat on a mat while nobody saw it go home".split()
    numbers = random.Random(0)
    for document in range(40):
        (folder / f"{document}.txt").write_text(f"{document} {' '.join(numbers.choices(words, k=60))}.\n", "utf-8")
    return folder


def words(corpus: Path, *more: str) -> list[str]:
    return [
        *("train", "data=files", f"data.paths={corpus}", f"data_dir={corpus.parent / 'built'}", "executor=serial"),
        *("tokenizer.vocab_size=300", "threads=1", "sample.max_tokens=8", "trainer.max_steps=12", "format=json"),
        *("trainer.eval_every=5", "trainer.eval_tokens=64", "trainer.checkpoint_every=4", "trainer.batch_tokens=128"),
        *("trainer.sequence_length=16", "model=gpt_nano", "model.n_layer=2", "model.n_embd=16", "model.n_head=2"),
        *("model.context_length=16", "precision=fp32", "name=one", *more),
    ]


def command(ranks: int, fault: str, corpus: Path, home: Path, *more: str) -> tuple[list[int], list[str], list[str]]:
    """`pretrain train`, with a fault on the last rank."""
    return finish(start(ranks, "command", fault, str(ranks - 1), *words(corpus, *more), cwd=home))


def alone(corpus: Path, home: Path, *more: str) -> dict[str, Any]:
    """The result of the command in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out = io.StringIO()
    with contextlib.chdir(home), contextlib.redirect_stdout(out):
        code = cli.main(words(corpus, *more))
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert code == 0
    result: dict[str, Any] = json.loads(out.getvalue())
    return result


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of a run in one process."""
    home = tmp_path_factory.mktemp("undisturbed")
    alone(corpus, home)
    return losses(home / "runs" / "one")


WAYS = [
    pytest.param(2, ["parallel=fsdp"], id="fsdp"),
    pytest.param(2, ["parallel=ddp"], id="ddp", marks=[pytest.mark.faults]),
    pytest.param(4, ["parallel=hsdp", "parallel.shards=2"], id="hsdp", marks=[pytest.mark.faults]),
    pytest.param(2, ["parallel=tensor"], id="tensor", marks=[pytest.mark.faults]),
]


@pytest.mark.parametrize(("ranks", "how"), WAYS)
def test_a_signal_on_one_rank_stops_all_at_the_same_step_and_one_process_goes_on(
    ranks: int, how: list[str], corpus: Path, undisturbed: dict[int, float], tmp_path: Path
) -> None:
    codes, out, said = command(ranks, "SIGTERM", corpus, tmp_path, *how)
    assert codes == [75] * ranks, said
    assert out == [""] * ranks
    run = tmp_path / "runs" / "one"
    assert (run / "latest").read_text() == "step_00000006\n"
    assert alone(corpus, tmp_path)["steps"] == 12
    mixed = losses(run)
    assert mixed.keys() == undisturbed.keys() == set(range(1, 13))
    assert all(abs(mixed[step] - undisturbed[step]) < 1e-5 for step in undisturbed)


FAULTS = [
    pytest.param("SIGKILL", "ddp", id="dies"),
    pytest.param("SIGSTOP", "fsdp", id="is stopped"),
    pytest.param("raise", "ddp", id="raises"),
    pytest.param("hang", "ddp", id="hangs", marks=[pytest.mark.faults]),
    pytest.param("hang", "tensor", id="hangs, tensor", marks=[pytest.mark.faults]),
    pytest.param("SIGKILL", "tensor", id="dies, tensor", marks=[pytest.mark.faults]),
    pytest.param("SIGKILL", "fsdp", id="dies, fsdp", marks=[pytest.mark.faults]),
    pytest.param("raise", "fsdp", id="raises, fsdp", marks=[pytest.mark.faults]),
]


@pytest.mark.parametrize(("fault", "way"), FAULTS)
def test_a_rank_that_fails_ends_the_others_and_is_named(fault: str, way: str, corpus: Path, tmp_path: Path) -> None:
    timeout = 5
    more = [f"parallel={way}", f"parallel.timeout_seconds={timeout}"]
    processes = start(2, "command", fault, "1", *words(corpus, *more), cwd=tmp_path)
    metrics, end = tmp_path / "runs" / "one" / "metrics.jsonl", time.monotonic() + 90
    while not (metrics.is_file() and '"step": 6' in metrics.read_text("utf-8")):
        assert time.monotonic() < end, "it never came to the fault"
        time.sleep(0.02)
    before = time.monotonic()
    codes, _, said = finish(processes)
    assert time.monotonic() - before < 10 + (timeout if fault in ("SIGSTOP", "hang") else 0)
    assert codes == [1, 1 if fault == "raise" else -signal.SIGKILL]
    last = said[0].splitlines()[-1]
    if fault == "raise":
        assert last == "error: rank 1 failed: ValueError: poisoned"
        assert said[1].splitlines()[-1].startswith("error: ValueError: poisoned")
    else:
        assert last.startswith(f"error: rank 1 (process {processes[1].pid} on ")


def test_nan_on_one_rank_skips_the_step_on_all(corpus: Path, tmp_path: Path) -> None:
    codes, out, said = command(2, "nan", corpus, tmp_path, "parallel=ddp", "trainer.activation_checkpointing=full")
    assert codes == [0, 0], said
    assert json.loads(out[0])["steps"] == 12
    rows = [json.loads(line) for line in (tmp_path / "runs/one/metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows if row.get("train/loss", 0) is None] == [driver.FAULTY_STEP + 1]
    assert rows[-2]["skipped_steps"] == 1
    assert torch.isfinite(torch.tensor(json.loads(out[0])["validation"]["loss"]))


@pytest.mark.faults
def test_a_run_goes_on_in_any_number_of_processes_of_any_kind(corpus: Path, tmp_path: Path) -> None:
    constant = ["schedule=constant", "trainer.max_steps=15"]
    alone(corpus, tmp_path, *constant, "name=undisturbed")
    stages = [
        (1, 3, []),
        (2, 6, ["parallel=fsdp"]),
        (4, 9, ["parallel=tensor", "parallel.size=2"]),
        (4, 12, ["parallel=hsdp", "parallel.shards=2"]),
        (1, 15, []),
    ]
    for ranks, last, how in stages:
        until = ["schedule=constant", f"trainer.max_steps={last}"]
        codes, _, said = command(ranks, "none", corpus, tmp_path, *how, *until)
        assert codes == [0] * ranks, said
    mixed, expected = losses(tmp_path / "runs" / "one"), losses(tmp_path / "runs" / "undisturbed")
    assert mixed.keys() == expected.keys() == set(range(1, 16))
    assert all(abs(mixed[step] - expected[step]) < 1e-5 for step in expected)
    ends = [json.loads((tmp_path / "runs" / name / "result.json").read_text()) for name in ("one", "undisturbed")]
    assert abs(ends[0]["validation"]["loss"] - ends[1]["validation"]["loss"]) < 1e-5
    assert ends[0]["parameters"] == ends[1]["parameters"]


@pytest.mark.faults
def test_torchrun_starts_the_same_command_and_passes_a_stop_on(corpus: Path, tmp_path: Path) -> None:
    more = ["parallel=fsdp", "schedule=constant", "trainer.checkpoint_every=1000"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]

    def launch(steps: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*torchrun, "-m", "pretrain", *words(corpus, *more, f"trainer.max_steps={steps}")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    launched, run = launch(100_000), tmp_path / "runs" / "one"
    end = time.monotonic() + 90
    while not (run / "metrics.jsonl").is_file() or len(losses(run)) < 10:
        assert time.monotonic() < end, "it never began"
        time.sleep(0.02)
    os.killpg(launched.pid, signal.SIGINT)  # Ctrl-C: it comes to the ranks, and once more from torchrun
    _, said = launched.communicate(timeout=60)
    assert said.count("error: stopped by SIGINT; the same command goes on from here") == 2
    stopped = int((run / "latest").read_text().strip().removeprefix("step_"))
    assert stopped >= 10
    launched = launch(stopped + 5)
    out, said = launched.communicate(timeout=90)
    assert launched.returncode == 0, said
    assert json.loads(out)["steps"] == stopped + 5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["model=bigram", "parallel=ddp"], "counts, which one process does"),
        (["model=gpt_nano", "optimizer=muon", "parallel=fsdp"], "Muon needs whole parameters, but FSDP gives"),
        (["model=mlp", "parallel=tensor"], "cuts gpt and llama without experts or alibi, not this MLP"),
        (["model=gpt", "model.positions=alibi", "parallel=tensor"], "not this GPT; try parallel=fsdp"),
        (["model=gpt_nano", "parallel=ddp"], "torchrun --nproc-per-node=2 -m pretrain train"),
        (["model=gpt_nano", "parallel.timeout_seconds=0", "parallel=ddp"], "timeout_seconds"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_one_line(
    more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert cli.main(["train", *more]) == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_several_processes_without_a_way_to_share_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="there are 2 processes, but parallel=none"),
        Single().joined(torch.device("cpu"), Stop()),
    ):
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_alone_says_so(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("pretrain.training.parallel.processes.COMING", 1.0)
    with (
        pytest.raises(RankError, match="not all 2 processes came within 1 s"),
        DDP(timeout_seconds=1.0).joined(torch.device("cpu"), Stop()),
    ):
        pass
