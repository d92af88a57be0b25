"""Reading a web crawl against datatrove's, with the same extractor on both sides, and how good the extractors are.

python scripts/bench_web.py [WARC_FILE [FOLDER_WITH_GOLD_TEXTS]]
"""

import gzip
import io
import json
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from pretrain.data.sources.extraction import Extractor, decoded_page, html_text, main_text
from pretrain.data.sources.http_message import decoded_body, parsed
from pretrain.data.sources.reading import Limits, Record, SourceFile
from pretrain.data.sources.streams import opened
from pretrain.data.sources.warc import ArchiveRecord, archive_records
from pretrain.data.sources.web import WebCrawl

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT.parent / "shared" / "data" / "web"
PEER = ROOT / ".venv-peers" / "bin" / "python"
MAKE_PEER = "python -m venv .venv-peers && .venv-peers/bin/pip install -r scripts/peers.txt"
LIMITS = Limits(document_bytes=10_000_000, expansion=1000.0, replaced=0.1)
ROUNDS = 3
EXTRACTORS: tuple[Extractor, ...] = ("trafilatura", "resiliparse")

RATIOS = (
    ("ours, trafilatura", "datatrove, trafilatura"),
    ("ours, trafilatura", "datatrove, trafilatura, no process of its own"),
    ("ours, resiliparse", "datatrove, trafilatura"),
    ("ours, reading alone", "datatrove, reading alone"),
)

# datatrove calls the extractor in a process of its own, to end it when it hangs; measured with it and without.
PEER_CODE = """
import json, sys, time
from pathlib import Path
from loguru import logger
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import WarcReader
logger.remove()
path = Path(sys.argv[1]).absolute()
def run(sandbox):
    reader = WarcReader(str(path.parent), glob_pattern=path.name)
    extractor = Trafilatura(favour_precision=True, deduplicate=False, timeout=60)
    started = time.perf_counter()
    if sandbox:
        documents = sum(1 for _ in extractor.run(reader.run()))
    else:
        documents = sum(bool(extractor.extract(page.text)) for page in reader.run())
    return time.perf_counter() - started, documents
def read():
    started = time.perf_counter()
    documents = sum(1 for _ in WarcReader(str(path.parent), glob_pattern=path.name).run())
    return time.perf_counter() - started, documents
run(False)
print(json.dumps({
    "datatrove, trafilatura": run(True),
    "datatrove, trafilatura, no process of its own": run(False),
    "datatrove, reading alone": read(),
}))
"""


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES / "trafilatura_pages.warc.gz"
    gold = Path(sys.argv[2]) if len(sys.argv) > 2 else SAMPLES
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; name a WARC file: python scripts/bench_web.py FILE")
    if gold.is_dir():
        show_quality(gold)
    else:
        print(f"quality: not measured, {gold} does not exist")
    show_speed(path)


def show_speed(path: Path) -> None:
    peer = PEER.is_file()
    if not peer:
        print(f"datatrove: not measured; make its environment by: {MAKE_PEER}")
    rounds: list[dict[str, tuple[float, int]]] = []
    for extractor in EXTRACTORS:
        read(path, extractor)  # imports, caches
    for _ in range(ROUNDS):
        measured = {f"ours, {extractor}": read(path, extractor) for extractor in EXTRACTORS}
        measured["ours, reading alone"] = read_alone(path)
        if peer:
            words = [str(PEER), "-c", PEER_CODE, str(path)]
            measured |= json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        rounds.append(measured)
    megabytes = path.stat().st_size / 1e6
    seconds = {name: statistics.median(measured[name][0] for measured in rounds) for name in rounds[0]}
    print(f"\n{path.name}: {megabytes:.2f} MB compressed, medians of {ROUNDS}")
    for name, taken in seconds.items():
        documents = rounds[0][name][1]
        speed = f"{documents / taken:8.1f} documents/s {megabytes / taken:7.2f} MB/s"
        print(f"{name:46} {documents:6} documents {taken:7.3f} s {speed}")
    if peer:
        for ours, theirs in RATIOS:
            print(f"{theirs} takes {seconds[theirs] / seconds[ours]:.2f} times as long as {ours}")


def read(path: Path, extractor: Extractor) -> tuple[float, int]:
    """Seconds to read a file, and its documents."""
    source = WebCrawl(paths=[], extractor=extractor)
    file = SourceFile(path.name, str(path), path.stat().st_size)
    started = time.perf_counter()
    documents = sum(isinstance(item, Record) for item in source.read(file, LIMITS))
    return time.perf_counter() - started, documents


def read_alone(path: Path) -> tuple[float, int]:
    """Seconds to read a file and decode its pages, without an extractor, and the pages."""
    pages = 0
    started = time.perf_counter()
    with opened(SourceFile(path.name, str(path), path.stat().st_size), LIMITS) as stream:
        for record in archive_records(stream, LIMITS.document_bytes):
            if isinstance(record, ArchiveRecord) and record.kind == "response" and record.body.startswith(b"HTTP"):
                response = parsed(record.body)
                if response.status == 200 and "html" in response.headers.get("content-type", ""):
                    body = decoded_body(response.headers, response.body, LIMITS.document_bytes, LIMITS)
                    pages += bool(decoded_page(body, None)[0])
    return time.perf_counter() - started, pages


