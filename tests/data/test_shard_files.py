"""The files that a task writes: as many shards as it fills, in row groups that are bounded."""

import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.data import stages
from pretrain.data.documents import DOCUMENT
from pretrain.data.executors import Serial
from pretrain.data.stages import Batch, Silent, TableWriter, Workspace, build, row_groups, text_bytes


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a finished stage but the one that holds what it cost, and what a kill left half written."""
    files = (path for path in folder.rglob("[!.]*") if path.is_file() and path.name != "cost.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def documents(texts: list[str], first: int = 0) -> pa.Table:
    rows = [
        {"id": f"{place}", "text": text, "source": "test", "source_id": f"{place}", "meta": "{}"}
        for place, text in enumerate(texts, first)
    ]
    return pa.Table.from_pylist(rows, schema=DOCUMENT)


def in_batches(texts: list[str]):
    """The work of a task that is a list of texts: two a batch."""
    for first in range(0, len(texts), 2):
        table = documents(texts[first : first + 2], first)
        yield Batch(table, None, len(table), text_bytes(table), {"batches": 1})


def test_a_task_goes_on_in_another_shard_when_one_is_full(tmp_path):
    tasks = [(0, [letter * 10 for letter in "abcdefg"]), (0, []), (0, ["h"])]
    built = build("name", "key", Workspace(tmp_path, Serial(), Silent()), tasks, in_batches, shard_bytes=30)
    assert [file.name for file in built.files()] == [
        "00000.parquet",
        "00000-0001.parquet",
        "00001.parquet",
        "00002.parquet",
    ]
    assert [pq.read_table(file)["text"].to_pylist() for file in built.files()] == [
        [letter * 10 for letter in "abcd"],
        [letter * 10 for letter in "efg"],
        [],
        ["h"],
    ]
    assert [(shard.documents_out, shard.bytes_out) for shard in built.shards] == [(4, 40), (3, 30), (0, 0), (1, 1)]
    assert [shard.counters.get("batches", 0) for shard in built.shards] == [2, 2, 0, 1]
    assert [len(json.loads((built.folder / f"0000{task}.json").read_text())) for task in range(3)] == [2, 1, 1]


def test_a_task_that_fills_several_shards_is_found_done_or_done_again_as_a_whole(tmp_path):
    at = Workspace(tmp_path, Serial(), Silent())
    tasks = [(0, [letter * 10 for letter in "abcdefg"]), (0, ["h"])]
    built = build("name", "key", at, tasks, in_batches, shard_bytes=15)
    undisturbed, before = content(built.folder), times(built.folder)
    (built.folder / "manifest.json").unlink()
    (built.folder / "00000.json").unlink()
    (built.folder / "00000-0001.parquet").unlink()
    assert build("name", "key", at, tasks, in_batches, shard_bytes=15).shards == built.shards
    assert content(built.folder) == undisturbed
    assert times(built.folder)["00001.parquet"] == before["00001.parquet"]


def test_row_groups_are_bounded_in_rows_and_in_bytes_of_text(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(stages, "TEXT_AT_ONCE", 20)
    texts = [*("a" * 5 for _ in range(9)), *"xyzxyz", "b" * 50, "", "吾輩は猫である"]
    writer = TableWriter(tmp_path / "table.parquet", DOCUMENT)
    writer.write(documents(texts))
    writer.close()
    groups = [group["text"].to_pylist() for group in row_groups(tmp_path / "table.parquet")]
    assert list(itertools.chain(*groups)) == texts
    assert len(groups) == 7
    assert all(len(group) <= 4 for group in groups)
    assert all(len(group) == 1 or sum(len(text.encode()) for text in group) <= 20 for group in groups)
