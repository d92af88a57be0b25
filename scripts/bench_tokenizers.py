"""Tokenizers and token shards against datatrove's and the library `tokenizers` alone, one core, in one run.

python scripts/bench_tokenizers.py [TEXTS.jsonl ...]

Without files: Python's standard library, and what of ../shared/data is there. transformers must give the same ids.
"""

import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from pretrain.data.collect import collect_sources
from pretrain.data.executors import Serial
from pretrain.data.shards import read_manifest
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits
from pretrain.data.stages import Silent, Workspace
from pretrain.data.tokenizing import write_shards
from pretrain.tokenizers.bpe import BytePairEncoding
from pretrain.tokenizers.characters import Characters
from pretrain.tokenizers.loading import load
from pretrain.tokenizers.splitting import SplittingName
from pretrain.tokenizers.tokenizer import END_OF_TEXT, Tokenizer
from pretrain.tokenizers.unigram import Unigram

ROOT = Path(__file__).parents[1]
SPLITTINGS: tuple[SplittingName, ...] = ("gpt2", "gpt4", "scripts")
SHARED = ROOT.parent / "shared" / "data"
PEER = ROOT / ".venv-peers" / "bin" / "python"
LIMITS = Limits(document_bytes=64_000_000, expansion=200.0, replaced=0.01)
VOCABULARY = 32_000
ROUNDS = 3
PART = 20_000  # characters of a novel that are one document
PROBES = ["It's 12345 tests.\n\n  x", "吾輩は猫である。カタカナ", "🙂 e\u0301 naïve", "<0x41> <|endoftext|>", ""]

DATATROVE = """
import json, sys, time
from pathlib import Path
from loguru import logger
logger.remove()
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
corpus, tokenizer, out = map(Path, sys.argv[1:4])
started = time.perf_counter()
documents = JsonlReader(str(corpus.parent), glob_pattern=corpus.name).run()
DocumentTokenizer(str(out), tokenizer_name_or_path=str(tokenizer), eos_token="<|endoftext|>",
                  shuffle_documents=False, save_final_metadata=False, batch_size=1000).run(documents)
print(json.dumps(time.perf_counter() - started))
"""

TRANSFORMERS = """
import json, sys
from transformers import PreTrainedTokenizerFast
tokenizer = PreTrainedTokenizerFast(tokenizer_file=sys.argv[1])
print(json.dumps([tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
                  for text in json.load(sys.stdin)]))
"""


def main() -> None:
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    texts = [text for name in sys.argv[1:] for text in read_texts(Path(name))] or corpus()
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {size:.1f} MB, one core, medians of {ROUNDS}")
    with tempfile.TemporaryDirectory() as folder:
        file = training(texts, size, Path(folder))
        shards(texts, size, file, Path(folder))
        characters(texts, size, Path(folder))
        same_ids(texts, Path(folder))


def corpus() -> list[str]:
    """A third of Python's standard library; English novels in parts, Japanese and English Wikipedia."""
    library = Path(os.__file__).parent.rglob("*.py")
    paths = [path for path in sorted(library) if "site-packages" not in path.parts][::3]
    texts = [path.read_text("utf-8", "replace") for path in paths]
    novels = SHARED / "en" / "english_novels.jsonl.gz"
    if novels.exists():
        whole = "".join(read_texts(novels))[:8_000_000]
        texts += [whole[start : start + PART] for start in range(0, len(whole), PART)]
    for path in (SHARED / "ja" / "jawiki_lecture_like.jsonl", SHARED / "en" / "wiki_vital_summaries.jsonl"):
        texts += read_texts(path) if path.exists() else []
    return texts


def read_texts(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def training(texts: list[str], size: float, folder: Path) -> Path:
    """Byte-pair encoding learned by both, and our file."""
    file = folder / "tokenizer.json"

    def ours() -> None:
        BytePairEncoding(vocab_size=VOCABULARY, splitting="gpt2", sample_bytes=10**9).train(texts).save(file)

    def alone() -> None:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=VOCABULARY, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
            ),
        )

    first, second = timed(ours), timed(alone)
    print(
        f"train {VOCABULARY:,} tokens: ours {first:.1f} s, tokenizers alone {second:.1f} s, {second / first:.2f} times"
    )
    return file


