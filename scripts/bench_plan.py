"""The memory that `pretrain plan` tells against what real training steps hold on this CPU (Linux).

    python scripts/bench_plan.py [--only gpt_nano ...] [--steps 3] [--threads 2]

Each case is planned by the command, then trained for some steps on random tokens in a process of its own. What is
measured is that process's private memory at its peak: the kernel's high-water mark (VmHWM) less the pages of files at
the end. `tensors` leaves out, on both sides, what the process held before it made the model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain import cli, config
from pretrain.data.batches import Batches
from pretrain.data.manifests import checksum
from pretrain.data.shards import TokenShard, TokenStream
from pretrain.stopping import Stop
from pretrain.training.allocator import keep_freed_memory
from pretrain.training.checkpoints import Checkpoints
from pretrain.training.schedules import Constant
from pretrain.training.updates import GradientUpdate

# The model, the vocabulary and the rows at once; 4,096 ids are what the default tokenizer has.
CASES = [
    ("gpt_nano", 4096, 16),
    ("gpt_nano", 4096, 32),
    ("gpt_micro", 4096, 8),
    ("gpt2_small", 50_257, 1),
    ("gpt2_small", 50_257, 2),
    ("gpt2_medium", 50_257, 1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="models")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        name, vocab_size, rows = options.train
        print(json.dumps(trained(name, int(vocab_size), int(rows), options.steps, options.threads)))
        return
    print("bytes in MB    rows   plan  measured  ratio   tensors: plan  measured  ratio")
    for name, vocab_size, rows in CASES:
        if options.only and name not in options.only:
            continue
        plan = planned(name, vocab_size, rows, options.threads)
        ran = json.loads(_own_process("--train", name, str(vocab_size), str(rows), *_passed_on(options)))
        context = plan["memory"]["moments"]["loss"]["context"]
        told, held = plan["memory"]["peak"], ran["peak"]
        tensors, made = told - context, held - ran["before"]
        print(
            f"{name:<12} {rows:>6} {told / 1e6:>6,.0f} {held / 1e6:>9,.0f} {told / held:>6.2f} "
            f"{tensors / 1e6:>15,.0f} {made / 1e6:>9,.0f} {tensors / made:>6.2f}",
            flush=True,
        )


def planned(name: str, vocab_size: int, rows: int, threads: int) -> dict[str, Any]:
    """What the command tells of a model."""
    words = [*_words(name, vocab_size), f"trainer.micro_batch={rows}", f"threads={threads}", "precision=fp32"]
    length = cli._composed("train", words[:2])["model"]["context_length"]
    words += [f"trainer.batch_tokens={rows * length}", "format=json"]
    command = [sys.executable, "-m", "pretrain", "plan", *words]
    document: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return document


def trained(name: str, vocab_size: int, rows: int, steps: int, threads: int) -> dict[str, int]:
    """Bytes of private memory of this process before a model is made, and at the peak of some steps."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    settings = cli._composed("train", _words(name, vocab_size))
    with tempfile.TemporaryDirectory() as folder:
        batches = _batches(Path(folder), vocab_size, settings["model"]["context_length"], rows, steps)
        before = _status()["RssAnon"]
        model = config.build(config.Part(settings["model"]), vocab_size=vocab_size)
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        optimizer = config.build(config.Part(settings["optimizer"]), parameters=parameters)
        update = GradientUpdate(
            model, batches, optimizer, Constant(warmup_steps=0), torch.float32, rows, 0, Stop(), max_grad_norm=1.0
        )
        checkpoints = Checkpoints(Path(folder))  # which has room for a copy of all tensors
        checkpoints.prepare(dict(model.state_dict()), update.state())
        for step in range(steps):
            update.step(step, step, 0.0)
        status = _status()
        checkpoints.wait()
    return {"before": before, "peak": status["VmHWM"] - status["RssFile"] - status["RssShmem"]}


def _words(name: str, vocab_size: int) -> list[str]:
    return [f"model={name}", f"model.vocab_size={vocab_size}"]


def _passed_on(options: argparse.Namespace) -> list[str]:
    return ["--steps", str(options.steps), "--threads", str(options.threads)]


def _own_process(*words: str) -> str:
    return subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True).stdout


def _batches(folder: Path, vocab_size: int, length: int, rows: int, steps: int) -> Batches:
    """Batches of random tokens."""
    path = folder / "train-00000.bin"
    tokens = np.random.default_rng(0).integers(0, vocab_size, rows * length * steps + 1)
    tokens.astype("<u2").tofile(path)
    shard = asdict(TokenShard(path.name, checksum(path), len(tokens), 1, 1, 1, 1, "random"))
    return Batches(TokenStream(folder, "train", {"dtype": "uint16", "splits": {"train": [shard]}}), length, rows, 0)


def _status() -> dict[str, int]:
    """What the kernel tells of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines if line.startswith(("VmHWM", "Rss")))
    return {name: 1024 * int(rest.split()[0]) for name, rest in pairs}


if __name__ == "__main__":
    main()
