"""`model=auto` against a small grid of settings made by hand, at the same seconds of training.

python scripts/bench_auto.py [--seconds 60 ...] [--corpus shakespeare=input.txt:char ...] [--grid 128x1x0.01 ...]

A corpus is NAME=PATH, with :TOKENIZER behind it where that is not bpe; without any it is the default corpus. A point of
the grid is WIDTHxLAYERSxLR of `modern`. What measuring costs model=auto is in its seconds; data is built before.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DEFAULT = "default"
GRID = ["96x1x0.014", "160x2x0.007", "256x3x0.005"]
COMMON = ["sample.max_tokens=0", "sample.eval_tokens=0", "trainer.max_steps=null"]
# Of the grid; model=auto sets its own.
RARELY = ["trainer.eval_every=1000000", "trainer.checkpoint_every=1000000"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0], help="budgets")
    parser.add_argument("--corpus", nargs="+", default=[DEFAULT], help="NAME=PATH[:TOKENIZER]")
    parser.add_argument("--grid", nargs="+", default=GRID, help="WIDTHxLAYERSxLR")
    parser.add_argument("--set", nargs="+", default=[], help="more settings for all runs, such as threads=2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("corpus, seconds: loss by choice; the best of the grid; ratio (wanted: 1.03 at most); prediction off by")
        for corpus in options.corpus:
            name, words = _data(corpus)
            _run(folder, "data", words)
            for seconds in options.seconds:
                _compare(folder, name, [*words, *COMMON, *options.set], seconds, options.grid)


def _compare(folder: str, name: str, words: list[str], seconds: float, grid: list[str]) -> None:
    words = [*words, f"trainer.max_seconds={seconds}"]
    started = time.perf_counter()
    auto = _run(folder, "train", [*words, "model=auto"])
    wall = time.perf_counter() - started
    losses = {}
    for point in grid:
        width, layers, lr = point.split("x")
        shape = [f"model.n_embd={width}", f"model.n_layer={layers}", f"model.n_head={1 + (int(width) >= 128)}"]
        losses[point] = _run(folder, "train", [*words, "model=modern", *shape, f"optimizer.lr={lr}", *RARELY])
    figures = {point: result["validation"]["loss"] for point, result in losses.items()}
    best = min(figures, key=lambda point: figures[point])
    loss, choice = auto["validation"]["loss"], auto["choice"]
    off = choice["expected_loss"] - loss
    print(
        f"{name}, {seconds:g} s: {loss:.4f} ({wall:.0f} s with everything, {auto['tokens']:,} tokens, "
        f"{json.dumps(choice['model'])}); {figures[best]:.4f} ({best}); {loss / figures[best]:.3f}; {off:+.3f}"
    )
    print("    grid: " + ", ".join(f"{point} {figure:.4f}" for point, figure in figures.items()), flush=True)


def _data(corpus: str) -> tuple[str, list[str]]:
    if corpus == DEFAULT:
        return DEFAULT, []
    name, _, path = corpus.partition("=")
    path, _, tokenizer = path.partition(":")
    path = str(Path(path).absolute())
    return name, ["data=files", f"data.paths=[{path}]", f"tokenizer={tokenizer or 'bpe'}"]


def _run(folder: str, command: str, words: list[str]) -> dict[str, Any]:
    """The result of a command that works in `folder`."""
    own = [word for word in words if command == "train" or word.startswith(("data", "tokenizer"))]
    process = subprocess.run(
        [sys.executable, "-m", "pretrain", command, *own, "format=json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(process.stdout)
    return result


if __name__ == "__main__":
    main()