def shards(texts: list[str], size: float, tokenizer: Path, folder: Path) -> None:
    """JSON lines to token shards, both sides with the same tokenizer.json."""
    lines = folder / "corpus" / "corpus.jsonl"
    lines.parent.mkdir()
    with lines.open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
    source = Files(paths=[str(lines)], text_field="text", unit="file", extractor="trafilatura")

    def ours() -> Path:
        at = Workspace(Path(tempfile.mkdtemp(dir=folder)), Serial(), Silent())
        collected = collect_sources({"files": source}, {}, LIMITS, None, at)
        return write_shards(tokenizer, {"train": collected}, at)

    def theirs() -> float:
        out = Path(tempfile.mkdtemp(dir=folder))
        return float(peer(DATATROVE, str(lines), str(tokenizer), str(out)))

    first = statistics.median(timed(ours) for _ in range(ROUNDS))
    second = statistics.median(theirs() for _ in range(ROUNDS))
    print(f"token shards: ours {size / first:.1f} MB/s, datatrove {size / second:.2f} MB/s, {second / first:.1f} times")
    print(f"  same ids: {stream(ours(), tokenizer) == peer_stream(folder, lines, tokenizer)}")


def stream(folder: Path, tokenizer: Path) -> list[bytes]:
    """The ids of each document in our shards, in the order of their bytes."""
    manifest = read_manifest(folder)
    parts = [np.fromfile(folder / shard["file"], manifest["dtype"]) for shard in manifest["splits"]["train"]]
    return divided(np.concatenate(parts), load(tokenizer).end_of_text)


def peer_stream(folder: Path, lines: Path, tokenizer: Path) -> list[bytes]:
    out = Path(tempfile.mkdtemp(dir=folder))
    peer(DATATROVE, str(lines), str(tokenizer), str(out))
    parts = [np.fromfile(path, np.uint16) for path in sorted(out.glob("*.ds"))]
    return divided(np.concatenate(parts), load(tokenizer).end_of_text)


def divided(ids: np.ndarray, end_of_text: int) -> list[bytes]:
    documents = np.split(ids, np.flatnonzero(ids == end_of_text))
    found = (document[document != end_of_text].tobytes() for document in documents)
    return sorted(document for document in found if document)


def characters(texts: list[str], size: float, folder: Path) -> None:
    tokenizer = Characters(min_count=1, sample_bytes=10**9).train(texts)
    tokenizer.save(folder / "characters.json")
    library = tokenizers.Tokenizer.from_file(str(folder / "characters.json"))
    first = statistics.median(timed(lambda: batches(tokenizer.encode_batch, texts)) for _ in range(ROUNDS))
    second = statistics.median(timed(lambda: batches(library.encode_batch_fast, texts)) for _ in range(ROUNDS))
    print(f"characters: ours {size / first:.0f} MB/s, tokenizers {size / second:.1f} MB/s, {second / first:.0f} times")


def batches(encode: Callable[[list[str]], object], texts: list[str]) -> None:
    for start in range(0, len(texts), 256):
        encode(texts[start : start + 256])


def same_ids(texts: list[str], folder: Path) -> None:
    """Whether transformers gives the ids that each kind of ours gives."""
    sample = [*PROBES, *texts[:: len(texts) // 200 + 1]]
    part = texts[:: len(texts) // 500 + 1]
    kinds: dict[str, Tokenizer] = {
        "char": Characters(min_count=2, sample_bytes=10**9).train(part),
        "unigram": Unigram(
            vocab_size=4096, splitting="gpt2", character_coverage=0.999, max_piece_length=16, sample_bytes=10**7
        ).train(part),
        **{
            f"bpe {splitting}": BytePairEncoding(vocab_size=4096, splitting=splitting, sample_bytes=10**7).train(part)
            for splitting in SPLITTINGS
        },
    }
    for name, tokenizer in kinds.items():
        tokenizer.save(folder / "same.json")
        theirs = json.loads(peer(TRANSFORMERS, str(folder / "same.json"), sent=json.dumps(sample)))
        same = theirs == [ids.tolist() for ids in tokenizer.encode_batch(sample)]
        measured = sum(len(text.encode()) for text in sample) / sum(map(len, theirs))
        print(f"transformers reads {name}: same ids {same}, {measured:.2f} bytes a token")


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peer(code: str, *words: str, sent: str = "") -> str:
    done = subprocess.run([PEER, "-c", code, *words], input=sent, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
