"""Near duplicates against datatrove's, how many of them are found, and what each step costs a document.

    python scripts/bench_dedup.py [speed] [recall] [cost] [clusters] [--megabytes 80]

speed    one process each, the same corpus: novels in English, Wikipedia in English and Japanese, Python's standard
         library, and planted copies with edits at many rates. CPU seconds from reading to writing what is kept.
recall   all pairs at Jaccard .8 or more, found by comparing all with all, against the clusters of the stage; and every
         document that it drops against its nearest one, both by sets of words and without any hash.
cost     CPU, memory and each file on the disk, for a document and for 20 million, of every step from JSON lines to
         shuffled documents with the recipe `minimal`, over made-up words with copies and near copies among them.
clusters memory and time of the union-find over the links of that many.

Texts come from ../shared/data where it is there; without it, from the standard library alone.
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml  # type: ignore[import-untyped]  # it has no types

from pretrain import config, schema
from pretrain.data.collect import collect_sources
from pretrain.data.dedup.clusters import join, own_parents, roots
from pretrain.data.dedup.near import NearDuplicates
from pretrain.data.documents import DOCUMENT
from pretrain.data.executors import Serial
from pretrain.data.manifests import key_of
from pretrain.data.memory import peak_memory, reset_peak_memory
from pretrain.data.running import LINKS_AT_ONCE, run_stage
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits
from pretrain.data.splits import ALL_TRAINING, gather, place_documents
from pretrain.data.stages import Batch, Built, ShardRecord, Silent, Workspace, build, text_bytes
from pretrain.data.words import words

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
PEER = ROOT / ".venv-peers" / "bin" / "python"
SHARD = 8_000_000  # bytes of text
GENERATE = [sys.executable, str(Path(__file__).with_name("generate_corpus.py"))]
PLANNED = 20_000_000  # documents
RATES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08)  # share of the words that an edit replaces
NEAR = NearDuplicates(similarity=0.75, bands=24, rows=6, shingle=5)

PEER_CODE = """
import json, sys, time
from loguru import logger
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
logger.remove()
corpus, work = sys.argv[1:]
def reader():
    return JsonlReader(corpus, glob_pattern="*.jsonl")
next(MinhashDedupSignature(work + "/warm").get_shingles("the words are loaded before the clock runs").flat)
started = time.process_time()
MinhashDedupSignature(work + "/signatures").run(reader().run(), 0, 1)
for bucket in range(14):
    MinhashDedupBuckets(work + "/signatures", work + "/buckets").run(None, bucket, 14)
MinhashDedupCluster(work + "/buckets", work + "/remove").run(None, 0, 1)
kept = 0
with JsonlWriter(work + "/kept") as writer:
    for document in MinhashDedupFilter(work + "/remove").run(reader().run(), 0, 1):
        writer.write(document)
        kept += 1
