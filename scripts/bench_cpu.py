"""Time to loss on a CPU, against nanoGPT's settings for one: whole processes, cold, in turns, as ratios.

    python scripts/bench_cpu.py tinyshakespeare.txt [--seeds 3] [--tiny]

nanoGPT's side is scripts/nanogpt.py, as it is and with its best settings. All losses are measured by the same
evaluation: every character of the last tenth once, with at least 32 before it. Takes a quarter of an hour on two cores.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nanogpt
import torch
import torch.nn.functional as F
from bench_start import first_step, timed
from one_step import Shape, update_of
from one_step import timed as timed_steps
from torch import Tensor

from pretrain.data.shards import TokenStream, read_manifest
from pretrain.evaluation.loss import Validation
from pretrain.models.language_model import IGNORED, LanguageModel
from pretrain.stopping import Stop
from pretrain.tokenizers.loading import load

HERE = Path(__file__).parent
RECIPE = ["experiment=tinyshakespeare_cpu"]
LONG = ["experiment=tinyshakespeare_cpu_long"]  # as many tokens as nanoGPT reads
SAME_SHAPE = ["model=gpt_nano", "model.n_layer=4", "model.n_head=4", "model.n_embd=128", "model.context_length=64"]
TARGET = 1.898  # nats a character
ROW, STRIDE = 64, 32


@dataclass(frozen=True)
class Run:
    """One process: its seconds, all in all, and the full validation loss of what it left."""

    seconds: float
    loss: float


class Stranger(LanguageModel):
    """A model of nanoGPT's characters that reads and scores the ids of our tokenizer.

    What it has no character for, the end of text, is a line end to it.
    """

    def __init__(self, path: Path, tokenizer: Path) -> None:
        super().__init__()
        saved = torch.load(path, weights_only=True)
        self.inner = nanogpt.GPT(len(saved["characters"]), nanogpt.Recipe(**saved["recipe"]))
        self.inner.load_state_dict(saved["model"])
        ours = load(tokenizer)
        self.vocab_size, self.context_length = ours.vocab_size, ROW
        theirs = torch.full((ours.vocab_size,), saved["characters"].index("\n"))
        for place, character in enumerate(saved["characters"]):
            [id_of] = ours.encode(character)
            theirs[id_of] = place
        self.register_buffer("theirs", theirs)

    def token_losses(self, tokens: Tensor, targets: Tensor, state: Any = None) -> tuple[Tensor, None]:
        theirs: Any = self.theirs
        wanted = torch.where(targets == IGNORED, IGNORED, theirs[targets.clamp(min=0)])
        logits = self.inner(theirs[tokens])
        nats = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none")
        return nats.view_as(targets), None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", help="tinyshakespeare, the char-rnn file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, to see that it runs")
    options = parser.parse_args()
    if options.text is None:  # as by `make bench`
        print("not measured: name tinyshakespeare.txt, the char-rnn file")
        return
    text, seeds = options.text.absolute(), range(1, (1 if options.tiny else options.seeds) + 1)
    few = ["trainer.max_steps=3"] if options.tiny else []
    steps = 3 if options.tiny else nanogpt.Recipe.steps
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        runs: dict[str, list[Run]] = {"ours": [], "nanoGPT": [], "nanoGPT at its best": [], "ours, 1.54 M tokens": []}
        for seed in seeds:
            runs["ours"].append(ours(home, text, seed, [*RECIPE, *few]))
            runs["nanoGPT"].append(theirs(home, text, seed, steps, []))
            runs["nanoGPT at its best"].append(theirs(home, text, seed, steps, ["--best"]))
            runs["ours, 1.54 M tokens"].append(ours(home, text, seed, [*LONG, *few]))
        show_runs(runs)
        show_speed(rounds=1 if options.tiny else 9)
        show_start(home, text, 1 if options.tiny else 5)


def ours(home: Path, text: Path, seed: int, words: list[str]) -> Run:
    """One training in a folder without data."""
    for name in ("data", "runs"):
        shutil.rmtree(home / name, ignore_errors=True)
    command = [sys.executable, "-m", "pretrain", "train", f"data.paths=[{text}]", f"seed={seed}", "format=json", *words]
    started = time.perf_counter()
    out = subprocess.run(command, cwd=home, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    seconds = time.perf_counter() - started
    result = json.loads(out)
    report("ours", seed, seconds, result["validation"]["loss"], result["tokens"])
    return Run(seconds, result["validation"]["loss"])


def theirs(home: Path, text: Path, seed: int, steps: int, flags: list[str]) -> Run:
    """One training of the stand-in, measured behind it by our evaluation on the tokens of the last run of ours."""
    out = home / "nanogpt.pt"
    words = [HERE / "nanogpt.py", text, out, "--seed", seed, "--steps", steps, *flags]
    command = [sys.executable, *map(str, words)]
    started = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    run = next((home / "runs").iterdir())
    folder = Path(json.loads((run / "data_manifest.json").read_text())["folder"])
    stream = TokenStream(folder, "validation", read_manifest(folder))
    validation = Validation(stream, ROW, STRIDE, len(stream), Stop())
    loss = validation.loss(Stranger(out, run / "tokenizer.json"), whole=True).mean
    recipe = nanogpt.Recipe()
    report("nanoGPT" + " best" * bool(flags), seed, seconds, loss, steps * recipe.rows * recipe.context)
    return Run(seconds, loss)


def report(side: str, seed: int, seconds: float, loss: float, tokens: int) -> None:
    print(f"seed {seed}: {side:<13}{seconds:7.2f} s  validation loss {loss:.4f} after {tokens:,} tokens", flush=True)


def show_runs(runs: dict[str, list[Run]]) -> None:
    fast, long = runs["ours"], runs["ours, 1.54 M tokens"]
    print(f"\nloss {TARGET}: reached by ours in {sum(run.loss <= TARGET for run in fast)} of {len(fast)} seeds")
    for name in ("nanoGPT", "nanoGPT at its best"):
        ratio = statistics.median(other.seconds / own.seconds for other, own in zip(runs[name], fast, strict=True))
        print(f"time of {name} by ours: {ratio:.1f} (wanted 10, stretch 20), at {means(runs[name])}")
    print(f"ours: {means(fast)}\nours, as many tokens as nanoGPT: {means(long)} (wanted 1.60, stretch 1.52)")


def means(runs: list[Run]) -> str:
    losses = [run.loss for run in runs]
    seconds = statistics.median(run.seconds for run in runs)
    return f"{seconds:.1f} s, loss {statistics.mean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})"


def show_speed(rounds: int) -> None:
    """Tokens a second of training steps of the same shape: 12 rows of 64, 65 ids."""
    cpu, recipe = torch.device("cpu"), nanogpt.Recipe()
    shape = Shape(recipe.rows, recipe.rows, recipe.context, 65)
    sides = {f"ours, {name}": stepping(update_of(SAME_SHAPE, shape, name, cpu)) for name in ("bf16", "fp32")}
    sides["nanoGPT"] = plain(nanogpt.GPT(shape.vocab_size, recipe), shape, best=False)
    sides["nanoGPT at its best"] = plain(nanogpt.GPT(shape.vocab_size, recipe, flash=False), shape, best=True)
    sides["transformers"] = plain(transformers_of(recipe, shape.vocab_size), shape, best=False)
    seconds = timed_steps(sides, rounds, 10, lambda: None)
    print("\ntokens/s of training, the same shape and batch:")
    for name, taken in seconds.items():
        print(f"{name:<22}{shape.tokens / taken:10,.0f}, time by ours in bf16 {taken / seconds['ours, bf16']:.2f}")


def stepping(update: Any) -> Callable[[], object]:
    numbers = iter(range(10**9))
    return lambda: update.step(number := next(numbers), number, 0.1)


def plain(model: torch.nn.Module, shape: Shape, best: bool) -> Callable[[], object]:
    """nanoGPT's step on random rows; its best settings hold while it runs."""
    optimizer = nanogpt.optimizer_of(model, 1e-3, nanogpt.Recipe.beta2)
    rows = torch.randint(shape.vocab_size, (shape.rows, shape.sequence_length + 1))

    def once() -> float:
        torch.set_float32_matmul_precision("medium" if best else "highest")
        loss = nanogpt.step(model, optimizer, [(rows[:, :-1], rows[:, 1:].contiguous())], best)
        torch.set_float32_matmul_precision("highest")
        return loss

    return once


def transformers_of(recipe: nanogpt.Recipe, vocab_size: int) -> torch.nn.Module:
    """GPT2LMHeadModel of the same shape, from tokens to logits."""
    import transformers

    shape: dict[str, Any] = {
        "n_layer": recipe.n_layer,
        "n_head": recipe.n_head,
        "n_embd": recipe.n_embd,
        "n_positions": recipe.context,
    }
    quiet: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    inner = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=vocab_size, **shape, **quiet))

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, tokens: Tensor) -> Tensor:
            logits: Tensor = self.inner(tokens, use_cache=False).logits
            return logits

    return Logits()


def show_start(home: Path, text: Path, rounds: int) -> None:
    """Seconds until the first step, with the data built; beside importing torch."""
    words = [*RECIPE, f"data.paths=[{text}]"]
    torch_alone = statistics.median(timed([sys.executable, "-c", "import torch"], home) for _ in range(rounds))
    start = statistics.median(first_step(home, *words) for _ in range(rounds))
    print(
        f"\nstart to first step {start:.2f} s (at most 2.5), {start - torch_alone:.2f} s beyond importing torch (1.0)"
    )


if __name__ == "__main__":
    main()