def show_quality(folder: Path) -> None:
    """Both extractors, and options that were not taken, on texts that people marked."""
    lines = gzip.decompress((folder / "article_extraction.jsonl.gz").read_bytes()).splitlines()
    articles = [json.loads(line) for line in lines]
    marked = [json.loads(line) for line in (folder / "trafilatura_gold.jsonl").read_text("utf-8").splitlines()]
    pages = dict(zip((row["id"] for row in marked), html_pages(folder / "trafilatura_pages.warc.gz"), strict=True))
    size = sum(len(row["html"].encode()) for row in articles) + sum(len(page.encode()) for page in pages.values())
    print(f"{len(articles)} whole articles and {len(pages)} pages with marked segments")
    print(f"{'':42} articles: F1  precision  recall | segments: F1  precision  recall  accuracy")
    for name, extract in extractors().items():
        for page in pages.values():  # imports, caches
            extract(page)
        started = time.perf_counter()
        texts = [extract(row["html"]) for row in articles]
        outcomes = Counter[str]()
        for row in marked:
            outcomes += segments(row, extract(pages[row["id"]]))
        seconds = time.perf_counter() - started
        whole = shares(articles, texts)
        right = outcomes["true positive"] + outcomes["true negative"]
        print(
            f"{name:42} {scores(whole)} | {scores(outcomes)}  {right / outcomes.total():.3f}"
            f"   {(len(articles) + len(pages)) / seconds:5.0f} pages/s {size / seconds / 1e6:5.1f} MB/s"
        )


def html_pages(path: Path) -> Iterator[str]:
    with gzip.open(path) as stream:
        for record in archive_records(cast(BinaryIO, io.BufferedReader(cast(Any, stream))), LIMITS.document_bytes):
            if isinstance(record, ArchiveRecord) and record.kind == "response":
                yield record.body.partition(b"\r\n\r\n")[2].decode("utf-8", "replace")


def extractors() -> dict[str, Callable[[str], str]]:
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text

    def by_trafilatura(**options: Any) -> Callable[[str], str]:
        return lambda html: trafilatura.extract(html, **options) or ""

    def by_resiliparse(**options: Any) -> Callable[[str], str]:
        return lambda html: extract_plain_text(html, preserve_formatting=True, **options)

    return {
        "trafilatura (ours)": lambda html: main_text(html, "trafilatura"),
        "trafilatura, no option": by_trafilatura(),
        "trafilatura, no comments": by_trafilatura(include_comments=False),
        "trafilatura, no comments, fast": by_trafilatura(include_comments=False, fast=True),
        "trafilatura, no comments, recall": by_trafilatura(include_comments=False, favor_recall=True),
        "trafilatura, no comments, precision, fast": by_trafilatura(
            include_comments=False, favor_precision=True, fast=True
        ),
        "resiliparse (ours)": lambda html: main_text(html, "resiliparse"),
        "resiliparse, main content": by_resiliparse(main_content=True),
        "resiliparse, no comments": by_resiliparse(main_content=True, comments=False),
        "resiliparse, all text": by_resiliparse(),
        "html_text of bytes, trafilatura": lambda html: html_text(html.encode(), None, "trafilatura"),
    }


def shares(articles: list[dict[str, str]], texts: list[str]) -> Counter[str]:
    """Shingles of four words in both, in the extracted text only, and in the marked one only; each article counts one.

    https://github.com/scrapinghub/article-extraction-benchmark
    """
    total = Counter[str]()
    for row, text in zip(articles, texts, strict=True):
        marked, found = shingles(row["text"]), shingles(text)
        both = (marked & found).total()
        every = marked.total() + found.total() - both
        total["true positive"] += both / every  # type: ignore[assignment]  # shares, not numbers
        total["false positive"] += (found.total() - both) / every  # type: ignore[assignment]
        total["false negative"] += (marked.total() - both) / every  # type: ignore[assignment]
    return total


def shingles(text: str, size: int = 4) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[at : at + size]) for at in range(max(min(1, len(words)), len(words) - size + 1)))


def segments(row: dict[str, Any], text: str) -> Counter[str]:
    """Marked segments that are in the text, or not, as they should."""
    text = " ".join(text.split())
    outcomes = Counter[str]()
    for key, names in (("with", ("true positive", "false negative")), ("without", ("false positive", "true negative"))):
        for segment in row[key]:
            outcomes[names[" ".join(segment.split()) not in text]] += 1
    return outcomes


def scores(outcomes: Counter[str]) -> str:
    """F1, precision and recall."""
    right = outcomes["true positive"]
    precision = right / (right + outcomes["false positive"])
    recall = right / (right + outcomes["false negative"])
    return f"{2 * precision * recall / (precision + recall):12.3f}  {precision:9.3f}  {recall:6.3f}"


if __name__ == "__main__":
    main()
