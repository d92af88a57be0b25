"""Loading: batches against nanoGPT's way and against what a model eats, with private memory by size of corpus.

    python scripts/bench_batches.py [speed] [workers] [memory] [trillion]

Without names, all of them. nanoGPT's way is a memory map made anew for each batch, random places, and a stack of rows.
Every figure is of one core but the model's, which has all. Corpora are made in a temporary folder: 1.2 GB of disk.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.data.batches import Batches
from pretrain.data.shards import TokenStream, read_manifest, write_manifest
from pretrain.models.gpt import GPT
from pretrain.stopping import Stop
from pretrain.training.allocator import keep_freed_memory
from pretrain.training.optimizers import AdamW
from pretrain.training.precision import DTYPES, chosen_precision
from pretrain.training.schedules import Constant
from pretrain.training.updates import GradientUpdate

VOCABULARY = 50_257
NANO = (64, 16)  # tokens a row, and rows a batch, of gpt_nano
SHAPES = (NANO, (256, 16), (1024, 512))
ROUNDS = 5
SECONDS = 0.5  # of each measurement
SHARD_TOKENS = 8_000_000
STEPS = 30  # of gpt_nano


Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="speed, workers, memory, trillion")
    parts: dict[str, Callable[[Path], None]] = {
        "speed": speed,
        "workers": workers,
        "memory": memory_by_corpus,
        "trillion": trillion,
    }
    for name in parser.parse_args().parts or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


def speed(folder: Path) -> None:
    """100 M tokens in one shard and in many, this program and nanoGPT's way by turns, and gpt_nano's training."""
    one, many = corpus(folder / "one", 1, 100_000_000), corpus(folder / "many", 64, 100_000_000 // 64)
    peer = one.folder / one.shards[0].file
    for length, rows in SHAPES:
        figures: dict[str, list[float]] = {"one shard": [], "64 shards": [], "nanoGPT": []}
        for turn in range(ROUNDS):
            for name, stream in (("one shard", one), ("64 shards", many)):
                figures[name].append(rate(Batches(stream, length, rows, seed=turn).__getitem__, length * rows))
            figures["nanoGPT"].append(rate(partial(nanogpt_batch, peer, length, rows), length * rows))
        medians = {name: statistics.median(found) for name, found in figures.items()}
        shown = ", ".join(f"{name} {median / 1e6:.1f}" for name, median in medians.items())
        print(f"loading, rows of {length:>4}, {rows:>3} a batch: {shown} M tokens/s a core (at least 2)")
        if (length, rows) == NANO:
            eaten = training_speed(one)
            times = medians["64 shards"] / eaten
            print(
                f"gpt_nano trains at {eaten / 1e3:.1f} k tokens/s: loading is {times:.0f} times as fast (at least 50)"
            )


def workers(folder: Path) -> None:
    """The same batches read in line and by threads, from warm files."""
    stream = corpus(folder, 64, 100_000_000 // 64)
    for length, rows in SHAPES:
        found = {}
        for number in (0, 1, 2, 4):
            batches = Batches(stream, length, rows, seed=1, workers=number)
            found[number] = rate(batches.__getitem__, length * rows) / 1e6
        shown = ", ".join(f"{number} workers {figure:.1f}" for number, figure in found.items())
        print(f"threads, rows of {length:>4}, {rows:>3} a batch: {shown} M tokens/s")


def memory_by_corpus(folder: Path) -> None:
    """Private memory of a process that reads 20,000 rows of 1,024 from anywhere, beyond what it has after imports."""
    for tokens in (10_000_000, 100_000_000, 500_000_000):
        where = folder / str(tokens)
        corpus(where, 1, tokens)
        found = {how: in_child(_private_after, where, how) for how in ("ours", "nanogpt", "one map")}
        shown = ", ".join(f"{how} {figure / 1e6:.0f}" for how, figure in found.items())
        print(f"private memory, corpus of {2 * tokens / 1e6:>5.0f} MB: {shown} MB (at most 200)")


def trillion(folder: Path) -> None:
    """10^12 tokens in 125,000 sparse shards: to open them, to find a batch, to go on, and private memory."""
    folder = folder / "trillion"
    folder.mkdir()
    names = [f"train-{number:06d}.bin" for number in range(10**12 // SHARD_TOKENS)]
    for name in names:
        with (folder / name).open("wb") as file:
            file.truncate(2 * SHARD_TOKENS)
    save_manifest(folder, names, SHARD_TOKENS)
    opening, first, later, private = in_child(_trillion, folder)
    print(f"10^12 tokens in {len(names):,} shards: opened in {opening:.1f} s, private memory {private / 1e6:.0f} MB")
    print(f"batches of 16 x 1,024 among them: any in {1e3 * first:.1f} ms, in order {later / 1e6:.1f} M tokens/s")


def corpus(folder: Path, shards: int, tokens: int) -> TokenStream:
    """Random ids, in shards of one size."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = [f"train-{number:05d}.bin" for number in range(shards)]
    for name in names:
        with (folder / name).open("wb") as file:
            for start in range(0, tokens, 10**7):
                file.write(rng.integers(0, VOCABULARY, min(10**7, tokens - start), np.uint16).data)
    save_manifest(folder, names, tokens)
    return opened(folder)


