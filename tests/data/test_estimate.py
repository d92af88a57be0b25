"""What a build will take, told from a sample, and excerpts of a corpus."""

import gzip
import json
import os
import shutil
from pathlib import Path

import fsspec
import pytest

from pretrain.data import estimate as module
from pretrain.data.estimate import estimate, refuse_full_disk
from pretrain.data.excerpt import scattered_pieces, some_documents
from pretrain.data.normalisation import Normalise
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits, Record
from pretrain.errors import DataError, PretrainError

LIMITS = Limits(10**6, 200, 0.01)
RECIPE = {"normalise": ({}, Normalise(unicode_form="NFC"))}


def files(*paths: Path) -> dict[str, Files]:
    return {
        "files": Files(paths=[str(path) for path in paths], text_field="text", unit="file", extractor="resiliparse")
    }


def lines(count: int) -> str:
    return "".join(json.dumps({"text": f"{number} " + os.urandom(200).hex()}) + "\n" for number in range(count))


def text_of(count: int) -> int:
    return sum(len(f"{number} ") + 400 for number in range(count))


@pytest.fixture
def _any_corpus_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALLEST_CORPUS", 1)
    monkeypatch.setattr(module, "SAMPLE", 100_000)
    monkeypatch.setattr(module, "CUT", 100_000)


@pytest.mark.usefixtures("_any_corpus_is_large")
@pytest.mark.parametrize("kind", ["lines", "gzip", "folder"])
def test_the_text_and_the_disk_are_told_from_a_sample(kind: str, tmp_path: Path) -> None:
    count = 6000
    path = tmp_path / "corpus"
    if kind == "lines":
        path = path.with_suffix(".jsonl")
        path.write_text(lines(count), "utf-8")
    elif kind == "gzip":
        path = path.with_suffix(".jsonl.gz")
        path.write_bytes(gzip.compress(lines(count).encode()))
    else:
        path.mkdir()
        for number in range(60):
            (path / f"{number}.jsonl").write_text(lines(count // 60), "utf-8")
    expected = estimate(files(path), RECIPE, LIMITS, workers=2, tokenizer_sample=0)
    assert expected.disk_bytes is not None
    assert expected.seconds is not None
    assert 0.5 * 4 * text_of(count) < expected.disk_bytes < 1.5 * 4 * text_of(count)  # 4 copies at half, and tokens
    assert expected.seconds > 0
    assert not expected.far


@pytest.mark.usefixtures("_any_corpus_is_large")
def test_what_is_already_built_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(6000), "utf-8")
    told = {
        first: estimate(files(tmp_path), RECIPE, LIMITS, workers=1, tokenizer_sample=0, first=first)
        for first in ("collect", "normalise", "shuffle", "tokenize")
    }
    disk = [expected.disk_bytes for expected in told.values() if expected.disk_bytes is not None]
    assert len(disk) == 4
    assert disk == sorted(disk, reverse=True)
    assert disk[0] > 1.2 * disk[1] > 1.2 * 1.2 * disk[2] > 1.2**3 * disk[3]


@pytest.mark.parametrize("packed", [False, True])
def test_a_small_corpus_is_told_roughly(packed: bool, tmp_path: Path) -> None:
    content = lines(1000).encode()
    (tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")).write_bytes(gzip.compress(content) if packed else content)
    expected = estimate(files(tmp_path), RECIPE, LIMITS, workers=1, tokenizer_sample=0)
    assert expected.seconds is not None
    assert expected.disk_bytes is not None
    assert expected.seconds < 60
    assert text_of(1000) < expected.disk_bytes < 6 * text_of(1000)


def test_a_corpus_far_away_is_told_without_the_download(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/far/a.jsonl", lines(6000).encode())
    try:
        source = Files(paths=["memory://far/a.jsonl"], text_field="text", unit="file", extractor="resiliparse")
        expected = estimate({"far": source}, RECIPE, LIMITS, workers=1, tokenizer_sample=0)
    finally:
        memory.rm("/far", recursive=True)
    assert expected.far
    assert expected.seconds is not None
    assert expected.seconds > 0
    assert expected.disk_bytes == pytest.approx(4 * 0.55 * text_of(6000), rel=0.5)


@pytest.mark.usefixtures("_any_corpus_is_large")
def test_what_cannot_be_read_is_not_estimated(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"\x1f\x8b" + bytes(10_000))
    expected = estimate(files(tmp_path), RECIPE, LIMITS, workers=1, tokenizer_sample=0)
    assert (expected.seconds, expected.disk_bytes) == (None, None)


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    refuse_full_disk(free / 2, tmp_path / "not" / "there")
    with pytest.raises(
        PretrainError, match=r"needs about [\d,]+\.\d GB .*data_dir=.*not.* lies [\d,]+\.\d GB are free"
    ):
        refuse_full_disk(free * 2, tmp_path / "not" / "there")


def test_an_excerpt_comes_from_all_over_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "large.jsonl").write_text(lines(6000), "utf-8")
    (tmp_path / "small.jsonl").write_text(lines(3), "utf-8")
    pieces = scattered_pieces(files(tmp_path), seed=3)
    items = [item for piece in some_documents(pieces, 100, LIMITS) for item in piece.items]
    numbers = sorted(int(item.text.split()[0]) for item in items if isinstance(item, Record))
    assert len(set(numbers)) >= 97
    assert len(items) == 100
    assert numbers[10] < 3000 < numbers[-10]


def test_an_excerpt_larger_than_the_corpus_is_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "large.jsonl").write_text(lines(6000), "utf-8")
    pieces = some_documents(scattered_pieces(files(tmp_path), seed=3), 10**6, LIMITS)
    texts = [item.text for piece in pieces for item in piece.items if isinstance(item, Record)]
    assert len(texts) == len(set(texts)) == 6000


def test_a_record_of_an_excerpt_never_claims_a_line_that_was_not_counted(tmp_path: Path) -> None:
    (tmp_path / "large.jsonl").write_text(lines(6000), "utf-8")
    found = some_documents(scattered_pieces(files(tmp_path), seed=3), 100, LIMITS)
    middle = [item for piece in found if piece.file.start for item in piece.items]
    assert middle
    assert all(isinstance(item, Record) and f"byte {item.position:,}" in item.name for item in middle)


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the corpus is empty"):
        scattered_pieces(files(tmp_path), seed=1)
