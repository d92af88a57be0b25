"""Time to loss on one GPU, against nanoGPT: everything in one call of less than nine minutes.

    python scripts/bench_gpu.py NOVELS TINYSHAKESPEARE [--out benchmarks/gpu.json] [--only speed ...] [--tiny]

NOVELS is any prose that `data=files` reads. Writes JSON: what was measured, what was wanted, and whether it was
measured on a GPU at all. nanoGPT's side is scripts/nanogpt.py in bf16, compiled, with flash attention and fused AdamW.
Its losses are on random rows, as its own are, ours on the whole validation text. `--tiny` goes through everything at a
size that a CPU does in seconds; its figures mean nothing, and say so.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nanogpt
import torch
from one_step import Shape, update_of

from pretrain import cli
from pretrain.commands.sizing import tokens_at_peak
from pretrain.data.batches import Batches
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.sampling.decodings import Greedy
from pretrain.sampling.generation import generate
from pretrain.tracking.jsonl import Metrics, read_metrics

STEPS = 6  # of a side that are timed behind the first, which compiles
NEW_TOKENS = 200


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        gpt2, baby, novels: nanoGPT's recipes for the speed, for characters, and for prose.
        micro_batch: rows at once of ours in the speed.
        small: what makes our gpt2_small and modern_small of gpt2's shape.
        character_model: what makes `modern` of the baby's shape.
    """

    device: torch.device
    gpt2: nanogpt.Recipe
    baby: nanogpt.Recipe
    novels: nanogpt.Recipe
    micro_batch: int
    most_rows: int
    small: list[str]
    character_model: list[str]
    compiled: bool


FULL = Size(
    torch.device("cuda"),
    nanogpt.GPT2,
    nanogpt.BABY,
    replace(nanogpt.GPT2, rows=32, accumulate=2, steps=400, eval_every=100),
    micro_batch=32,
    most_rows=2**12,
    small=["trainer.batch_tokens=65536", "trainer.micro_batch=32"],
    character_model=[
        *"model.n_layer=6 model.n_head=6 model.n_embd=384 model.context_length=256 model.dropout=0.2".split(),
        *"optimizer.lr=8e-3 optimizer.weight_decay=0.1 trainer.batch_tokens=16384 trainer.eval_every=50".split(),
    ],
    compiled=True,
)
NARROW = nanogpt.Recipe(1, 1, 16, context=16, rows=2, steps=4, eval_every=2, eval_batches=1)
OF_NARROW = [*"model.n_layer=1 model.n_head=1 model.n_embd=16 model.context_length=16 trainer.batch_tokens=32".split()]
TINY = Size(
    torch.device("cpu"),
    replace(NARROW, accumulate=2),
    NARROW,
    NARROW,
    micro_batch=2,
    most_rows=4,
    small=[*OF_NARROW, "trainer.micro_batch=null"],
    character_model=[*OF_NARROW, "trainer.eval_every=2"],
    compiled=False,
)


