"""What safety costs: the guards' and the log's share of a step, and the memory of a resume against that of a fresh run.

    python scripts/bench_guards.py [--steps 60] [--threads 2] [--only gpt_nano]

Guards are the norm, the reading of loss and norm, the test whether they are finite, the spike's score, and clipping.
They are timed on the gradients of real steps, one after each step, for a difference of steps would drown a hundredth in
noise. Logging is a row of metrics.jsonl, and the panel, which is drawn twice a second. Shares are of medians. Memory is
that of `pretrain train` in a process of its own (the highest summed PSS), to step 4, and from there to step 8.
"""

import argparse
import io
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import Peak
from rich.console import Console
from torch import Tensor

from pretrain import cli, config
from pretrain.data.batches import Batches
from pretrain.data.manifests import checksum
from pretrain.data.shards import TokenShard, TokenStream
from pretrain.stopping import Stop
from pretrain.tracking.jsonl import Metrics
from pretrain.tracking.training_panel import REFRESHES, TrainingPanel
from pretrain.training.environment import memory_in_use
from pretrain.training.parallel import Single
from pretrain.training.schedules import Constant
from pretrain.training.stability import SpikeGuard
from pretrain.training.updates import GradientUpdate

V = 257  # of bytes
CASES = {
    "gpt_nano": ["model=gpt_nano"],
    "25 M": ["model=gpt", "model.n_layer=8", "model.n_head=8", "model.n_embd=512", "model.context_length=256"],
}


class Kept(Single):
    """Keeps the last gradients, so that the guards can be timed on them."""

    last: list[Tensor]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        self.last = gradients
        return super().norm(gradients)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=CASES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("model        step      guards    share    logging  share    fresh     resumed   ratio")
    for name, words in CASES.items():
        if options.only in (None, name):
            step, guards, logging = shares(words, options.steps)
            fresh, resumed = memory(words, options.threads)
            print(
                f"{name:<10}{1e3 * step:>8.1f} ms{1e6 * guards:>8.0f} µs{guards / step:>8.2%}{1e6 * logging:>8.0f} µs"
                f"{logging / step:>8.2%}{fresh / 1e6:>8.0f} MB{resumed / 1e6:>8.0f} MB{resumed / fresh:>8.2f}",
                flush=True,
            )


def shares(words: list[str], steps: int) -> tuple[float, float, float]:
    """Seconds of a step, of its guards, and of its logging."""
    settings = cli._composed("train", words)
    length = settings["model"]["context_length"]
    rows = settings["trainer"]["batch_tokens"] // length
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = config.build(config.Part(settings["model"]), vocab_size=V)
        parallel = Kept()
        optimizer = config.build(config.Part(settings["optimizer"]), parameters=parallel.parameters(model))
        batches = random_batches(Path(folder), length, rows)
        parts = (model, batches, optimizer, Constant(warmup_steps=0), torch.float32, rows, 0, Stop(), parallel)
        update = GradientUpdate(*parts, max_grad_norm=1.0, spike_action="log")
        spikes = SpikeGuard(action="skip", threshold=8.0, window=128)
        metrics, panel = Metrics(Path(folder) / "metrics.jsonl", 0), TrainingPanel(0.0, {"uniform": math.log(V)})
        screen = Console(file=io.StringIO(), force_terminal=True, width=86)
        row: dict[str, Any] = {}

        def guard() -> None:
            loss, norm = torch.stack([torch.tensor(1.0), Single.norm(parallel, parallel.last)]).tolist()
            assert math.isfinite(loss)
            assert math.isfinite(norm)
            assert not spikes.refuses(spikes.score(loss, norm))
            spikes.take(loss, norm)
            torch._foreach_mul_(parallel.last, torch.tensor(1.0))

        def log() -> None:
            full = {**row, "memory_bytes": memory_in_use()}
            metrics.log(full)
            panel.take(0.5, full)

        times: list[list[float]] = [[], [], [], []]
        for number in range(steps):
            started = time.perf_counter()
            result = update.step(number, number, 0.0)
            times[0].append(time.perf_counter() - started)
            row |= {"step": number, "tokens": 0, "seconds": 0.0, "train/loss": result.loss, "lr": result.lr}
            row |= {"train/perplexity": 1.0, "grad_norm": result.grad_norm, "tokens_per_second": 1.0}
            row |= {"skipped_steps": 0, "spike": result.spike}
            for place, work in enumerate((guard, log, lambda: screen.print(panel)), 1):
                times[place].append(seconds(work))
        metrics.close()
    step_, guards, logged, drawn = map(statistics.median, times)
    return step_, guards, logged + REFRESHES * drawn * step_


def memory(words: list[str], threads: int) -> tuple[int, int]:
    """Bytes at the peak of a fresh run, and of its resume for as many steps."""
    with tempfile.TemporaryDirectory() as folder:
        text = np.random.default_rng(0).choice(list("etaoin shrdlu\n"), 400_000)
        (Path(folder) / "text.txt").write_text("".join(text))
        common = [
            *words,
            "data=files",
            "data.paths=[text.txt]",
            "data/recipe=none",
            "tokenizer=byte",
            "executor=serial",
        ]
        common += ["schedule=constant", "trainer.checkpoint_every=2", "trainer.eval_tokens=4k"]
        common += ["sample.max_tokens=0", "name=run", f"threads={threads}", "precision=fp32"]
        subprocess.run(
            [sys.executable, "-m", "pretrain", "data", *common[len(words) : len(words) + 5]],
            cwd=folder,
            check=True,
            capture_output=True,
        )

        def peak(steps: int) -> int:
            command = [sys.executable, "-m", "pretrain", "train", *common, f"trainer.max_steps={steps}"]
            with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                watched = Peak(process.pid)
                _, said = process.communicate()
            if process.returncode:
                raise SystemExit(said.decode())
            return watched.bytes

        return peak(4), peak(8)


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def random_batches(folder: Path, length: int, rows: int) -> Batches:
    path = folder / "train-00000.bin"
    tokens = np.random.default_rng(0).integers(0, V, rows * length * 10 + 1)
    tokens.astype("<u2").tofile(path)
    shard = asdict(TokenShard(path.name, checksum(path), len(tokens), 1, 1, 1, 1, "random"))
    return Batches(TokenStream(folder, "train", {"dtype": "uint16", "splits": {"train": [shard]}}), length, rows, 0)


if __name__ == "__main__":
    main()
