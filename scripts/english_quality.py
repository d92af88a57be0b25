"""How much of what is bad the recipe english_web drops, and how much of what is good: labelled texts, and our own."""

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml  # type: ignore[import-untyped]  # it comes with OmegaConf
from filter_corpora import mostly_japanese, text_of, texts
from low_quality import variants

from pretrain import config
from pretrain.data.documents import DOCUMENT

RECIPE = Path(__file__).parents[1] / "configs" / "data" / "recipe" / "english_web.yaml"
EACH = 60  # variants of a kind
GOOD = {
    "encyclopaedia leads": "en/wiki_vital_summaries.jsonl",
    "news": "dirty/neardup_news_1000.jsonl",
    "web articles": "web/article_extraction.jsonl.gz",
    "passages of BoolQ": "eval/boolq.jsonl",
}


def show_english(data: Path) -> None:
    stages = [(name, stage) for name, stage in recipe() if callable(stage) and "duplicates" not in name]
    labelled(data, stages)
    good = {name: rows(data / file) for name, file in GOOD.items()}
    good["passages of BoolQ"] = [
        re.sub(r"^Passage: |\nQuestion:.*", "", text, flags=re.S) for text in good["passages of BoolQ"]
    ]
    good["web articles"] = [text for text in good["web articles"] if " the " in text]  # three are in other languages
    good["novels, 2,000 characters each"] = [
        part for text in rows(data / "en/english_novels.jsonl.gz")[3::7] for part in paragraphs(text, 2000)[:300]
    ]
    good["wikitext2"] = [
        part
        for part in re.split(r"\n = [^=].* = \n", (data / "en/wikitext2_valid.txt").read_text("utf-8"))
        if len(part) > 300
    ]
    for name, documents in good.items():
        shown(f"good: {name}", documents, stages)
    chance = random.Random(7)
    foreign = [
        text for text in texts(data / "web" / "trafilatura_pages.warc.gz") if " the " not in text and len(text) > 300
    ]
    foreign += [text for text in rows(data / "ja" / "jawiki_jaquad.jsonl")[:20] if mostly_japanese(text)]
    for name, documents in good.items():
        sources = [text for text in documents if 55 <= len(text.split()) <= 400]
        if len(sources) < 100:
            continue
        missed = Counter[str]()
        total = 0
        for kind, made in variants(sources, foreign, EACH, chance.randrange(1000)).items():
            total += len(made)
            missed[kind] = len(made) - len(judged(made, stages))
        caught = 1 - missed.total() / total
        print(f"made from {name}: {total} bad documents of 13 kinds, {caught:.2%} dropped; missed {dict(+missed)}")


def labelled(data: Path, stages: Sequence[tuple[str, Any]]) -> None:
    labels = [
        set(json.loads(line)["labels"]) for line in (data / "dirty" / "mixed_en.truth.jsonl").open(encoding="utf-8")
    ]
    documents = rows(data / "dirty" / "mixed_en.jsonl")
    gone = judged(documents, stages)
    low = {place for place, kinds in enumerate(labels) if "low_quality" in kinds}
    print(
        f"mixed_en: {len(low & gone.keys())} of {len(low)} low-quality documents dropped, "
        f"{len(low & gone.keys()) / len(low):.2%}"
    )
    missed = Counter(kind for place in low - gone.keys() for kind in labels[place] - {"low_quality"})
    plain = sum(documents[place].isascii() for place in low - gone.keys())
    print(f"  missed: {dict(missed)}, {plain} of them in plain ASCII")
    for kind in sorted(set().union(*(labels[place] for place in range(len(labels)) if place not in low))):
        there = {place for place, kinds in enumerate(labels) if kind in kinds}
        print(
            f"  {kind}: {len(there & gone.keys())} of {len(there)} dropped, {len(there & gone.keys()) / len(there):.2%}"
        )


def shown(name: str, documents: Sequence[str], stages: Sequence[tuple[str, Any]]) -> None:
    gone = judged(documents, stages)
    why = Counter(gone.values()).most_common(4)
    print(f"{name}: {len(gone)} of {len(documents)} dropped, {len(gone) / max(len(documents), 1):.2%} {why}")


def judged(documents: Sequence[str], stages: Sequence[tuple[str, Any]]) -> dict[int, str]:
    """The documents that are dropped, by number, and the stage and rule that did it."""
    ids = [str(number) for number in range(len(documents))]
    table = pa.table([ids, list(documents), *[[""] * len(ids)] * 3], schema=DOCUMENT)
    gone: dict[int, str] = {}
    for name, stage in stages:
        output = stage(table)
        table = output.kept
        for number, rule in zip(output.dropped["id"].to_pylist(), output.dropped["rule"].to_pylist(), strict=True):
            gone[int(number)] = f"{name}.{rule}"
    return gone


def recipe() -> list[tuple[str, Any]]:
    parts = yaml.safe_load(RECIPE.read_text("utf-8"))
    return [(name, config.build(config.Part(part))) for name, part in parts.items()]


def rows(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [text_of(json.loads(line)) for line in file]


def paragraphs(text: str, size: int) -> list[str]:
    """A text in parts of `size` characters or a little more, each some whole paragraphs."""
    parts, part = [], ""
    for paragraph in re.split(r"\n\s*\n", text):
        part += ("\n\n" if part else "") + paragraph
        if len(part) >= size:
            parts.append(part)
            part = ""
    return parts
