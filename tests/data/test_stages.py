"""Stages over shards: done once, gone on with when killed, the same bytes whoever does the work."""

import json
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretrain.data import stages
from pretrain.data.documents import DOCUMENT, DROPPED, LINK, Drop, StageOutput, partition, without_repeats
from pretrain.data.executors import Pool, Serial
from pretrain.data.manifests import key_of
from pretrain.data.running import run_stage
from pretrain.data.stages import Silent, Workspace, row_groups
from pretrain.errors import DataError, Interrupted

SHARDS = [
    ["a longer text here", "tiny", "吾輩は猫である、名前は"],
    ["x", "y"],
    [],
    ["a longer text here", "one more text"],
]


class LongEnough:
    """Drops texts under ten characters."""

    version = 1
    libraries = ("pyarrow",)

    def __call__(self, documents):
        lengths = [len(text) for text in documents["text"].to_pylist()]
        drops = [None if n >= 10 else Drop("too_short", n, 10, f"{n} characters, fewer than 10") for n in lengths]
        return partition(documents, drops, {"characters": sum(lengths)})


class LongEnoughNext(LongEnough):
    version = 2


class LongEnoughElsewhere(LongEnough):
    libraries = ("pyarrow", "numpy")


class Fails(LongEnough):
    """Fails at the shard that holds `text`, as long as `marker` does not exist."""

    def __init__(self, text, marker, how="raise"):
        self.text, self.marker, self.how = text, marker, how

    def __call__(self, documents):
        if self.text in documents["text"].to_pylist() and not self.marker.exists():
            self.marker.touch()
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("the first time")
        return super().__call__(documents)


