"""What each process of test_parallel.py runs: some steps of a tiny model, or the command line with a fault in it.

python parallel_driver.py steps OUT KIND ...         losses, norms and weights of each kind, as JSON by rank 0 in OUT
python parallel_driver.py command FAULT RANK WORDS   `pretrain WORDS`, with a fault on one rank in step 6
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain import cli
from pretrain.config import build
from pretrain.data.batches import Batches
from pretrain.data.shards import TokenStream
from pretrain.models.gpt import GPT
from pretrain.models.language_model import IGNORED, LanguageModel
from pretrain.models.llama import Llama
from pretrain.stopping import Stop
from pretrain.training.optimizers import AdamW
from pretrain.training.parallel import Parallel
from pretrain.training.schedules import Constant
from pretrain.training.updates import GradientUpdate, StepResult

V, T, ROWS, STEPS = 17, 8, 8, 20
FAULTY_STEP = 6

KINDS: dict[str, dict[str, Any]] = {
    "none": {"_target_": "pretrain.training.parallel.single.Single"},
    "ddp": {"_target_": "pretrain.training.parallel.replicas.DDP", "timeout_seconds": 60.0},
    "fsdp": {"_target_": "pretrain.training.parallel.shards.FSDP", "timeout_seconds": 60.0, "shards": None},
    "hsdp": {"_target_": "pretrain.training.parallel.shards.FSDP", "timeout_seconds": 60.0, "shards": 2},
    "tensor": {"_target_": "pretrain.training.parallel.tensor.TensorParallel", "timeout_seconds": 60.0, "size": 2},
}
KINDS |= {f"llama-{kind}": KINDS[kind] for kind in ("none", "tensor")}
KINDS |= {f"fp16-{kind}": KINDS[kind] for kind in ("none", "ddp", "fsdp")}


class Uneven(Batches):
    """Rows of random tokens, of which a share between nothing and all is to be predicted."""

    def pairs(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        tokens, targets = self._whole(number)
        mine = self._rows(number, self._rank, self._ranks)
        here = slice(mine.start - self.first_row(number), mine.stop - self.first_row(number))
        return tokens[here], targets[here]

    def targets(self, number: int) -> int:
        return int((self._whole(number)[1] != IGNORED).sum())

    def _whole(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        random = np.random.default_rng(number)
        tokens = random.integers(0, V, (self.rows, T))
        targets = (tokens * 3 + 1) % V
        targets[random.random(targets.shape) < np.linspace(0, 1, self.rows)[:, None]] = IGNORED
        return tokens, targets


def stream(folder: Path) -> TokenStream:
    tokens = np.zeros(400, "<u2")
    tokens.tofile(folder / "train-00000.bin")
    shard = {"file": "train-00000.bin", "checksum": "", "tokens": 400, "documents": 1, "source": "test"}
    return TokenStream(
        folder, "train", {"dtype": "uint16", "splits": {"train": [shard | {"bytes": 1, "characters": 1, "words": 1}]}}
    )


def model_of(kind: str) -> LanguageModel:
    torch.manual_seed(0)
    if kind.startswith("llama"):
        more: dict[str, Any] = {"n_kv_head": 2, "n_hidden": 24, "rotary_base": 1e4, "tied": False, "n_expert": 0}
        return Llama(V, context_length=T, n_layer=2, n_head=4, n_embd=16, dropout=0.0, n_active=1, **more)
    return GPT(V, context_length=T, n_layer=2, n_head=4, n_embd=16, dropout=0.0)


def update_of(kind: str, parallel: Parallel, folder: Path, micro_batch: int = 2) -> GradientUpdate:
    model, dtype = model_of(kind), torch.float16 if kind.startswith("fp16") else torch.float32
    parallel.prepare(model, dtype)
    optimizer = AdamW(parallel.parameters(model), lr=3e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    batches = Uneven(stream(folder), T, ROWS, seed=0, rank=parallel.data_rank, ranks=parallel.data_ranks)
    schedule = Constant(warmup_steps=0)
    parts = (model, batches, optimizer, schedule, dtype, micro_batch, 0, Stop(), parallel)
    update = GradientUpdate(*parts, max_grad_norm=1.0, log_noise=True)
    if dtype == torch.float16:
        update.loss_scale.scale *= 2.0**8  # so that the first gradients overflow
    return update


def steps(kind: str, parallel: Parallel, folder: Path) -> dict[str, list[float]]:
    """Loss, gradient norm, update ratio and, in fp16, scale of each step; the noise's averages at the end."""
    update = update_of(kind, parallel, folder)
    results = [update.step(number, number, 0.0) for number in range(STEPS)]
    assert update.noise is not None
    return {
        "loss": [result.loss for result in results],
        "norm": [float(result.grad_norm or 0) for result in results],
        "ratio": [float(result.measures.get("update_ratio") or 0) for result in results],
        "scale": [result.loss_scale or 0.0 for result in results],
        "noise": [update.noise.square, update.noise.variance],
    }


def write_steps(out: Path, kinds: list[str]) -> None:
    for kind in kinds:
        parallel: Parallel = build(KINDS[kind])  # type: ignore[arg-type]  # a Part
        with parallel.joined(torch.device("cpu"), Stop()):
            folder = out.parent / f"rank{parallel.rank}"
            folder.mkdir(exist_ok=True)
            found = steps(kind, parallel, folder)
            (out.parent / f"{kind}-{parallel.rank}.json").write_text(json.dumps(found))


def inject(fault: str, rank: int) -> None:
    """Have one rank fail in FAULTY_STEP."""
    step, losses = GradientUpdate.step, GradientUpdate._losses

    def faulty_step(self: GradientUpdate, number: int, batch: int, progress: float) -> StepResult:
        if self.parallel.rank == rank and number == FAULTY_STEP:
            if fault in ("SIGKILL", "SIGSTOP", "SIGTERM"):
                os.kill(os.getpid(), getattr(signal, fault))
            elif fault == "hang":
                time.sleep(1000)
            elif fault == "raise":
                raise ValueError("poisoned")
        self.faulty = fault == "nan" and self.parallel.rank == rank and number == FAULTY_STEP  # type: ignore[attr-defined]
        return step(self, number, batch, progress)

    def faulty_losses(self: GradientUpdate, *arguments: Any) -> Any:
        nats, state = losses(self, *arguments)
        return (nats * float("nan") if self.faulty else nats), state  # type: ignore[attr-defined]

    GradientUpdate.step, GradientUpdate._losses = faulty_step, faulty_losses  # type: ignore[method-assign]


def main() -> int:
    torch.set_num_threads(1)
    if sys.argv[1] == "steps":
        write_steps(Path(sys.argv[2]), sys.argv[3:])
        return 0
    inject(sys.argv[2], int(sys.argv[3]))
    return cli.main(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
