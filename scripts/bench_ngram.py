"""n-grams against KenLM: exactness, speed, memory, size and the mixture, each beside what is wanted.

    python scripts/bench_ngram.py [--novels FILE] [--shakespeare FILE] [--lmplz PROGRAM] [--build-binary PROGRAM]

FILE: English novels as JSON lines (text), .gz or not, about 13.5 million tokens; and the char-rnn Shakespeare file.
KenLM's module runs in .venv-peers; its programs lmplz and build_binary, where they are given, are timed too.
"""

import argparse
import gzip
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from pretrain.exporting.arpa import write_arpa
from pretrain.models.ngram import NGram
from pretrain.models.ngram_mixture import NGramMixture
from pretrain.sampling.decodings import Temperature, TopP
from pretrain.sampling.generation import generate
from pretrain.sampling.search import Decoding
from pretrain.tokenizers.bpe import BytePairEncoding

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data" / "en"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
ORDER, VOCAB = 5, 16_384
MEMORY_BYTES = 100_000_000  # of the model that is larger than memory

# Scores each line of a file, <s> and </s> around it: the float64 sum of log10, words with </s>, and CPU seconds.
KENLM = """
import json, sys, time
import kenlm, numpy
model = kenlm.Model(sys.argv[1])
lines = open(sys.argv[2]).read().splitlines()
total, words, seconds = 0.0, 0, []
for line in lines:
    scores = numpy.fromiter((score for score, _, _ in model.full_scores(line)), numpy.float64)
    total, words = total + scores.sum(), words + len(scores)
for _ in range(3):
    started = time.perf_counter()
    for line in lines:
        model.score(line)
    seconds.append(time.perf_counter() - started)
print(json.dumps([total, words, min(seconds)]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--novels", type=Path, default=DATA / "english_novels.jsonl.gz")
    parser.add_argument("--shakespeare", type=Path, default=DATA / "tinyshakespeare.txt")
    parser.add_argument("--lmplz", type=Path)
    parser.add_argument("--build-binary", type=Path)
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)  # this process only fits, and tells its peak
    parser.add_argument("--fit-on-disk", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        _fit_alone(arguments.fit)
        return
    if arguments.fit_on_disk:
        _fit_on_disk(arguments.fit_on_disk)
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.novels.exists():
            _novels(arguments, Path(folder))
        if arguments.shakespeare.exists():
            _shakespeare(arguments, Path(folder))


def _novels(arguments: argparse.Namespace, folder: Path) -> None:
    tokens = _encoded(arguments.novels)
    cut = len(tokens) * 9 // 10
    training, validation = tokens[:cut], np.append(0, tokens[cut:])
    stream = folder / "tokens.bin"
    tokens.tofile(stream)
    print(f"{len(tokens):,} tokens, order {ORDER}, {VOCAB:,} ids, {torch.get_num_threads()} threads")
    alone = subprocess.run([sys.executable, __file__, "--fit", stream], capture_output=True, text=True, check=True)
    fits = json.loads(alone.stdout)
    _row("fit, best of three", f"{len(tokens) / min(fits['seconds']) / 1e6:.2f} M tokens/s", "6 at least")
    _row("peak memory of the process after its first fit", f"{fits['peak_bytes'] / 1e9:.2f} GB", "1 at most")
    _larger_than_memory(tokens, folder / "many_tokens.bin")

    model = NGram(VOCAB, order=ORDER, smoothing="kneser_ney", k=1.0)
    model.fit(training, 0)
    seconds = _best(lambda: model.stream_losses(validation))
    nats = float(model.stream_losses(validation).mean())
    _row("batch scoring", f"{(len(validation) - 1) / seconds / 1e6:.2f} M tokens/s", "8 at least")
    small = NGram(VOCAB, order=ORDER, smoothing="kneser_ney", k=1.0, quantised=True)
    small.fit(training, 0)
    worse = math.exp(float(small.stream_losses(validation).mean()) - nats) - 1
    _row("quantised: perplexity lost", f"{worse:.4%}", "0.1 % at most")
    small.fit(tokens, 0)
    _row("quantised, all tokens: size", f"{len(safetensors.torch.save(small.state_dict())) / 1e6:.1f} MB", "64 at most")

    text = _as_lines(validation, folder / "validation.txt")
    write_arpa(model, folder / "ours.arpa")
    theirs = _kenlm(folder / "ours.arpa", text)
    _row("our ARPA file scored by KenLM: nats apart", f"{abs(theirs[0] - nats):.1e}", "1e-6 at most")
    _row("KenLM scores it, one thread", f"{theirs[1] / theirs[2] / 1e6:.2f} M tokens/s", "")
    if arguments.lmplz and arguments.build_binary:
        source = _as_lines(tokens, folder / "all.txt")
        started = time.perf_counter()
        with source.open() as lines, (folder / "theirs.arpa").open("w") as out:
            command = [arguments.lmplz, "-o", str(ORDER), "-S", "2G", "-T", folder, "--discount_fallback"]
            subprocess.run(command, stdin=lines, stdout=out, stderr=subprocess.DEVNULL, check=True)
        fitted = time.perf_counter() - started
        command = [arguments.build_binary, "probing", folder / "theirs.arpa", folder / "theirs.bin"]
        subprocess.run(command, capture_output=True, check=True)
        both = time.perf_counter() - started
        _row("lmplz, and with its binary", f"{fitted:.1f} s, {both:.1f} s; ours {min(fits['seconds']):.1f} s", "")


def _shakespeare(arguments: argparse.Namespace, folder: Path) -> None:
    text = arguments.shakespeare.read_text("utf-8")
    ids = {character: id for id, character in enumerate(sorted(set(text)), start=1)}
    tokens = np.array([ids[character] for character in text])
    cut = len(tokens) * 9 // 10
    training, validation = (np.concatenate([[0], part, [0]]) for part in (tokens[:cut], tokens[cut:]))
    print(f"\n{len(tokens):,} characters of Shakespeare")
    scored = _as_lines(validation, folder / "shakespeare.txt")
    for order in range(2, 11):
        model = NGram(len(ids) + 1, order=order, smoothing="kneser_ney", k=1.0)
        model.fit(training, 0)
        nats = float(model.stream_losses(validation).mean())
        write_arpa(model, folder / "shakespeare.arpa")
        apart = abs(_kenlm(folder / "shakespeare.arpa", scored)[0] - nats)
        _row(f"order {order}: {nats:.6f} nats; KenLM on our ARPA file", f"{apart:.1e} apart", "1e-6 at most")
    model = NGram(len(ids) + 1, order=ORDER, smoothing="kneser_ney", k=1.0)
    model.fit(training, 0)
    for name, decoding, wanted in (
        ("random", Temperature(temperature=1.0), "20,000 at least"),
        ("top-p", TopP(p=0.9, temperature=1.0), "5,000 at least"),
    ):
        speed = max(_sampled(model, decoding) for _ in range(3))
        _row(f"sampling at batch 64, order {model.order}, {name}", f"{speed:,.0f} tokens/s", wanted)
    for cache_order in (0, 5):
        mixture = NGramMixture(
            len(ids) + 1, order=9, cache_order=cache_order, context_length=1024, held_out=0.1, memory_bytes=2**33
        )
        mixture.fit(training, 0)
        nats = _row_losses(mixture, validation)
        _row(f"mixture, cache of order {cache_order}", f"{nats:.4f} nats/character", "1.50 at most; KenLM 1.517")


def _row_losses(model: NGramMixture, stream: np.ndarray) -> float:
    """Nats per token as eval measures them: rows of the context length, of which half is new."""
    half, nats = model.context_length // 2, 0.0
    for start in range(0, len(stream) - 1, half):
        left = max(0, start - half)
        row = torch.from_numpy(stream[left : start + half + 1])[None]
        found, _ = model.token_losses(row[:, :-1], row[:, 1:])
        nats += float(found[0, start - left :].sum())
    return nats / (len(stream) - 1)


def _sampled(model: NGram, decoding: Decoding) -> float:
    started = time.perf_counter()
    made = generate(
        model, [0], n=64, max_tokens=200, decoding=decoding, seed=1, end_of_text=0, device=torch.device("cpu")
    )
    return sum(len(continuation.tokens) for continuation in made) / (time.perf_counter() - started)


def _fit_alone(stream: Path) -> None:
    tokens = np.memmap(stream, np.uint16, mode="r")
    seconds, peak = [], 0
    for _ in range(3):
        started = time.perf_counter()
        NGram(VOCAB, order=ORDER, smoothing="kneser_ney", k=1.0).fit(tokens, 0)
        seconds.append(time.perf_counter() - started)
        peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))


def _larger_than_memory(tokens: np.ndarray, path: Path) -> None:
    """Three times the tokens; in the second and third a tenth is replaced by others from anywhere in the text."""
    generator, parts = np.random.default_rng(0), [tokens]
    for _ in range(2):
        changed = tokens[1:].copy()
        some = np.flatnonzero((generator.random(len(changed)) < 0.1) & (changed != 0))[:-1]
        changed[some] = generator.choice(tokens[tokens != 0], len(some))
        parts.append(changed)
    np.concatenate(parts).tofile(path)
    alone = subprocess.run(
        [sys.executable, __file__, "--fit-on-disk", path], capture_output=True, text=True, check=True
    )
    found = json.loads(alone.stdout)
    name = f"{found['tokens']:,} tokens with memory_bytes={MEMORY_BYTES:,}"
    _row(f"{name}: fit", f"{found['tokens'] / found['seconds'] / 1e6:.2f} M tokens/s", "")
    _row("its anonymous memory at most, the start aside", f"{found['peak_bytes'] / 1e6:.0f} MB", "400 at most")
    _row("its batch scoring", f"{found['scored'] / found['scoring_seconds'] / 1e6:.2f} M tokens/s", "")
    path.unlink()


def _fit_on_disk(stream: Path) -> None:
    tokens, before, peak, fitted = np.memmap(stream, np.uint16, mode="r"), _anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not fitted.wait(0.005):
            peak = max(peak, _anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = NGram(VOCAB, order=ORDER, smoothing="kneser_ney", k=1.0, memory_bytes=MEMORY_BYTES)
    started = time.perf_counter()
    model.fit(tokens, 0)
    seconds = time.perf_counter() - started
    fitted.set()
    watcher.join()
    some = tokens[: 2**20]
    scoring = _best(lambda: model.stream_losses(some))
    found = {"tokens": len(tokens), "seconds": seconds, "peak_bytes": peak - before}
    print(json.dumps(found | {"scored": len(some) - 1, "scoring_seconds": scoring}))


def _anonymous_bytes() -> int:
    """Of this process, as Linux tells: what is not a file's, and so cannot be dropped from memory."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _encoded(path: Path) -> Any:
    """The documents as one stream of uint16 ids of a byte-pair encoding trained on them."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        texts = [json.loads(line)["text"] for line in lines]
    tokenizer = BytePairEncoding(vocab_size=VOCAB, splitting="gpt2", sample_bytes=10**9).train(texts)
    end = np.zeros(1, np.uint16)
    parts = [part for ids in tokenizer.encode_batch(texts) for part in (ids.astype(np.uint16), end)]
    return np.concatenate([end, *parts])


def _as_lines(stream: np.ndarray, path: Path) -> Path:
    """Each document a line of ids in decimal, as KenLM reads it; a document that is cut is one too."""
    with path.open("w") as file:
        for document in np.split(stream[1:], np.flatnonzero(stream[1:] == 0) + 1):
            if len(document):
                file.write(" ".join(map(str, document[document != 0].tolist())) + "\n")
    return path


def _kenlm(model: Path, text: Path) -> tuple[float, int, float]:
    """Nats per word, words, and seconds."""
    answer = subprocess.run([PEERS, "-c", KENLM, model, text], capture_output=True, text=True, check=True)
    total, words, seconds = json.loads(answer.stdout)
    return -total * math.log(10) / words, words, seconds


def _best(work: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _row(name: str, found: str, wanted: str) -> None:
    print(f"  {name:<60} {found:<40} {wanted and f'wanted: {wanted}'}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()
