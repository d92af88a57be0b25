"""torch.compile: the same losses, a choice by timing that is made once, and a run that goes on where it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.data.batches import Batches
from pretrain.data.shards import TokenStream
from pretrain.errors import ConfigError
from pretrain.models.gpt import GPT
from pretrain.schema import refuse_compile
from pretrain.stopping import Stop
from pretrain.training.compiling import COMPILE_SECONDS, SHARE, TIMED, WARM, Compilation
from pretrain.training.optimizers import AdamW
from pretrain.training.schedules import Constant
from pretrain.training.updates import GradientUpdate

# Dynamo makes one to look at it.
pytestmark = pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated")
V, T = 17, 8
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stream(make_stream: Callable[..., TokenStream]) -> TokenStream:
    return make_stream([place % 5 for place in range(600)])


def update_of(stream: TokenStream, compilation: Compilation | None) -> GradientUpdate:
    torch.manual_seed(0)
    model = GPT(V, context_length=T, n_layer=1, n_head=2, n_embd=8, dropout=0.0)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    optimizer = AdamW(parameters, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    batches = Batches(stream, T, 4, seed=0)
    parts = (model, batches, optimizer, Constant(warmup_steps=0), torch.float32, 2, 0, Stop())
    return GradientUpdate(*parts, compilation=compilation, max_grad_norm=1.0)


def traced(graphs: list[Any]) -> Callable[..., Any]:
    """A backend that keeps what it is given, and runs it as it is."""

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    return backend


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch.compiler.reset()


def test_compiled_steps_have_the_losses_of_others_and_the_bits_of_a_resumed_run(stream: TokenStream) -> None:
    graphs, told = list[Any](), list[str]()
    plain = update_of(stream, None)
    whole, resumed = (update_of(stream, Compilation(True, told.append, backend=traced(graphs))) for _ in range(2))
    losses = [whole.step(number, number, 0.0).loss for number in range(2)]
    resumed.model.load_weights({name: weight.clone() for name, weight in whole.model.state_dict().items()})
    resumed.load_state({name: tensor.clone() for name, tensor in whole.state().items()})
    losses += [whole.step(number, number, 0.0).loss for number in range(2, 4)]
    for number in range(2, 4):
        resumed.step(number, number, 0.0)
    assert graphs
    assert len(told) == 2  # that each compiles
    assert losses == pytest.approx([plain.step(number, number, 0.0).loss for number in range(4)], abs=1e-6)
    assert list(whole.model.state_dict()) == list(plain.model.state_dict())  # no _orig_mod
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name])


def test_what_cannot_be_compiled_runs_without_and_says_why_once(stream: TokenStream) -> None:
    def broken(graph: Any, example: Any) -> Any:
        raise ValueError("no compiler on this machine")

    told: list[str] = []
    compilation = Compilation(True, told.append, backend=broken)
    update, plain = update_of(stream, compilation), update_of(stream, None)
    for number in range(3):
        assert update.step(number, number, 0.0).loss == plain.step(number, number, 0.0).loss
    assert compilation.choice is False
    assert len(told) == 2  # that it compiles, and that it failed
    assert "failed, the run goes on without" in told[1]
    assert "no compiler on this machine" in told[1]


def test_other_errors_are_not_taken_for_the_compilers() -> None:
    compilation = Compilation(True, pytest.fail)
    assert not compilation.failed(RuntimeError("out of memory"))
    assert compilation.on


def seconds_of(compilation: Compilation, each: list[float], steps: int) -> None:
    """Tell of steps that take so long, of a run of `steps`."""
    for number, seconds in enumerate(each):
        compilation.took(seconds, number / steps)


@pytest.mark.parametrize(("compiled", "choice"), [(0.5, True), (0.99, False)])
def test_it_stays_on_where_timed_steps_are_faster(compiled: float, choice: bool) -> None:
    told: list[str] = []
    compilation = Compilation(None, told.append)
    plain, steps = [9.0] * WARM + [1.0] * TIMED, int(COMPILE_SECONDS / SHARE) + 20
    seconds_of(compilation, plain, steps)
    assert (compilation.on, compilation.choice) == (True, None)
    for number, seconds in enumerate([60.0] * WARM + [compiled] * TIMED):
        assert compilation.choice is None
        compilation.took(seconds, (len(plain) + number) / steps)
    assert (compilation.on, compilation.choice) == (choice, choice)
    assert "1 s not; it " in told[-1]


def test_a_run_that_is_too_short_for_it_to_pay_is_not_compiled() -> None:
    compilation = Compilation(None, print)
    seconds_of(compilation, [9.0] * WARM + [1.0] * TIMED, int(COMPILE_SECONDS / SHARE) - 20)
    assert (compilation.on, compilation.choice) == (False, False)


def test_pieces_of_a_model_are_not_compiled() -> None:
    refuse_compile("pretrain.training.parallel.replicas.DDP", True)
    refuse_compile("pretrain.training.parallel.shards.FSDP", "auto")
    with pytest.raises(ConfigError, match="parallel=none and ddp"):
        refuse_compile("pretrain.training.parallel.shards.FSDP", True)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_compiled_run_stops_on_a_signal_while_it_compiles_and_goes_on(tmp_path: Path) -> None:
    """With PyTorch's own compiler, which needs a C++ compiler."""
    (tmp_path / "text.txt").write_text(" ".join(f"{number} squared is {number**2}." for number in range(400)), "utf-8")
    words = [
        *("train", "data=files", "data.paths=[text.txt]", "data/recipe=none", "executor=serial", "tokenizer=byte"),
        *("model=gpt_nano", "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=16"),
        *("trainer.batch_tokens=64", "trainer.max_steps=4", "threads=1", "sample.max_tokens=0", "precision=fp32"),
    ]

    def start(*more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pretrain", *words, *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    def losses(name: str) -> list[float]:
        lines = (tmp_path / "runs" / name / "metrics.jsonl").read_text("utf-8").splitlines()
        return [row["train/loss"] for row in map(json.loads, lines) if "train/loss" in row]

    stopped = start("trainer.compile=true", "name=compiled")
    assert stopped.stderr is not None
    assert any("the first step takes" in line for line in stopped.stderr)
    time.sleep(0.5)
    stopped.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in stopped.communicate(timeout=300)[1]
    assert stopped.returncode == 75
    resumed = start("trainer.compile=true", "name=compiled")
    said = resumed.communicate(timeout=300)[1]
    assert (resumed.returncode, "failed" in said) == (0, False), said
    [newest] = sorted((tmp_path / "runs" / "compiled").glob("checkpoints/step_*"))[-1:]
    assert json.loads((newest / "state.json").read_text())["compiled"] is True
    plain = start("name=plain")
    said = plain.communicate(timeout=300)[1]
    assert plain.returncode == 0, said
    assert losses("compiled") == pytest.approx(losses("plain"), abs=1e-5)
