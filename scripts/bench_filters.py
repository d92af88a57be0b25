"""The English filters against datatrove's: are the decisions the same, how fast are they; and how good english_web is.

    python scripts/bench_filters.py [agreement] [speed] [english] [--data FOLDER] [--every N]

Without names, all of them. Texts are those of the folder (../shared/data), and the sources and manuals on this machine;
`--every N` takes every Nth of them. spaCy is needed on both sides for `agreement`: pip install spacy.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash
import yaml  # type: ignore[import-untyped]  # it comes with OmegaConf
from english_quality import show_english
from filter_corpora import corpus

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "configs" / "data" / "recipe"
PEER = ROOT / ".venv-peers" / "bin" / "python"
MAKE_PEER = "python -m venv .venv-peers && .venv-peers/bin/pip install -r scripts/peers.txt"
ROUNDS = 3
BATCH = 1000  # documents
SPEED_BYTES = 4_000_000  # of text; the peer takes ten seconds for it
STAGES = (("gopher", "gopher_quality"), ("gopher", "gopher_repetition"), ("c4", "c4"), ("fineweb", "fineweb"))

# Our rules by datatrove's names.
NAMES = {
    "min_words": "gopher_short_doc",
    "max_words": "gopher_long_doc",
    "min_mean_word_length": "gopher_below_avg_threshold",
    "max_mean_word_length": "gopher_above_avg_threshold",
    "max_hashes_per_word": "gopher_too_many_hashes",
    "max_ellipses_per_word": "gopher_too_many_ellipsis",
    "max_bullet_lines": "gopher_too_many_bullets",
    "max_ellipsis_lines": "gopher_too_many_end_ellipsis",
    "min_words_with_letter": "gopher_below_alpha_threshold",
    "min_stop_words": "gopher_enough_stop_words",
    "duplicate_paragraph_fraction": "dup_para_frac",
    "duplicate_paragraph_character_fraction": "dup_para_char_frac",
    "duplicate_line_fraction": "dup_line_frac",
    "duplicate_line_character_fraction": "dup_line_char_frac",
    **{f"duplicate_{n}_gram": f"duplicated_{n}_n_grams" for n in range(5, 11)},
    "min_sentences": "too_few_sentences",
    "min_lines_with_end_mark": "line_punct_ratio",
    "max_short_lines": "short_line_ratio",
    "max_duplicate_line_characters": "char_dup_ratio",
    "max_newlines_per_word": "list_ratio",
}

# Both sides are run as fresh processes that read the same texts, and tell how long they took from their first line on
# but for reading: once with imports and first use (cold), then again (warm).
READ = """
import json, sys, time
def texts(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]
"""

PEER_CODE = f"""
import time
started = time.perf_counter()
from loguru import logger
logger.remove()
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
)
imported = time.perf_counter() - started
{READ}
import xxhash
read = texts(sys.argv[1])
def judged(found):
    return "" if found is True else found[1]
def run():
    filters = [GopherQualityFilter(), GopherRepetitionFilter(), FineWebQualityFilter(), C4QualityFilter()]
    rows = []
    for text in read:
        documents = [Document(text=text, id="") for _ in filters]
        quality, repetition, fineweb, c4 = (judged(f.filter(d)) for f, d in zip(filters, documents))
        rows.append((quality, repetition, c4, documents[3].text if not c4 else "", fineweb))
    return rows
times = []
for _ in range(int(sys.argv[3])):
    started = time.perf_counter()
    rows = run()
    times.append(time.perf_counter() - started)
with open(sys.argv[2], "w") as file:
    for *row, text, fineweb in rows:
        file.write(json.dumps([*row, xxhash.xxh3_64_hexdigest(text.encode()) if text else "", fineweb]) + "\\n")
print(json.dumps([imported, times]))
"""

OUR_CODE = f"""
import time
started = time.perf_counter()
import pyarrow as pa
from pretrain.data.filters.c4 import C4
from pretrain.data.filters.fineweb import FineWeb
from pretrain.data.filters.gopher import GopherRepetition
from pretrain.data.filters.gopher_quality import GopherQuality
imported = time.perf_counter() - started
{READ}
import xxhash
from pretrain.data.documents import DOCUMENT
read = texts(sys.argv[1])
settings = json.loads(sys.argv[4])
batches = []
for start in range(0, len(read), {BATCH}):
    part = read[start : start + {BATCH}]
    ids = [str(start + place) for place in range(len(part))]
    batches.append(pa.table([ids, part, *[[""] * len(part)] * 3], schema=DOCUMENT))
def run():
    stages = [kind(**settings[kind.__name__]) for kind in (GopherQuality, GopherRepetition, C4, FineWeb)]
    return [[stage(batch) for stage in stages] for batch in batches]
times = []
for _ in range(int(sys.argv[3])):
    started = time.perf_counter()
    outputs = run()
    times.append(time.perf_counter() - started)
rows = [["", "", "", "", ""] for _ in read]
for output in outputs:
    for place, stage in zip((0, 1, 2, 4), output):
        for id, rule in zip(stage.dropped["id"].to_pylist(), stage.dropped["rule"].to_pylist()):
            rows[int(id)][place] = rule
    for id, text in zip(output[2].kept["id"].to_pylist(), output[2].kept["text"].to_pylist()):
        rows[int(id)][3] = xxhash.xxh3_64_hexdigest(text.encode()) if text else ""