def main() -> None:
    parts: dict[str, Callable[[Size, Path, Path], dict[str, Any]]] = {
        "speed": speed,
        "memory": memory,
        "novels": novels,
        "characters": characters,
        "sampling": sampling,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("novels", type=Path, nargs="?")
    parser.add_argument("characters", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gpu.json"))
    parser.add_argument("--only", nargs="*", default=list(parts), choices=list(parts))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.characters is None or not (options.tiny or torch.cuda.is_available()):  # as by `make bench`
        print("not measured: this needs a GPU and two texts; --tiny goes through everything on a CPU")
        return
    size = TINY if options.tiny else FULL
    named = "a CPU, to see that it runs" if options.tiny else torch.cuda.get_device_name()
    found: dict[str, Any] = {"device": named, "measured": not options.tiny, "torch": torch.__version__}
    prose, text, out = (path.absolute() for path in (options.novels, options.characters, options.out))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in options.only:
            started = time.perf_counter()
            try:
                found[name] = parts[name](size, prose, text)
            except RuntimeError as error:  # the compiler, or memory: the other parts are worth their figures
                found[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            found[name]["seconds"] = round(time.perf_counter() - started, 1)
            out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(f"{name}: {json.dumps(found[name])}", flush=True)
            if size.device.type == "cuda":
                torch.cuda.empty_cache()


def speed(size: Size, prose: Path, text: Path) -> dict[str, Any]:
    """Tokens a second and MFU of GPT-2 at half a million tokens a step, and what loading and logging take of a step."""
    recipe = size.gpt2
    shape = Shape(recipe.rows * recipe.accumulate, size.micro_batch, recipe.context, 50_304)
    cold, seconds, peak = step_of_ours(size, shape)
    their_cold, their_seconds = step_of_nanogpt(size, shape)
    rate = shape.tokens / seconds
    return {
        "tokens_per_second": {"ours": rate, "nanogpt": shape.tokens / their_seconds, "wanted": 637_000},
        "mfu": {"ours": rate / peak if peak else None, "wanted": 0.55},
        "ratio": {"ours": their_seconds / seconds, "wanted": 1.35},
        "first_step_seconds": {"ours": cold, "nanogpt": their_cold},
        "loading_and_logging": {"share": overhead(text, shape) / seconds, "wanted": 0.01},
    }


def step_of_ours(size: Size, shape: Shape) -> tuple[float, float, float | None]:
    """Seconds of the first step and of a later one, and the tokens a second at the device's peak."""
    update = update_of(["model=gpt2_small", *size.small], shape, "bf16", size.device)
    if size.compiled:
        learning: Any = update.learning
        learning.token_losses = torch.compile(learning.token_losses)
    cold, seconds = clocked(size, partial(update.step, 0, 0, 0.1))
    return cold, seconds, tokens_at_peak(update.model, "bf16", shape.sequence_length)


def step_of_nanogpt(size: Size, shape: Shape) -> tuple[float, float]:
    recipe = size.gpt2
    model = nanogpt.GPT(shape.vocab_size, recipe).to(size.device)
    optimizer = nanogpt.optimizer_of(model, recipe.lr, recipe.beta2)
    run: Any = torch.compile(model) if size.compiled else model
    rows = nanogpt.batches(torch.randint(shape.vocab_size, (shape.tokens + 1,)), recipe, size.device)
    return clocked(size, lambda: nanogpt.step(run, optimizer, [next(rows) for _ in range(recipe.accumulate)], True))


def clocked(size: Size, step: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the first step, and of each later one."""
    marks = [time.perf_counter()]
    for count in (1, STEPS):
        for _ in range(count):
            step()
        if size.device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
    return marks[1] - marks[0], (marks[2] - marks[1]) / STEPS


def overhead(text: Path, shape: Shape) -> float:
    """Seconds a step of reading a batch from shards and writing a row of metrics."""
    streams, _ = prepared([f"data.paths=[{text}]", "tokenizer=char"])
    stream = streams["train"]
    batches = Batches(stream, min(shape.sequence_length, len(stream) // 4), shape.rows, seed=1)
    metrics = Metrics(Path("metrics.jsonl"), 0)
    row = {"step": 1, "tokens": 1, "train/loss": 1.0, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 1.0}
    started = time.perf_counter()
    for number in range(STEPS):
        batches.pairs(number)
        metrics.log(row)
    taken = (time.perf_counter() - started) / STEPS
    metrics.close()
    return taken


def memory(size: Size, prose: Path, text: Path) -> dict[str, Any]:
    """The largest number of rows at once of both, not compiled, by doubling."""
    recipe = size.gpt2

    def mine_of(rows: int) -> Callable[[], object]:
        update = update_of(
            ["model=gpt2_small", *size.small], Shape(rows, rows, recipe.context, 50_304), "bf16", size.device
        )
        return lambda: update.step(0, 0, 0.1)

    def theirs_of(rows: int) -> Callable[[], object]:
        model = nanogpt.GPT(50_304, recipe).to(size.device)
        optimizer = nanogpt.optimizer_of(model, recipe.lr, recipe.beta2)
        ids = torch.randint(50_304, (2, rows, recipe.context), device=size.device)
        return lambda: nanogpt.step(model, optimizer, [(ids[0], ids[1])], True)

    mine, other = (largest(size, step) for step in (mine_of, theirs_of))
    return {"rows": {"ours": mine, "nanogpt": other}, "ratio": {"ours": mine / max(1, other), "wanted": 2}}


def largest(size: Size, stepper: Callable[[int], Callable[[], object]]) -> int:
    """The most rows, a power of two, of which two steps fit."""
    rows = 1
    while rows <= size.most_rows:
        try:
            step = stepper(rows)
            step()
            step()
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            step = None  # type: ignore[assignment]  # so that its memory is free before the next is built
            if size.device.type == "cuda":
                torch.cuda.empty_cache()
        rows *= 2
    return rows // 2


def novels(size: Size, prose: Path, text: Path) -> dict[str, Any]:
    """nanoGPT's final loss on prose, and ours in a fifth of its time."""
    words = [f"data.paths=[{prose}]", "tokenizer=bpe"]
    if not size.compiled:
        words += ["tokenizer.vocab_size=300"]
    return race(size, size.novels, words, [*words, "model=modern_small", *size.small], share=5, target=None)


def characters(size: Size, prose: Path, text: Path) -> dict[str, Any]:
    """nanoGPT's loss on tinyshakespeare, 1.4697, and ours in an eighth of its time."""
    words = [f"data.paths=[{text}]", "tokenizer=char"]
    model = [*words, "model=modern", *size.character_model]
    return race(size, size.baby, words, model, share=8, target=1.4697 if size.compiled else None)


def race(
    size: Size, recipe: nanogpt.Recipe, data: list[str], words: list[str], *, share: int, target: float | None
) -> dict[str, Any]:
    """Both trainings on the same tokens, compiling counted: losses of evaluations with their seconds.

    Args:
        share: ours gets one part in so many of nanoGPT's time until its lowest loss.
        target: a loss at which nanoGPT's clock stops; None: at its lowest.
    """
    sides, vocab_size = prepared(data)
    ids = {name: torch.from_numpy(stream.array().astype("int64")) for name, stream in sides.items()}
    started, theirs = time.perf_counter(), []
    training = nanogpt.train(
        ids["train"],
        ids["validation"],
        vocab_size,
        recipe,
        seed=1,
        best=True,
        device=size.device,
        compiled=size.compiled,
    )
    for _, loss, _ in training:
        theirs.append((time.perf_counter() - started, loss))
    lowest = min(loss for _, loss in theirs)
    reached = next(seconds for seconds, loss in theirs if loss <= max(lowest, target or lowest))
    budget = reached / share
    limits = [f"trainer.max_seconds={budget}", "trainer.max_steps=null"]
    started = time.perf_counter()
    result = command(["train", *words, *limits, "sample.max_tokens=0", f"device={size.device.type}"])
    whole = time.perf_counter() - started
    rows = [row for row in read_metrics(Path(result["run"]) / "metrics.jsonl") if row.get("val/loss") is not None]
    return {
        "nanogpt": {"seconds": reached, "loss": lowest, "wanted": target},
        "ours": {
            "seconds": result["seconds"],  # of training
            "seconds_of_command": whole,
            "loss": result["validation"]["loss"],
            "wanted": target or lowest,
        },
        "budget_seconds": budget,
        "curve": {"nanogpt": theirs, "ours": [(row["seconds"], row["val/loss"]) for row in rows]},
    }


def sampling(size: Size, prose: Path, text: Path) -> dict[str, Any]:
    """Tokens a second of greedy text from one row, against transformers' generate with its cache."""
    shape = Shape(1, 1, size.gpt2.context, 50_257)
    model: Any = update_of(["model=gpt2_small", *size.small], shape, "bf16", size.device).working.eval()
    new = min(NEW_TOKENS, shape.sequence_length - 4)
    times = {"ours": written(size, lambda: write(model, new, size.device))}
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        times["transformers"] = None
    else:
        wide: dict[str, Any] = {"n_layer": size.gpt2.n_layer, "n_head": size.gpt2.n_head, "n_embd": size.gpt2.n_embd}
        peer: Any = GPT2LMHeadModel(GPT2Config(n_positions=shape.sequence_length, **wide))
        peer = peer.to(size.device, torch.bfloat16).eval()
        prompt = torch.tensor([[1, 2, 3, 4]], device=size.device)
        asked = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        times["transformers"] = written(size, lambda: peer.generate(prompt, **asked))
    mine, other = times["ours"], times["transformers"]
    assert mine is not None
    return {
        "tokens_per_second": {name: new / taken if taken else None for name, taken in times.items()},
        "ratio": {"ours": other / mine if other else None, "wanted": 5},
    }


def write(model: Any, new: int, device: torch.device) -> object:
    return generate(model, [1, 2, 3, 4], n=1, max_tokens=new, decoding=Greedy(), seed=1, end_of_text=-1, device=device)


def written(size: Size, write_once: Callable[[], object]) -> float | None:
    """Seconds of the second time."""
    write_once()
    started = time.perf_counter()
    write_once()
    if size.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def prepared(words: list[str]) -> tuple[dict[str, TokenStream], int]:
    """The token streams of both splits, built where they are missing, and the number of ids."""
    folder = Path(command(["data", *words])["manifest"]).parent
    manifest = read_manifest(folder)
    return {name: TokenStream(folder, name, manifest) for name in ("train", "validation")}, manifest["vocab_size"]


def command(words: list[str]) -> dict[str, Any]:
    """What a command of the program, on files as they are, prints as JSON."""
    first, *others = words
    with contextlib.redirect_stdout(io.StringIO()) as out, silent():
        code = cli.main([first, "data=files", "executor=serial", "data/recipe=none", *others, "format=json"])
    if code:
        raise RuntimeError(f"pretrain {' '.join(words)} ended with {code}")
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without the progress that goes to stderr; errors still do."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


if __name__ == "__main__":
    main()