def save_manifest(folder: Path, names: list[str], tokens: int) -> None:
    texts = {"documents": tokens // 500, "bytes": 4 * tokens, "characters": 4 * tokens, "words": tokens}
    shards = [
        {"file": name, "checksum": f"{index:032x}", "tokens": tokens, "source": "x", **texts}
        for index, name in enumerate(names)
    ]
    sizes = {"key": "", "tokenizer": "", "vocab_size": VOCABULARY, "end_of_text": 0, "dtype": "uint16"}
    write_manifest(folder, {**sizes, "made_of": [], "splits": {"train": shards}})


def opened(folder: Path) -> TokenStream:
    return TokenStream(folder, "train", read_manifest(folder))


def nanogpt_batch(file: Path, length: int, rows: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch as nanoGPT's train.py makes one, whatever its number."""
    data = np.memmap(file, np.uint16, mode="r")
    places = torch.randint(len(data) - length, (rows,)).tolist()
    inputs = torch.stack([torch.from_numpy(data[place : place + length].astype(np.int64)) for place in places])
    targets = torch.stack([torch.from_numpy(data[place + 1 : place + 1 + length].astype(np.int64)) for place in places])
    return inputs, targets


def rate(read: Callable[[int], object], tokens: int) -> float:
    """Tokens a second, over batches 1, 2, 3, ..."""
    read(0)
    number, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < SECONDS:
        number += 1
        read(number)
    return number * tokens / seconds


def training_speed(stream: TokenStream) -> float:
    """Tokens a second that gpt_nano learns from in its fastest step, at its own settings, on all cores."""
    keep_freed_memory()
    model = GPT(8192, context_length=NANO[0], n_layer=4, n_head=4, n_embd=128, dropout=0.0)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    optimizer = AdamW(parameters, lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1)
    batches = _Clamped(stream, *NANO, seed=1)
    dtype = DTYPES[chosen_precision("auto", torch.device("cpu"))]
    update = GradientUpdate(
        model, batches, optimizer, Constant(warmup_steps=10), dtype, NANO[1], 1, Stop(), max_grad_norm=1.0
    )
    fastest = float("inf")
    for number in range(STEPS):
        started = time.perf_counter()
        update.step(number, number, 0.0)
        fastest = min(fastest, time.perf_counter() - started)
    return batches.tokens / fastest


class _Clamped(Batches):
    """Ids of a smaller vocabulary, as a run on the default data has it."""

    def __getitem__(self, number: int) -> NDArray[np.int64]:
        return super().__getitem__(number) % 8192


def in_child(work: Callable[..., Result], *arguments: object) -> Result:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _private() -> int:
    """Bytes that would be free if this process ended: of private pages, clean ones of files among them."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private"))


def _private_after(folder: Path, how: str) -> int:
    before = _private()
    length, rows = 1024, 16
    stream = opened(folder)
    file = folder / stream.shards[0].file
    data = np.memmap(file, np.uint16, mode="r")
    batches = Batches(stream, length, rows, seed=1)
    rng, most = np.random.default_rng(1), 0
    for number in range(20_000 // rows):
        if how == "ours":
            batches[number]
        elif how == "nanogpt":
            nanogpt_batch(file, length, rows, number)
        else:
            places = rng.integers(0, len(data) - length, rows).tolist()
            np.stack([data[place : place + length + 1] for place in places]).astype(np.int64)
        if number % 50 == 0:
            most = max(most, _private() - before)
    return max(most, _private() - before)


def _trillion(folder: Path) -> tuple[float, float, float, int]:
    before, started = _private(), time.perf_counter()
    manifest = read_manifest(folder)  # a run keeps it
    stream = TokenStream(folder, "train", manifest)
    opening = time.perf_counter() - started
    batches = Batches(stream, 1024, 16, seed=1)
    batches[0]
    started = time.perf_counter()
    batches[10**12]
    first = time.perf_counter() - started
    return opening, first, rate(batches.__getitem__, batches.tokens), _private() - before


if __name__ == "__main__":
    main()
