"""No training document is a near duplicate of a validation text: by brute force over all pairs."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretrain import cli
from pretrain.data.dedup.near import NearDuplicates
from pretrain.data.executors import Serial
from pretrain.data.leaks import Leaks, drop_leaks
from pretrain.data.stages import Silent, Workspace
from pretrain.data.words import words

SHARED = Path(__file__).parents[3] / "shared" / "data" / "dirty"
SETTINGS = {"similarity": 0.75, "bands": 20, "rows": 6, "shingle": 5}
VOCABULARY = [f"word{number}" for number in range(3000)]


def shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text.lower())
    return {tuple(found[start : start + 5]) for start in range(len(found) - 4)} or {tuple(found or [text])}


def leaking(train: Sequence[str], validation: Sequence[str], least: float = 0.8) -> list[tuple[str, str]]:
    """Pairs of similarity `least` or more, from all pairs that share a shingle at all."""
    holders: dict[tuple[str, ...], list[int]] = {}
    held_out = [shingles(text) for text in validation]
    for number, found in enumerate(held_out):
        for shingle in found:
            holders.setdefault(shingle, []).append(number)
    pairs = []
    for text in train:
        own = shingles(text)
        some = {number for shingle in own for number in holders.get(shingle, [])}
        alike = (number for number in some if len(own & held_out[number]) >= least * len(own | held_out[number]))
        pairs += [(text, validation[number]) for number in alike]
    return pairs


def changed(text: str, share: float, random_: random.Random) -> str:
    return " ".join("other" if random_.random() < share else word for word in text.split())


def texts(count: int, random_: random.Random) -> list[str]:
    return [" ".join(random_.choices(VOCABULARY, k=random_.randrange(5, 200))) for _ in range(count)]


@pytest.fixture
def corpus() -> tuple[list[str], list[str]]:
    """Training and validation texts: of each validation text copies that are changed more and more, and others."""
    random_ = random.Random(5)
    validation = texts(60, random_)
    validation += [changed(text, 0.01, random_) for text in validation[:20]]  # which are alike among themselves
    copies = [changed(text, share, random_) for text in validation for share in (0, 0.005, 0.01, 0.02, 0.1)]
    train = [*texts(200, random_), *copies, *(text.upper() for text in validation[:9])]
    random_.shuffle(train)
    return train, validation


def test_near_duplicates_of_validation_texts_are_dropped_with_their_survivor(shard_documents, corpus, tmp_path):
    train, validation = corpus
    at = Workspace(tmp_path, Serial(), Silent())
    documents = shard_documents([train[:100], [], train[100:]], tmp_path)
    held_out = shard_documents([validation[:30], validation[30:]], tmp_path)
    assert len(leaking(train, validation)) > 200
    kept = drop_leaks(SETTINGS, NearDuplicates(**SETTINGS), documents, held_out, at)
    left = [text for file in kept.files() for text in pq.read_table(file)["text"].to_pylist()]
    gone = [row for file in kept.dropped() for row in pq.read_table(file).to_pylist()]
    assert leaking(left, validation) == []
    assert sorted([*left, *(row["text"] for row in gone)]) == sorted(train)
    assert kept.total("documents_in") == len(train)
    assert kept.summary()["reasons"] == {"near_duplicate_of_validation": len(gone)}
    by_id = {f"{number:04d}": text for number, text in enumerate(validation)}
    for row in gone:
        assert leaking([row["text"]], [by_id[row["survivor"]]], 0.75)
        assert row["value"] >= row["threshold"] == 0.75
        assert row["survivor"] in row["reason"]


def test_a_text_that_is_alike_to_only_the_second_of_two_validation_texts_is_dropped():
    """In a chain of three the first two are alike, and the last two, but not both ends; all share one key."""
    base = np.arange(100, dtype=np.uint32)
    sets = [base, base + 12, base + 24]

    def details(places):
        return np.arange(len(places) + 1) * 100, np.concatenate([sets[place] for place in places])

    keys = pa.table(
        {"document": [0, 1, 2], "key": pa.array([7] * 3, pa.uint64()), "size": pa.array([100] * 3, pa.uint32())}
    )
    links = Leaks(NearDuplicates(**SETTINGS), held_out=2).link(keys, details)
    assert links.to_pylist() == [{"one": 1, "other": 2, "value": 88 / 112}]


def test_near_duplicates_within_the_training_documents_are_no_leaks(shard_documents, tmp_path):
    at = Workspace(tmp_path, Serial(), Silent())
    random_ = random.Random(1)
    train = texts(20, random_) * 2
    kept = drop_leaks(
        SETTINGS, NearDuplicates(**SETTINGS), shard_documents([train], tmp_path), shard_documents([["a"]], tmp_path), at
    )
    assert kept.total("documents_out") == 40


def build(capsys: pytest.CaptureFixture[str], *settings: str) -> Any:
    capsys.readouterr()
    assert cli.main(["data", *settings, "executor=serial", "tokenizer.vocab_size=300", "format=json"]) == 0
    return json.loads(capsys.readouterr().out)


def sides(result: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"train": [], "validation": []}
    for file in result["documents"]:
        found[Path(file).parent.name.split("-")[0]] += pq.read_table(file)["text"].to_pylist()
    return found


def test_a_build_with_validation_texts_leaks_none(corpus, tmp_path, capsys):
    train, validation = corpus
    paths = [tmp_path / "train.jsonl", tmp_path / "validation.jsonl"]
    for path, some in zip(paths, corpus, strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in some), "utf-8")
    words_ = [
        "data=files",
        f"data.paths=[{paths[0]}]",
        f"data.validation_paths=[{paths[1]}]",
        f"data_dir={tmp_path / 'd'}",
    ]
    result = build(capsys, *words_)
    found = sides(result)
    assert leaking(found["train"], found["validation"]) == []
    assert sorted(found["validation"]) == sorted(validation)
    stage = result["stages"][-1]
    assert stage["name"] == "leaks"
    assert stage["reasons"]["near_duplicate_of_validation"] > 50
    assert any("leaks-" in file for file in result["dropped"])
    plain = build(capsys, *words_, "data/recipe=none")
    assert sorted(sides(plain)["train"]) == sorted(train)  # every document is kept as it is
    assert [stage["name"] for stage in plain["stages"]] == ["collect"]


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_planted_copies_never_lie_on_both_sides(language, tmp_path, capsys):
    path = SHARED / f"mixed_{language}.jsonl"
    every = [json.loads(line)["text"] for line in path.read_text("utf-8").split("\n") if line]
    half = len(every) // 2
    assert len(leaking(every[:half], every[half:])) > 20
    found = sides(
        build(
            capsys, "data=files", f"data.paths=[{path}]", "data.validation_fraction=0.3", f"data_dir={tmp_path / 'd'}"
        )
    )
    assert len(found["validation"]) > 50
    assert leaking(found["train"], found["validation"]) == []


def test_a_corpus_that_is_its_own_validation_is_refused(corpus, tmp_path, capsys):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus[0]), "utf-8")
    words_ = ["data=files", f"data.paths=[{path}]", f"data.validation_paths=[{path}]", f"data_dir={tmp_path / 'd'}"]
    assert cli.main(["data", *words_, "executor=serial"]) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert "leaks took" in said
    assert "name other data.validation_paths" in said
