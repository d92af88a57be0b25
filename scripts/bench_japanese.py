"""Japanese rules against HojiChar's, on one core: speed, and what either side drops of good prose.

python scripts/bench_japanese.py [JSONL_FILE ...]
"""

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa

from pretrain.data.documents import DOCUMENT
from pretrain.data.filters.japanese import Japanese

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT.parent / "shared" / "data" / "ja"
PEER = ROOT / ".venv-peers" / "bin" / "python"
MAKE_PEER = "python -m venv .venv-peers && .venv-peers/bin/pip install -r scripts/peers.txt"
ROUNDS = 3
ROWS = 200  # documents in a batch

# The 13 filters of HojiChar that judge a document by rules, at its thresholds. `all` runs every filter on every
# document; `as used` skips, as HojiChar does, what is already rejected.
PEER_CODE = """
import json, sys, time
from importlib.metadata import version
from pathlib import Path
import hojichar
from hojichar import document_filters as f
from hojichar.core.models import Document
def filters(skip):
    made = [
        f.DocumentLengthFilter(min_doc_len=20), f.AcceptJapanese(), f.DiscardAdultContentJa(),
        f.DiscardDiscriminationContentJa(), f.DiscardViolenceContentJa(), f.DiscardBBSComments(), f.DiscardAds(),
        f.DiscardRareKuten(max_average_sentence_length=250), f.CharRepetitionRatioFilter(),
        f.DiscardTooManySpecialToken(), f.SingleCharacterRepetitionFilter(), f.DiscardTooManyEndingEllipsis(),
        f.DiscardTooShortLines(),
    ]
    for filter in made:
        filter.skip_rejected = skip
    return hojichar.Compose(made)
texts = [json.loads(line)["text"] for name in sys.argv[1:] for line in Path(name).read_bytes().splitlines()]
found = {"words": str(Path(hojichar.__path__[0]) / "dict"), "version": version("hojichar")}
for name, skip in (("HojiChar, all", False), ("HojiChar, as used", True)):
    compose = filters(skip)
    documents = [Document(text) for text in texts]
    started = time.process_time()
    kept = [not compose.apply(document).is_rejected for document in documents]
    found[name] = (time.process_time() - started, kept.count(False))
print(json.dumps(found))
"""


def main() -> None:
    paths = [SAMPLES / "jawiki_jaquad.jsonl", SAMPLES / "jawiki_lecture_like.jsonl"]
    if len(sys.argv) > 1:
        paths = [Path(name) for name in sys.argv[1:]]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise SystemExit(f"{missing[0]} does not exist; name JSONL files: python scripts/bench_japanese.py FILE ...")
    if not PEER.is_file():
        raise SystemExit(f"HojiChar is not there; make its environment by: {MAKE_PEER}")
    texts = [json.loads(line)["text"] for path in paths for line in path.read_bytes().splitlines()]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    rounds: list[dict[str, tuple[float, int]]] = []
    reasons: Counter[str] = Counter()
    for _ in range(ROUNDS):
        command = [str(PEER), "-c", PEER_CODE, *map(str, paths)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        words, version = Path(found.pop("words")), found.pop("version")
        found["ours"], reasons = ours(texts, words)
        rounds.append(found)
    print(f"{len(texts)} documents, {megabytes:.2f} MB, HojiChar {version}, medians of {ROUNDS}, seconds of one core")
    seconds = {name: statistics.median(measured[name][0] for measured in rounds) for name in rounds[0]}
    for name, taken in seconds.items():
        dropped = rounds[0][name][1]
        share = f"{dropped} dropped ({dropped / len(texts):.2%})"
        print(f"{name:20} {taken:7.3f} s {megabytes / taken:7.2f} MB/s  {share}")
    print(f"ours drops: {dict(reasons)}")
    for name in ("HojiChar, all", "HojiChar, as used"):
        ratios = [measured[name][0] / measured["ours"][0] for measured in rounds]
        median = statistics.median(ratios)
        print(f"{name} takes {median:.1f} times as long as ours ({min(ratios):.1f} to {max(ratios):.1f})")


def ours(texts: list[str], words: Path) -> tuple[tuple[float, int], Counter[str]]:
    """Seconds of the processor for all our rules, with HojiChar's word lists, and how many documents each drops."""
    stage = Japanese(
        min_characters=20,
        max_characters=1_000_000,
        min_kana=0.1,
        max_symbols=0.4,
        max_mojibake=0.01,
        max_markup=0.03,
        max_character_run=200,
        max_runs=0.1,
        max_sentence=250,
        max_short_lines=0.5,
        max_ellipsis_lines=0.3,
        advertisement_words=str(words / "advertisement_keywords_ja.txt"),
        max_advertisement=0.1,
        header_footer_words=str(words / "header_footer_keywords_ja.txt"),
        max_header_footer=0.2,
        adult_words=str(words / "adult_keywords_ja.txt"),
        max_adult=0.1,
        discrimination_words=str(words / "discrimination_keywords_ja.txt"),
        max_discrimination=0.1,
        violence_words=str(words / "violence_keywords_ja.txt"),
        max_violence=0.1,
        function_words="function_ja",
        min_function_words=0.04,
        max_impossible_pairs=0.02,
        min_compression=0.25,
        max_compression=0.8,
        max_repetition=0.33,
        min_order=2.5,
    )
    rows = [{"id": str(n), "text": text, "source": "", "source_id": "", "meta": "{}"} for n, text in enumerate(texts)]
    table = pa.Table.from_pylist(rows, schema=DOCUMENT)
    stage(table.slice(0, 1))  # tables of characters
    reasons: Counter[str] = Counter()
    started = time.process_time()
    for start in range(0, len(table), ROWS):
        reasons.update(stage(table.slice(start, ROWS)).dropped["rule"].to_pylist())
    return (time.process_time() - started, reasons.total()), reasons


if __name__ == "__main__":
    main()
