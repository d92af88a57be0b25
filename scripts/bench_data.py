"""The data engine: speed of reading, efficiency of the pool, Ray against the pool, memory by corpus and document.

    python scripts/bench_data.py [speed] [executors] [memory] [documents] [--large 10G]

Without names, all of them; `--large` sends one corpus of that size through the default recipe (only that where no part
is named), and tells the peak of each step. Corpora are made by generate_corpus.py in a temporary folder (about 6 GB of
disk; ten times the corpus for --large).
"""

import argparse
import contextlib
import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from generate_corpus import documents
from processes import Held, Peak

from pretrain.data.collect import collect_sources
from pretrain.data.executors import Executor, Pool, Ray, Serial
from pretrain.data.filters.gopher import GopherRepetition
from pretrain.data.manifests import MANIFEST
from pretrain.data.running import SKETCHES, run_stage
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits
from pretrain.data.stages import Built, Silent, Workspace

LIMITS = Limits(64_000_000, 200.0, 0.01)
GENERATE = [sys.executable, str(Path(__file__).with_name("generate_corpus.py"))]
REPEATS = 3
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="speed, executors, memory, documents")
    parser.add_argument("--large", help="size of one large corpus, such as 10G")
    options = parser.parse_args()
    parts: dict[str, Callable[[Path], None]] = {
        "speed": speed,
        "executors": executors,
        "memory": memory_by_corpus,
        "documents": memory_by_document,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in options.parts or ([] if options.large else parts):
            parts[name](Path(folder))
        if options.large:
            told, steps = pipeline(Path(folder), options.large)
            print(f"corpus of {options.large}: {told}")
            show_steps(steps)


def speed(folder: Path) -> None:
    """JSON lines to Parquet, one process."""
    corpus = generated(folder, "200M")
    size = corpus.stat().st_size
    figures = [size / timed(lambda: collected(corpus, folder, Serial())) / 1e6 for _ in range(REPEATS)]
    print(f"JSON lines to Parquet        {statistics.median(figures):8.0f} MB/s a core  (at least 100)")


def executors(folder: Path) -> None:
    """Gopher's rules over 60 MB: one process, two at once that know nothing of each other, the pool, Ray."""
    corpus = generated(folder, "60M")
    pool, ray = Pool(workers=WORKERS), Ray(address=None, cpus=1, tasks_in_flight=1000)
    before = collected(corpus, folder, Serial())
    for executor in (pool, ray):  # processes start, and import, before the clock does
        filtered(before, folder, executor)
    figures: dict[str, list[float]] = {"serial": [], "apart": [], "pool": [], "ray": []}
    for _ in range(REPEATS):
        figures["serial"].append(timed(lambda: filtered(before, folder, Serial())))
        figures["apart"].append(timed(lambda: apart(before, folder)))
        figures["pool"].append(timed(lambda: filtered(before, folder, pool)))
        figures["ray"].append(timed(lambda: filtered(before, folder, ray)))
    pool.close()
    ray.close()
    medians = {name: statistics.median(seconds) for name, seconds in figures.items()}
    print("seconds                      " + "  ".join(f"{name} {median:.2f}" for name, median in medians.items()))
    efficiency = medians["serial"] / WORKERS / medians["pool"]
    alone = medians["serial"] / medians["apart"]
    print(f"pool efficiency              {efficiency:8.2f}                (at least 0.9)")
    print(
        f"  of what the cores can do   {medians['apart'] / WORKERS / medians['pool']:8.2f}                ({alone:.2f})"
    )
    print(f"Ray's time over the pool's   {medians['ray'] / medians['pool']:8.2f}                (at most 1.10)")


def memory_by_corpus(folder: Path) -> None:
    """The peak of all processes while corpora of growing size pass the default recipe."""
    for size in ("250M", "500M", "1G"):
        print(f"corpus of {size:<19}{pipeline(folder, size)[0]}")


def memory_by_document(folder: Path) -> None:
    """The slowest and the largest stage for single large documents."""
    for megabytes, most in ((8, "512 MB"), (60, "10 s, 1 GB")):
        for kind, text in large_documents(megabytes * 1_000_000):
            place = folder / f"{kind}{megabytes}"
            place.mkdir()
            (place / "large.txt").write_text(text, "utf-8")
            (place / "small.txt").write_text("A small text, so that there is one for validation too.", "utf-8")
            words = ["data=files", f"data.paths=[{place}]", "executor.workers=1", "tokenizer.sample_bytes=1M"]
            result, _, peak = built(folder / f"data-{kind}{megabytes}", words)
            stages = result["stages"]
            slowest = max(stages, key=lambda stage: stage["seconds"])
            largest = max(stages, key=lambda stage: stage["peak_memory"])
            print(
                f"{megabytes:3} MB of {kind:<20}{slowest['seconds']:6.1f} s in {slowest['name']:<18}"
                f"{largest['peak_memory'] / 1e6:6.0f} MB in {largest['name']:<18}"
                f"all {peak.bytes / 1e6:6.0f} MB  (at most {most} a stage)"
            )


def large_documents(size: int) -> list[tuple[str, str]]:
    """Texts of `size` bytes: made-up words, no word twice, Japanese without spaces, one letter, wide characters."""
    chance = random.Random(1)
    letters = [chr(code) for code in (*range(0x3041, 0x3097), *range(0x4E00, 0x55D0))]
    japanese = "".join(chance.choices(letters, k=size // 3))
    numbers = " ".join(f"{chance.getrandbits(40):x}" for _ in range(size // 11))
    return [
        ("words", "\n".join(documents(size))[:size]),
        ("distinct words", numbers[:size]),
        ("Japanese", "。".join(japanese[start : start + 40] for start in range(0, len(japanese), 41))),
        ("one letter", "a" * size),
        ("wide characters", ("wide wörds are many " * 13 + "😀\n") * (size // 278)),
    ]


def pipeline(folder: Path, size: str) -> tuple[str, dict[str, Held]]:
    """A corpus of `size` from file to token shards: what to print of it, and the most that was held in each step."""
    corpus = generated(folder, size)
    words = ["data=files", f"data.paths=[{corpus}]", f"executor.workers={WORKERS}"]
    result, seconds, peak = built(folder / f"data-{size}", words)
    corpus_bytes = corpus.stat().st_size
    corpus.unlink()
    kept = result["stages"][-1]["documents_out"] / result["stages"][0]["documents_in"]
    speed = corpus_bytes / seconds / 1e6
    told = f"{peak.bytes / 1e6:8.0f} MB at the peak, {seconds:.0f} s, {speed:.1f} MB/s, {kept:.1%} kept"
    return told, peak.by_phase


def show_steps(steps: dict[str, Held]) -> None:
    """The most that was held in each step: of all processes, of the program itself and of each worker."""
    print(f"{'MB at the peak of':<36}{'all':>6}{'driver':>8}{'of files':>10}  workers")
    for step, held in steps.items():
        workers = "".join(f"{size / 1e6:6.0f}" for size in held.others)
        print(f"{step:<36}{held.bytes / 1e6:6.0f}{held.first / 1e6:8.0f}{held.of_files / 1e6:10.0f}{workers}")


def built(data_dir: Path, words: list[str]) -> tuple[dict[str, list[dict[str, float]]], float, Peak]:
    """Run `pretrain data`: its result, seconds, and the memory of all its processes."""
    command = [sys.executable, "-m", "pretrain", "data", "format=json", f"data_dir={data_dir}", *words]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = Peak(process.pid, lambda: step_of(data_dir))
    out, said = process.communicate()
    if process.returncode:
        raise SystemExit(said)
    return json.loads(out), time.perf_counter() - started, peak


def step_of(data_dir: Path) -> str:
    """What a build in `data_dir` is at: the result into whose folder something was written last."""
    last, step = 0, "start"
    for kind in ("stages/*", f"stages/*/{SKETCHES}", "tokenizers/*", "tokens/*"):
        for folder in data_dir.glob(kind):
            with contextlib.suppress(OSError):  # it was removed meanwhile
                written = folder.stat().st_mtime_ns
                if written >= last:
                    last, step = written, _step(folder)
    return step


def _step(folder: Path) -> str:
    if folder.name == SKETCHES:
        return f"{_step(folder.parent)}: compare"
    if folder.parent.name == "tokens":
        return "report" if (folder / MANIFEST).exists() else "tokenize"
    return "tokenizer" if folder.parent.name == "tokenizers" else folder.name.rpartition("-")[0]


def generated(folder: Path, size: str) -> Path:
    path = folder / f"corpus-{size}.jsonl"
    if not path.exists():
        subprocess.run([*GENERATE, size, str(path)], check=True)
    return path


def collected(corpus: Path, folder: Path, executor: Executor) -> Built:
    source = Files(paths=[str(corpus)], text_field="text", unit="file", extractor="trafilatura")
    at = Workspace(Path(tempfile.mkdtemp(dir=folder)), executor, Silent())
    return collect_sources({"files": source}, {}, LIMITS, None, at)


def filtered(before: Built, folder: Path, executor: Executor) -> Built:
    at = Workspace(Path(tempfile.mkdtemp(dir=folder)), executor, Silent())
    return run_stage("gopher_repetition", {}, gopher(), before, at)


def apart(before: Built, folder: Path) -> None:
    """The whole work twice at the same time: what two cores of this machine can do without any pool."""
    processes = [multiprocessing.Process(target=filtered, args=(before, folder, Serial())) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def gopher() -> GopherRepetition:
    return GopherRepetition(
        duplicate_paragraph_fraction=0.30,
        duplicate_paragraph_character_fraction=0.20,
        duplicate_line_fraction=0.30,
        duplicate_line_character_fraction=0.20,
        top_2_gram=0.20,
        top_3_gram=0.18,
        top_4_gram=0.16,
        duplicate_5_gram=0.15,
        duplicate_6_gram=0.14,
        duplicate_7_gram=0.13,
        duplicate_8_gram=0.12,
        duplicate_9_gram=0.11,
        duplicate_10_gram=0.10,
    )


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
