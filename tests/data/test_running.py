"""Stages that see the whole corpus: the same bytes whoever works and whatever is killed, and nothing left behind."""

import os
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pretrain.data import running
from pretrain.data.dedup.exact import ExactDuplicates
from pretrain.data.dedup.near import NearDuplicates
from pretrain.data.dedup.passages import RepeatedPassages
from pretrain.data.executors import Pool, Serial
from pretrain.data.running import run_stage
from pretrain.data.stages import Silent, Workspace

STAGES = {
    "exact": ExactDuplicates(ignore_case=False, ignore_space=True),
    "near": NearDuplicates(similarity=0.75, bands=24, rows=6, shingle=5),
    "lines": RepeatedPassages(unit="line", window=1, min_bytes=20, max_documents=1, min_words=3),
    "sentences": RepeatedPassages(unit="sentence", window=3, min_bytes=20, max_documents=1, min_words=3),
}


def corpus() -> list[list[str]]:
    """Four shards of texts with copies, near copies and lines in common; one shard is empty."""
    draw = random.Random(1)
    lines = [" ".join(f"w{draw.randrange(200)}" for _ in range(12)) + "." for _ in range(20)]
    texts = []
    for _ in range(24):
        text = "\n".join(" ".join(f"v{draw.randrange(5000)}" for _ in range(40)) + "." for _ in range(4))
        texts += [text, f"{text} more", text if draw.random() < 0.3 else draw.choice(lines)]
        texts.append(f"{draw.choice(lines)}\n{text[::-1]}\n" + "\n".join(draw.sample(lines, 3)))
    draw.shuffle(texts)
    return [texts[:40], [], texts[40:41], texts[41:]]


@pytest.fixture
def run(shard_documents, tmp_path, monkeypatch):
    """A function that runs one of STAGES over the corpus, in several partitions."""
    monkeypatch.setattr(running, "PARTITION_BYTES", 20_000)

    def run(name, where="data", executor=None, watch=None):
        data_dir = tmp_path / where
        before = shard_documents(corpus(), data_dir)
        return run_stage(name, {}, STAGES[name], before, Workspace(data_dir, executor or Serial(), watch or Silent()))

    return run


@pytest.fixture(scope="module", params=[2, 8])
def pool(request):
    chosen = Pool(workers=request.param)
    yield chosen
    chosen.close()


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a finished stage, but the one that holds what it cost and what is half written."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "cost.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.suffix != ".tmp"}


def test_any_number_of_workers_gives_the_same_bytes(run, pool):
    for name in STAGES:
        serial = run(name, "serial")
        assert serial.total("documents_out") + sum(serial.summary()["reasons"].values()) > 0
        assert content(run(name, f"pool{pool.workers}", pool).folder) == content(serial.folder)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("name", STAGES)
def test_a_build_that_ends_at_any_write_goes_on_to_the_same_bytes(run, name, monkeypatch):
    undisturbed = content(run(name, "undisturbed").folder)
    assert len(undisturbed) > 8
    monkeypatch.setattr(os, "fsync", lambda file: None)  # most of the time
    rename, unlink = Path.rename, Path.unlink
    for last in range(0, 1000, 1 if name == "near" else 3):
        left = [last]

        def until(act, left=left):
            def act_or_die(path, *arguments, **settings):
                if act is unlink and path.suffix == ".tmp":  # what tidies up after a failure; a kill does not
                    return act(path, *arguments, **settings)
                if not left[0]:
                    raise Killed
                left[0] -= 1
                return act(path, *arguments, **settings)

            return act_or_die

        monkeypatch.setattr(Path, "rename", until(rename))
        monkeypatch.setattr(Path, "unlink", until(unlink))
        try:
            run(name, f"killed{last}")
        except Killed:
            ended = False
        else:
            ended = True
        monkeypatch.setattr(Path, "rename", rename)
        monkeypatch.setattr(Path, "unlink", unlink)
        assert content(run(name, f"killed{last}").folder) == undisturbed
        if ended:
            break
    assert last > 20


@pytest.mark.parametrize("name", STAGES)
def test_what_is_needed_for_a_while_does_not_stay(run, name):
    folder = run(name).folder
    names = {path.name.partition(".")[2] or path.name for path in folder.rglob("*") if path.is_file()}
    assert names == {"json", "parquet"}
    assert not [path for path in folder.iterdir() if path.is_dir() and path.name != "dropped"]


def test_what_a_kill_left_of_a_finished_stage_is_removed(run):
    folder = run("near").folder
    for name in ("sketches", ".sketches.old"):
        (folder / name).mkdir()
        (folder / name / "00000.keys").write_bytes(b"")
    run("near")
    assert not (folder / "sketches").exists()
    assert not (folder / ".sketches.old").exists()


ODD = {
    "one character each": [["a", "b", "a"], ["。", "。", "\n", "猫", "猫", "a"]],
    "one word repeated": [["word " * 2000, "word " * 2000, "word " * 1999], ["word " * 2000]],
    "no words": [["!!", "", "!!", "-", ""], ["!!"]],
    "all the same": [["The same text in every document, of some length. And more. And more."] * 700] * 2,
    "empty shards": [[], [], ["x"], []],
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("odd", ODD)
def test_odd_documents_are_kept_or_dropped_for_one_that_is_kept(shard_documents, tmp_path, name, odd):
    before = shard_documents(ODD[odd], tmp_path)
    built = run_stage(name, {}, STAGES[name], before, Workspace(tmp_path, Serial(), Silent()))
    kept = {row["id"] for file in built.files() for row in pq.read_table(file).to_pylist()}
    dropped = [row for file in built.dropped() for row in pq.read_table(file).to_pylist()]
    assert len(kept) + len({row["id"] for row in dropped} - kept) == sum(map(len, ODD[odd]))
    assert all(row["survivor"] in kept for row in dropped)
    texts = {text for shard in ODD[odd] for text in shard}
    if name in ("exact", "near"):
        assert len(kept) <= len(texts)


LENGTHS = [pytest.param(10**6, id="million"), pytest.param(10**7, id="ten million", marks=[pytest.mark.faults])]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", STAGES)
def test_a_very_long_document_is_one_like_any_other(shard_documents, tmp_path, name, length):
    chance = random.Random(1)
    long = "".join(chance.choices(["the ", "cat, ", "sat\n", "猫", "が", "。"], k=length))[:length]
    before = shard_documents([[long, "short"], [long]], tmp_path)
    built = run_stage(name, {}, STAGES[name], before, Workspace(tmp_path, Serial(), Silent()))
    (row,) = [row for file in built.dropped() for row in pq.read_table(file).to_pylist()]
    assert (row["id"], row["survivor"]) == ("0002", "0000") or name in ("lines", "sentences")
    assert row["survivor"] == "0000"
