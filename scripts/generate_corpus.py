"""A corpus of any size for benchmarks: made-up words with natural frequencies, with copies and near copies among them.

    python scripts/generate_corpus.py 250M corpus.jsonl

Every 20th document is a copy of an earlier one, and every 20th one with a tenth word of each hundred replaced. The same
size and seed give the same bytes.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

VOCABULARY = 50_000
WORDS = 500  # a document, in the median
DRAWN = 1_000_000  # words drawn at once
REMEMBERED = 200  # documents that may be copied


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", help="bytes of text, such as 250M or 10G")
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    unit = {"k": 10**3, "M": 10**6, "G": 10**9}.get(options.size[-1], 1)
    size = int(float(options.size.rstrip("kMG")) * unit)
    with options.path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(documents(size, options.seed)):
            file.write(json.dumps({"id": number, "text": text}) + "\n")


def documents(size: int, seed: int = 1) -> Iterator[str]:
    """Texts of `size` bytes in all, about 3 kB each."""
    random = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    lengths = random.integers(2, 10, VOCABULARY)
    vocabulary = np.array(["".join(random.choice(letters, length)) for length in lengths], object)
    chances = 1 / np.arange(1, VOCABULARY + 1)  # Zipf's law
    bounds = np.cumsum(chances / chances.sum())[:-1]
    earlier: list[str] = []
    words: list[str] = []
    used, number = 0, 0
    while size > 0:
        count = int(random.lognormal(np.log(WORDS), 0.8)) + 20
        kind = number % 20
        if kind == 7 and earlier:
            text = earlier[int(random.integers(len(earlier)))]
        elif kind == 13 and earlier:
            copied = earlier[int(random.integers(len(earlier)))].split(" ")
            copied[50::100] = ["changed"] * len(copied[50::100])
            text = " ".join(copied)
        else:
            if len(words) < used + count:
                drawn = np.searchsorted(bounds, random.random(max(DRAWN, count)))
                words, used = vocabulary[drawn].tolist(), 0
            text = sentences(words[used : used + count])
            used += count
            earlier = [*earlier[-REMEMBERED:], text]
        number += 1
        size -= len(text)
        yield text


def sentences(words: list[str]) -> str:
    """Words in sentences of 15, five of them a line."""
    lines = [words[start : start + 75] for start in range(0, len(words), 75)]
    return "\n".join(
        " ".join(" ".join(line[start : start + 15]).capitalize() + "." for start in range(0, len(line), 15))
        for line in lines
    )


if __name__ == "__main__":
    main()