print(json.dumps([time.process_time() - started, kept]))
"""


class Loads(Protocol):
    """Opens a file of JSON lines."""

    def __call__(self, path: Path) -> Any: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="speed, recall, cost, clusters")
    parser.add_argument("--megabytes", type=float, default=80, help="of the corpus for `speed` and `cost`")
    options = parser.parse_args()
    for part in options.parts or ("speed", "recall", "cost", "clusters"):
        {"speed": speed, "recall": lambda _: recall(), "cost": cost, "clusters": clusters}[part](options.megabytes)


def speed(megabytes: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = mixed_corpus(int(megabytes * 1e6))
        size = sum(len(text.encode()) for text in texts)
        before = collected(texts, folder)
        near(collected(texts[:100], folder / "warm"), folder / "warm")
        started = time.process_time()
        built = near(before, folder)
        ours = time.process_time() - started
        print(f"{size / 1e6:.0f} MB, {len(texts):,} documents")
        print(f"ours        {size / ours / 1e6:8.2f} MB/s  {ours:8.1f} s  {built.total('documents_out'):,} kept")
        (folder / "jsonl").mkdir()
        with (folder / "jsonl" / "corpus.jsonl").open("w", encoding="utf-8") as file:
            for number, text in enumerate(texts):
                file.write(json.dumps({"id": str(number), "text": text}) + "\n")
        if not PEER.exists():
            print("datatrove   not measured: make .venv-peers/installed")
            return
        words = [str(PEER), "-c", PEER_CODE, str(folder / "jsonl"), str(folder / "peer")]
        answer = subprocess.run(words, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise SystemExit(answer.stderr)
        theirs, kept = json.loads(answer.stdout.splitlines()[-1])
        print(f"datatrove   {size / theirs / 1e6:8.2f} MB/s  {theirs:8.1f} s  {kept:,} kept")
        print(f"ratio       {theirs / ours:8.1f}             (at least 15)")


def recall() -> None:
    corpora = {"edits at all rates": edited(400)}
    for name in ("mixed_en", "mixed_ja", "neardup_news_1000"):
        if (path := SHARED / "dirty" / f"{name}.jsonl").exists():
            corpora[name] = [record["text"] for record in records(path)]
    for name, texts in corpora.items():
        sets = [shingles(text) for text in texts]
        similar = alike(sets, 0.75)
        with tempfile.TemporaryDirectory() as folder:
            built = near(collected(texts, Path(folder)), Path(folder))
            rows = [row for file in built.dropped() for row in pq.read_table(file).to_pylist()]
        first = {int(row["id"]): int(row["survivor"]) for row in rows}
        wanted = [pair for pair, value in similar.items() if value >= 0.8]
        found = sum(first.get(one, one) == first.get(other, other) for one, other in wanted)
        nearest = {number: max((v for pair, v in similar.items() if number in pair), default=0.0) for number in first}
        right = sum(value >= 0.75 for value in nearest.values())
        print(
            f"{name:20} recall {found:5} of {len(wanted):5} pairs at .8 or more ({found / max(1, len(wanted)):7.2%})"
            f"   precision {right:4} of {len(first):4} dropped ({right / max(1, len(first)):7.2%})"
        )


def cost(megabytes: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus.jsonl"
        # In a process of its own, so that the memory of the stages is theirs alone.
        subprocess.run([*GENERATE, f"{megabytes}M", str(corpus)], check=True)
        source = Files(paths=[str(corpus)], text_field="text", unit="file", extractor="trafilatura")
        disk = Disk(folder / "stages")
        at = Workspace(folder, Serial(), disk)
        steps: list[tuple[str, Callable[[Built], Built]]] = [
            ("collect", lambda _: collect_sources({"files": source}, {}, Limits(10**8, 200.0, 0.01), None, at))
        ]
        recipe = yaml.safe_load((schema.configs_dir() / "data" / "recipe" / "minimal.yaml").read_text("utf-8"))
        for stage_name, part in recipe.items():
            steps.append((stage_name, partial(run_stage, stage_name, part, config.build(part), at=at)))
        steps.append(("shuffle", lambda built: place_documents(built, seed=1, workspace=at)))
        steps.append(
            ("train", lambda built: gather(built, "train", ALL_TRAINING, shard_bytes=32_000_000, workspace=at))
        )
        built = cast(Built, None)
        for step, work in steps:
            disk.most.clear()
            started = time.process_time()
            built = work(built)
            number = built.total("documents_in") or built.total("documents_out")
            seconds = (time.process_time() - started) / number
            text = built.total("bytes_out") / max(1, built.total("documents_out"))
            print(f"{step:18}{1e6 * seconds:6.0f} us of CPU  {PLANNED * seconds / 3600:5.1f} hours", end="")
            print(
                f"   {built.peak_memory / 1e6:4.0f} MB of memory   {number:,} documents of {text:,.0f} bytes behind it"
            )
            files = {"kept and dropped": on_disk(built) / number}
            files |= {f"{kind}, for a while": size / number for kind, size in sorted(disk.most.items()) if size}
            for kind, size in files.items():
                print(f"    {kind:22}{size:8.1f} bytes   {PLANNED * size / 1e9:6.1f} GB")


def clusters(_: float) -> None:
    """Links of near duplicates by chance among the documents that are planned: four fifths to one shortly before."""
    chance = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        reset_peak_memory()
        before, started, links = peak_memory(), time.process_time(), 0
        parents = own_parents(Path(name) / "parents", PLANNED)
        for _block in range(PLANNED // LINKS_AT_ONCE):
            other = chance.integers(1, PLANNED, LINKS_AT_ONCE)
            near_by = np.maximum(0, other - chance.integers(1, 1000, LINKS_AT_ONCE))
            one = np.where(chance.random(LINKS_AT_ONCE) < 0.8, near_by, chance.integers(0, PLANNED, LINKS_AT_ONCE))
            join(parents, one, other)
            links += LINKS_AT_ONCE
        firsts = sum(
            int((roots(parents, np.arange(start, start + 10**6)) == np.arange(start, start + 10**6)).sum())
            for start in range(0, PLANNED, 10**6)
        )
        print(
            f"clusters: {links:,} links among {PLANNED:,} documents, {firsts:,} are first, in "
            f"{time.process_time() - started:.0f} s, {(peak_memory() - before) / 1e6:.0f} MB of memory, "
            f"of which {8 * PLANNED / 1e6:.0f} MB are the mapped file"
        )


class Disk(Silent):
    """A watch that looks how large the sketches are, by kind of file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.most: dict[str, int] = {}

    def done(self, name: str, weight: int, records: Sequence[ShardRecord]) -> None:
        self.idle()

    def idle(self) -> None:
        sizes: dict[str, int] = {}
        for file in self.folder.glob("*/sketches/[!.]*"):
            kind = file.suffix.removeprefix(".") or file.name
            sizes[kind] = sizes.get(kind, 0) + file.stat().st_size
        for kind, size in sizes.items():
            self.most[kind] = max(size, self.most.get(kind, 0))