with open(sys.argv[2], "w") as file:
    for row in rows:
        file.write(json.dumps(row) + "\\n")
print(json.dumps([imported, times]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="agreement, speed, english")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--every", type=int, default=1, help="take every Nth text")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} does not exist; name a folder with --data")
    parts = options.parts or ["agreement", "speed", "english"]
    if "english" in parts:
        show_english(options.data)
    if parts == ["english"]:
        return
    if not PEER.is_file():
        raise SystemExit(f"datatrove: not measured; make its environment by: {MAKE_PEER}")
    documents = sorted(corpus(options.data), key=lambda item: xxhash.xxh3_64_intdigest(item[1].encode()))
    documents = documents[:: options.every]
    with tempfile.TemporaryDirectory() as folder:
        if "agreement" in parts:
            show_agreement(documents, Path(folder))
        if "speed" in parts:
            show_speed(documents, Path(folder))


def show_agreement(documents: Sequence[tuple[str, str]], folder: Path) -> None:
    """Decisions, reasons and the lines that C4 leaves, with spaCy's words; and keep or drop with the fast words."""
    path = written([text for _, text in documents], folder)
    size = sum(len(text.encode()) for _, text in documents)
    print(f"{len(documents)} documents, {size / 1e6:.1f} MB: {dict(Counter(kind for kind, _ in documents))}")
    theirs, _ = run_peer(path, folder, 1)
    for words in ("spacy", "fast"):
        ours, _ = run_ours(path, folder, 1, words)
        for place, name in enumerate(("gopher_quality", "gopher_repetition", "c4", "text left by c4", "fineweb")):
            differ = [n for n, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one[place] != other[place]]
            decided = [n for n in differ if bool(ours[n][place]) != bool(theirs[n][place])]
            same = 1 - len(decided) / len(documents)
            prose = [n for n in range(len(documents)) if documents[n][0] == "prose"]
            same_prose = 1 - len(set(decided) & set(prose)) / max(len(prose), 1)
            print(
                f"words={words:6} {name:18} {len(differ):6} different in decision or reason, {len(decided):5} in "
                f"decision: {same:.3%} keep or drop alike, {same_prose:.3%} of the prose"
            )
            for (one, other), number in Counter((ours[n][place], theirs[n][place]) for n in differ).most_common(4):
                if place != 3:
                    print(f"        {number:6} ours {one or 'kept'}, theirs {other or 'kept'}")


def show_speed(documents: Sequence[tuple[str, str]], folder: Path) -> None:
    texts: list[str] = []
    size = 0
    for _, text in documents:
        if size < SPEED_BYTES and len(text) < SPEED_BYTES / 4:
            texts.append(text)
            size += len(text.encode())
    path = written(texts, folder)
    figures: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        rounds = {"datatrove": run_peer(path, folder, 2)[1], "ours": run_ours(path, folder, 3, "fast")[1]}
        for name, (imported, times) in rounds.items():
            figures.setdefault(f"{name} cold", []).append(imported + times[0])
            figures.setdefault(f"{name} warm", []).append(min(times[1:]))
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB; one core; medians of {ROUNDS} runs")
    seconds = {name: statistics.median(times) for name, times in figures.items()}
    for name, taken in seconds.items():
        print(f"{name:16} {taken:7.2f} s {size / taken / 1e6:7.2f} MB/s")
    for kind, least in (("warm", 10), ("cold", 5)):
        ratio = seconds[f"datatrove {kind}"] / seconds[f"ours {kind}"]
        print(f"{kind}: datatrove takes {ratio:.1f} times as long (at least {least})")


def written(texts: Sequence[str], folder: Path) -> Path:
    path = folder / "texts.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(text) + "\n" for text in texts)
    return path


def run_peer(path: Path, folder: Path, rounds: int) -> tuple[list[list[str]], tuple[float, list[float]]]:
    return run([str(PEER), "-c", PEER_CODE, str(path), str(folder / "theirs.jsonl"), str(rounds)])


def run_ours(path: Path, folder: Path, rounds: int, words: str) -> tuple[list[list[str]], tuple[float, list[float]]]:
    settings = json.dumps(dict(our_settings(words)))
    rows, figures = run([sys.executable, "-c", OUR_CODE, str(path), str(folder / "o.jsonl"), str(rounds), settings])
    return [[NAMES.get(reason, reason) for reason in row] for row in rows], figures


def run(command: list[str]) -> tuple[list[list[str]], tuple[float, list[float]]]:
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode:
        raise SystemExit(result.stderr)
    rows = [json.loads(line) for line in Path(command[4]).read_text("utf-8").splitlines()]
    imported, times = json.loads(result.stdout.splitlines()[-1])
    return rows, (imported, times)


def our_settings(words: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings of the recipes that follow the papers, by class."""
    for recipe, stage in STAGES:
        part = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text("utf-8"))[stage]
        yield part.pop("_target_").rpartition(".")[2], part | {"words": words}


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"took {time.perf_counter() - started:.0f} s")
