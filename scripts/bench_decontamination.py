"""Decontamination against datatrove's n-gram filter over the same text; and what is found of planted items, or falsely.

    python scripts/bench_decontamination.py [FOLDER]

FOLDER holds evaluation sets in eval/*.jsonl, and corpora in en/ and ja/ as JSON lines or gzip of them.
"""

import gzip
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pretrain.data.decontamination import Decontaminate
from pretrain.data.documents import DOCUMENT
from pretrain.data.evaluation_items import content_of, evaluation_files, items_of
from pretrain.data.word_sequences import WORD, Words

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT.parent / "shared" / "data"
PEER = ROOT / ".venv-peers" / "bin" / "python"
MAKE_PEER = "python -m venv .venv-peers && .venv-peers/bin/pip install -r scripts/peers.txt"
ROUNDS = 3
AT_ONCE = 1000  # documents in a batch
TIMED = 2_000_000  # bytes of text that both sides read
SHORTEST = 8
CORPORA = ("en/english_novels.jsonl.gz", "en/wiki_vital_summaries.jsonl", "ja/jawiki_jaquad.jsonl")

# datatrove's own indexer takes evaluation tasks from the hub; here its index is made of the same items as ours.
PEER_CODE = """
import json, sys, tempfile, time
from pathlib import Path
import numpy as np
from loguru import logger
logger.remove()
from datatrove.data import Document
from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter, NGramsDecontIndexer
from datatrove.utils.text import ngrams, simplify_text
texts, strings = json.loads(Path(sys.argv[1]).read_text())
config = NGramsDecontConfig(n_grams=13)
with tempfile.TemporaryDirectory() as folder:
    stage = NGramsDecontFilter(folder, config=config)
    hashes = set()
    for string in strings:
        tokens = stage.tokenizer.word_tokenize(simplify_text(string, config.norm_config))
        hashes.update(stage.hash_func(" ".join(gram)) for gram in ngrams(tokens, 13))
    np.array(sorted(hashes), dtype=config.hash_config.np_descr).tofile(Path(folder) / "sets.index.hashes")
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    stage.filter(documents[0])
    started = time.process_time()
    dropped = [document.id for document in documents if stage.filter(document) is not True]
    print(json.dumps([time.process_time() - started, dropped]))
"""


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES
    if not (folder / "eval").is_dir():
        raise SystemExit(f"{folder} holds no folder eval; name one: python scripts/bench_decontamination.py FOLDER")
    started = time.process_time()
    stage = Decontaminate(paths=[str(folder / "eval")], fields=None, ngram=13, shortest=SHORTEST, max_ngrams=0)
    print(f"index of {len(list((folder / 'eval').iterdir()))} files: {time.process_time() - started:.1f} s of CPU")
    corpora = {name: read(folder / name) for name in CORPORA if (folder / name).is_file()}
    for name, texts in corpora.items():
        show_found(stage, name, texts)
    strings = [
        (item.name, string)
        for file in evaluation_files([str(folder / "eval")])
        for item in items_of(file, content_of(file), None)
        for string in item.strings
    ]
    hosts = [text[:3000] for texts in corpora.values() for text in texts]
    show_recall(stage, [string for _, string in strings], hosts)
    for name, texts in corpora.items():
        show_speed(stage, name, texts, [string for _, string in strings])


def show_found(stage: Decontaminate, name: str, texts: list[str]) -> None:
    """What is dropped of a corpus in which nothing is planted, with the reasons; some of it is real."""
    reasons = [reason for some in batches(texts) for reason in stage(some).dropped["reason"].to_pylist()]
    print(f"{name}: {len(reasons)} of {len(texts):,} documents dropped")
    for reason in reasons[:5]:
        print(f"    {reason[:150]}")


def show_recall(stage: Decontaminate, strings: list[str], hosts: list[str]) -> None:
    """How many strings are found, each planted in a document by chance, with its spaces and case changed."""
    lengths = Words.of(strings).lengths(len(strings)) / WORD
    for least, most in ((13, np.inf), (SHORTEST, 13)):
        chosen = [string for string, length in zip(strings, lengths, strict=True) if least <= length < most]
        random_ = random.Random(1)
        planted = []
        for string in chosen:
            host = random_.choice(hosts)
            at = random_.randrange(len(host) + 1)
            planted.append(f"{host[:at]} {changed(string, random_)} {host[at:]}")
        found = sum(len(stage(some).dropped) for some in batches(planted))
        upper = f"up to {most:.0f}" if most < np.inf else "more"
        print(f"planted strings of {least} words or {upper}: {found:,} of {len(chosen):,} found")
    print(f"shorter than {SHORTEST} words, looked for only with others of their item: {(lengths < SHORTEST).sum():,}")


def changed(text: str, random_: random.Random) -> str:
    """`text` in another case, with other spaces, and more punctuation."""
    text = random_.choice([text, text.upper(), text.lower(), text.title()])
    return random_.choice(["\n", "  ", " - ", ", "]).join(text.split(" "))


def show_speed(stage: Decontaminate, name: str, texts: list[str], strings: list[str]) -> None:
    pieces = [text[start : start + 4000] for text in texts for start in range(0, len(text), 4000)]
    random.Random(1).shuffle(pieces)
    sizes = np.cumsum([len(piece.encode()) for piece in pieces])
    some = pieces[: int(np.searchsorted(sizes, TIMED)) + 1]
    megabytes = sum(len(piece.encode()) for piece in some) / 1e6
    tables = list(batches(some))
    ours, theirs = [], []
    for _ in range(ROUNDS):
        started = time.process_time()
        dropped = [name for table in tables for name in stage(table).dropped["id"].to_pylist()]
        ours.append(time.process_time() - started)
        if PEER.is_file():
            seconds, peers = measured_peer(some, strings)
            theirs.append(seconds)
    print(f"{name}, {megabytes:.1f} MB: {megabytes / statistics.median(ours):.1f} MB/s, {len(dropped)} dropped")
    if not theirs:
        print(f"datatrove: not measured; make its environment by: {MAKE_PEER}")
        return
    ratio = statistics.median(their / our for their, our in zip(theirs, ours, strict=True))
    print(
        f"    datatrove {megabytes / statistics.median(theirs):.2f} MB/s, {len(peers)} dropped; "
        f"it takes {ratio:.1f} times as long"
    )


def measured_peer(texts: list[str], strings: list[str]) -> tuple[float, list[str]]:
    """Seconds of CPU that datatrove's filter takes, warm, and the documents that it drops."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([texts, strings], file)
        file.flush()
        words = [str(PEER), "-c", PEER_CODE, file.name]
        seconds, dropped = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return seconds, dropped


def batches(texts: list[str]) -> list[pa.Table]:
    return [table(texts[start : start + AT_ONCE], start) for start in range(0, len(texts), AT_ONCE)]


def table(texts: list[str], start: int) -> pa.Table:
    names = [str(start + number) for number in range(len(texts))]
    return pa.table({name: texts if name == "text" else names for name in DOCUMENT.names}, schema=DOCUMENT)


def read(path: Path) -> list[str]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line)["text"] for line in content.decode().split("\n") if line]


if __name__ == "__main__":
    main()