def on_disk(built: Built) -> int:
    return sum(file.stat().st_size for file in built.folder.rglob("*") if file.is_file())


def near(before: Built, folder: Path) -> Built:
    return run_stage("near_duplicates", {}, NEAR, before, Workspace(folder, Serial(), Silent()))


def collected(texts: Sequence[str], folder: Path) -> Built:
    """Texts as shards of documents whose ids are their numbers."""
    tasks: list[tuple[int, tuple[int, Sequence[str]]]] = []
    first, size = 0, 0
    for number, text in enumerate(texts):
        size += len(text.encode())
        if size >= SHARD or number == len(texts) - 1:
            tasks.append((size, (first, texts[first : number + 1])))
            first, size = number + 1, 0
    key = key_of(settings={"texts": len(texts)}, code=1)
    return build("corpus", key, Workspace(folder, Serial(), Silent()), tasks, shard)


def shard(task: tuple[int, Sequence[str]]) -> Iterator[Batch]:
    start, texts = task
    rows = [
        {"id": str(start + place), "text": text, "source": "bench", "source_id": "", "meta": "{}"}
        for place, text in enumerate(texts)
    ]
    table = pa.Table.from_pylist(rows, schema=DOCUMENT)
    yield Batch(table, None, len(texts), text_bytes(table), {})


def mixed_corpus(size: int) -> list[str]:
    """About `size` bytes of texts by chance, a tenth of them copies of earlier ones with edits."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [path for path in library.rglob("*.py") if "site-packages" not in path.parts]
    texts = [path.read_text("utf-8", errors="replace") for path in sorted(files)]
    for name in ("en/wiki_vital_summaries.jsonl", "ja/jawiki_jaquad.jsonl", "ja/jawiki_country_plain.jsonl"):
        if (path := SHARED / name).exists():
            texts += [record["text"] for record in records(path)]
    if (path := SHARED / "en" / "english_novels.jsonl.gz").exists():
        for record in records(path):
            text = record["text"]
            texts += [text[start : start + 3000] for start in range(0, len(text), 3000)]
    chance = random.Random(1)
    chance.shuffle(texts)
    made: list[str] = []
    for text in texts:
        made.append(text)
        size -= len(text.encode())
        if chance.random() < 0.1:
            made.append(edit(chance.choice(made[-1000:]), chance.choice(RATES), chance))
            size -= len(made[-1].encode())
        if size <= 0:
            break
    return made


def records(path: Path) -> Iterator[dict[str, Any]]:
    opener = cast(Loads, gzip.open if path.suffix == ".gz" else open)
    with opener(path) as file:
        for line in file:
            yield json.loads(line)


def edit(text: str, rate: float, chance: random.Random) -> str:
    """`text` with some of its words replaced; of Japanese, some of its characters."""
    pieces = text.split(" ") if text.count(" ") * 20 > len(text) else list(text)
    joint = " " if len(pieces) < len(text) else ""
    return joint.join(f"{piece}x" if chance.random() < rate else piece for piece in pieces)


def edited(families: int) -> list[str]:
    """Made-up texts of 10 to 2,000 words in groups of copies with edits at all rates, in an order by chance."""
    chance = random.Random(2)
    texts = []
    for _ in range(families):
        original = " ".join(f"w{chance.randrange(20_000)}" for _ in range(int(10 * 200 ** chance.random())))
        texts += [original, *(edit(original, chance.uniform(0, 0.06), chance) for _ in range(chance.randrange(1, 6)))]
    chance.shuffle(texts)
    return texts


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The five-word sequences of a text, as the stage defines them, without any hash."""
    found = words(text.lower()) or [text]
    size = min(5, len(found))
    return frozenset(tuple(found[place : place + size]) for place in range(len(found) - size + 1))


def alike(sets: list[frozenset[tuple[str, ...]]], least: float) -> dict[tuple[int, int], float]:
    """All pairs with a Jaccard similarity of at least `least`: every pair with a shingle in common is compared."""
    holders: dict[tuple[str, ...], list[int]] = {}
    for number, some in enumerate(sets):
        for phrase in some:
            holders.setdefault(phrase, []).append(number)
    pairs = {pair for group in holders.values() if len(group) > 1 for pair in combinations(group, 2)}
    found = {}
    for one, other in pairs:
        common = len(sets[one] & sets[other])
        value = common / (len(sets[one]) + len(sets[other]) - common)
        if value >= least:
            found[one, other] = value
    return found


if __name__ == "__main__":
    main()