class FirstOfEach:
    """A corpus stage: of equal texts in the whole corpus the first one stays."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    transitive: ClassVar[bool] = True

    def sketch(self, documents: pa.Table) -> tuple[pa.Table, pa.Array]:
        texts = documents["text"].to_pylist()
        keys = np.array([len(text) for text in texts], np.uint64) * np.uint64(2**64 // 30)
        details = pa.array([[ord(character) for character in text] for text in texts], pa.large_list(pa.uint32()))
        return pa.table({"row": pa.array(range(len(documents)), pa.int64()), "key": keys}), details

    def link(self, keys: pa.Table, details: Any) -> pa.Table:
        places = sorted(keys["document"].to_pylist())
        offsets, values = details(np.array(places, np.int64))
        firsts: dict[bytes, int] = {}
        links = [
            (firsts.setdefault(values[start:end].tobytes(), place), place, 1.0)
            for place, (start, end) in zip(places, pairwise(offsets), strict=True)
        ]
        rows = [dict(zip(LINK.names, link, strict=True)) for link in links if link[0] != link[1]]
        return pa.Table.from_pylist(rows, schema=LINK)

    def apply(self, documents: pa.Table, found: pa.Table) -> StageOutput:
        return without_repeats(documents, found, "repeated", 0.5)


class Told(Silent):
    """A watch that remembers."""

    def __init__(self) -> None:
        self.whole: list[int] = []
        self.parts: list[int] = []

    def begin(self, name, weight):
        self.whole.append(weight)

    def done(self, name, weight, records):
        self.parts.append(weight)


class StopAfterOne(Silent):
    """A watch that stops the build once a shard is done."""

    stopping = False

    def done(self, name, weight, records):
        self.stopping = weight > 0

    def idle(self):
        if self.stopping:
            raise Interrupted("stopped")


@pytest.fixture
def run(shard_documents, tmp_path):
    """A function that runs a stage over SHARDS."""

    def run(stage, executor=None, settings=None, data_dir=tmp_path, shards=SHARDS, watch=None):
        before = shard_documents(shards, data_dir)
        return run_stage(
            "stage", settings or {}, stage, before, Workspace(data_dir, executor or Serial(), watch or Silent())
        )

    return run


@pytest.fixture
def pool():
    chosen = Pool(workers=2)
    yield chosen
    chosen.close()


def kept(built):
    return [row["text"] for file in built.files() for row in pq.read_table(file).to_pylist()]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a finished stage but the one that holds what it cost, and what a kill left half written."""
    files = (path for path in folder.rglob("[!.]*") if path.is_file() and path.name != "cost.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_kept_rows_are_the_documents_in_their_order(run):
    built = run(LongEnough())
    rows = [row for file in built.files() for row in pq.read_table(file).to_pylist()]
    assert [row["id"] for row in rows] == ["0000", "0002", "0005", "0006"]
    assert kept(built) == [SHARDS[0][0], SHARDS[0][2], *SHARDS[3]]
    assert all(pq.read_schema(file).remove_metadata().equals(DOCUMENT) for file in built.files())


def test_dropped_documents_are_kept_with_reason_and_stage(run):
    built = run(LongEnough())
    assert [file.name for file in built.dropped()] == ["00000.parquet", "00001.parquet"]
    tables = [pq.read_table(file) for file in built.dropped()]
    assert all(table.schema.remove_metadata().equals(DROPPED) for table in tables)
    assert pa.concat_tables(tables).to_pylist() == [
        {
            "id": name,
            "source_id": f"record {name}",
            "text": text,
            "source": "test",
            "stage": "stage",
            "rule": "too_short",
            "value": float(len(text)),
            "threshold": 10.0,
            "reason": f"{len(text)} characters, fewer than 10",
            "survivor": None,
        }
        for name, text in (("0001", "tiny"), ("0003", "x"), ("0004", "y"))
    ]


def test_the_summary_counts_documents_bytes_reasons_and_counters(run):
    built = run(LongEnough())
    texts = [text for shard in SHARDS for text in shard]
    summary = built.summary()
    assert summary.pop("seconds") > 0
    assert summary.pop("peak_memory") > 1_000_000
    assert summary == {
        "name": "stage",
        "documents_in": 7,
        "documents_out": 4,
        "bytes_in": sum(len(text.encode()) for text in texts),
        "bytes_out": sum(len(text.encode()) for text in texts if len(text) >= 10),
        "reasons": {"too_short": 3},
        "counters": {"characters": sum(len(text) for text in texts)},
    }


@pytest.mark.parametrize("stage", [LongEnough, FirstOfEach])
def test_a_second_run_does_nothing(run, stage, tmp_path):
    first = run(stage())
    before = times(tmp_path)
    assert run(stage()) == first
    assert times(tmp_path) == before


@pytest.mark.parametrize("stage", [LongEnough, FirstOfEach])
def test_serial_and_pool_give_the_same_bytes(run, stage, tmp_path, pool):
    serial = run(stage(), Serial(), data_dir=tmp_path / "serial")
    parallel = run(stage(), pool, data_dir=tmp_path / "pool")
    assert serial.key == parallel.key
    assert len(content(serial.folder)) >= 4 * 2 + 1
    assert content(serial.folder) == content(parallel.folder)


def test_a_build_that_stopped_half_way_goes_on_with_the_shards_left(run, tmp_path):
    undisturbed = content(run(LongEnough(), data_dir=tmp_path / "undisturbed").folder)
    failing = Fails("x", tmp_path / "failed")
    with pytest.raises(ValueError, match="the first time"):
        run(failing)
    (folder,) = (tmp_path / "stages").glob("stage-*")
    before = times(folder)
    # The longest shards come first, and the one that fails is the third.
    done = {"00000.json", "00000.parquet", "dropped/00000.parquet", "00003.json", "00003.parquet"}
    assert set(before) == done
    built = run(failing)
    assert times(folder).items() >= before.items()
    assert content(built.folder) == undisturbed


def test_a_shard_without_a_record_is_done_again(run):
    built = run(LongEnough())
    undisturbed, before = content(built.folder), times(built.folder)
    (built.folder / "manifest.json").unlink()
    (built.folder / "00001.json").unlink()
    (built.folder / "00001.parquet").write_bytes(b"half a fi")
    assert run(LongEnough()).shards == built.shards
    assert content(built.folder) == undisturbed
    again = {name for name, time in times(built.folder).items() if before[name] != time}
    assert again >= {"00001.json", "00001.parquet", "manifest.json"}
    assert not again & {"00000.json", "00000.parquet", "00003.json", "00003.parquet"}


def test_a_killed_worker_changes_no_byte(run, tmp_path, pool):
    undisturbed = run(LongEnough(), data_dir=tmp_path / "undisturbed")
    disturbed = run(Fails("x", tmp_path / "killed", how="kill"), pool)
    assert (tmp_path / "killed").exists()
    assert content(disturbed.folder) == content(undisturbed.folder)


def test_a_signal_between_shards_keeps_those_that_are_done(run, tmp_path):
    with pytest.raises(Interrupted):
        run(LongEnough(), watch=StopAfterOne())
    (folder,) = (tmp_path / "stages").glob("stage-*")
    before = times(folder)
    assert "00000.json" in before
    assert "00003.json" not in before
    assert kept(run(LongEnough())) == kept(run(LongEnough(), data_dir=tmp_path / "undisturbed"))
    assert times(folder).items() >= before.items()


def test_progress_reaches_the_bytes_of_all_shards_in_any_run(run, tmp_path):
    total = sum(len(text.encode()) for shard in SHARDS for text in shard)
    told = Told()
    with pytest.raises(ValueError):
        run(Fails("x", tmp_path / "failed"), watch=told)
    assert told.whole == [total]
    assert 0 < sum(told.parts) < total
    again = Told()
    run(Fails("x", tmp_path / "failed"), watch=again)
    assert again.whole == [total]
    assert sum(again.parts) == total


def test_the_key_follows_settings_code_libraries_and_input_only(run, tmp_path, pool):
    key = run(LongEnough()).key
    others = {
        run(LongEnough(), settings={"least": 10}).key,
        run(LongEnoughNext()).key,
        run(LongEnoughElsewhere()).key,
        run(LongEnough(), shards=[["other"]]).key,
    }
    assert len(others | {key}) == 5
    assert run(LongEnough(), pool, data_dir=tmp_path / "elsewhere").key == key


def test_a_key_does_not_depend_on_the_order_of_settings():
    first = key_of(settings={"a": 1, "b": [1, 2]}, code=1)
    assert first == key_of(settings={"b": [1, 2], "a": 1}, code=1)
    assert first != key_of(settings={"b": [2, 1], "a": 1}, code=1)
    assert first != key_of(settings={"a": 1, "b": [1, 2]}, code=1, inputs=["x"])


def test_a_change_of_settings_leaves_the_old_result_alone(run):
    old = run(LongEnough())
    before = times(old.folder)
    assert run(LongEnough(), settings={"least": 10}).folder != old.folder
    assert times(old.folder) == before


def test_a_corpus_stage_removes_what_it_decides_across_shards(run):
    built = run(FirstOfEach())
    assert kept(built) == [*SHARDS[0], *SHARDS[1], "one more text"]
    (file,) = built.dropped()
    (row,) = pq.read_table(file).to_pylist()
    assert row["id"] == "0005"
    assert row["survivor"] == "0000"
    assert row["stage"] == "stage"
    assert row["rule"] == "repeated"
    assert row["reason"] == "repeats document 0000"
    assert (row["value"], row["threshold"]) == (1.0, 0.5)
    assert built.summary()["reasons"] == {"repeated": 1}


def test_stages_that_are_chained_pass_documents_on(shard_documents, tmp_path):
    before = shard_documents(SHARDS, tmp_path)
    for name, stage in (("long_enough", LongEnough()), ("first_of_each", FirstOfEach())):
        before = run_stage(name, {}, stage, before, Workspace(tmp_path, Serial(), Silent()))
    assert kept(before) == [SHARDS[0][0], SHARDS[0][2], "one more text"]
    assert before.total("documents_in") == 4


def test_a_damaged_record_is_named(run):
    built = run(LongEnough())
    (built.folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        run(LongEnough())


def test_a_shard_that_cannot_be_written_leaves_no_file(run, shard_documents, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    shard_documents(SHARDS, tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(LongEnough())
    assert not [path for path in tmp_path.glob("stages/stage-*/**/*") if path.is_file()]


def test_a_stage_reads_and_writes_one_row_group_at_a_time(run, monkeypatch):
    monkeypatch.setattr(stages, "ROWS_AT_ONCE", 3)
    seen: list[int] = []

    class Looks(LongEnough):
        def __call__(self, batch):
            seen.append(len(batch))
            return super().__call__(batch)

    texts = [f"a long enough text, {number}" for number in range(10)]
    built = run(Looks(), shards=[texts])
    assert seen == [3, 3, 3, 1]
    assert kept(built) == texts
    assert len(list(row_groups(built.files()[0]))) == 4
    assert built.summary()["counters"] == {"characters": sum(map(len, texts))}


def test_what_a_killed_build_left_half_written_is_removed(run):
    built = run(LongEnough())
    (built.folder / "manifest.json").unlink()
    leftovers = [built.folder / ".00001.parquet.host.1.tmp", built.folder / "dropped" / ".00001.parquet.host.1.tmp"]
    for leftover in leftovers:
        leftover.write_bytes(b"half a fi")
    assert run(LongEnough()).shards == built.shards
    assert not any(leftover.exists() for leftover in leftovers)


def test_the_cost_of_a_stage_adds_up_over_the_runs_that_it_took(run, tmp_path):
    with pytest.raises(ValueError):
        run(Fails("x", tmp_path / "failed"))
    built = run(Fails("x", tmp_path / "failed"))
    assert built.seconds > 0
    assert built.peak_memory > 1_000_000
    assert json.loads((built.folder / "cost.json").read_text()) == {
        "seconds": built.seconds,
        "peak_memory": built.peak_memory,
    }
    (built.folder / "manifest.json").unlink()
    again = run(Fails("x", tmp_path / "failed"))
    assert again.seconds > built.seconds
    assert again.key == built.key
