"""JSON lines as the world writes them: no good one is lost, and each bad one is told with file, line and reason."""

import dataclasses
import io
import json
import os
from itertools import pairwise

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.collect import collect_sources, quarantine
from pretrain.data.documents import DROPPED
from pretrain.data.executors import Pool, Serial
from pretrain.data.manifests import BLOCK
from pretrain.data.sources import formats
from pretrain.data.sources.files import Files
from pretrain.data.sources.formats import Reading, lines
from pretrain.data.sources.reading import Limits
from pretrain.data.stages import Silent, Workspace

LIMITS = Limits(document_bytes=100_000, expansion=200.0, replaced=0.01)

# Each line with the text it holds, or the rule that refuses it.
HOSTILE = [
    (b'{"text": "plain"}', "plain"),
    (b'{"text": "' + b"." * 300 + b'\xff"}', "." * 300 + "\ufffd"),
    (b'{"text": "\xff\xfe\xfd"}', ("not_text",)),
    (b'{"text": "cut', ("not_json",)),
    (b'{"text": "a"', ("not_json",)),
    (b"", None),
    (b" \t ", None),
    (rb'{"text": "lone \ud800 surrogate"}', "lone \ufffd surrogate"),
    (b'{"text": "' + b"." * 300 + rb'\u0000"}', "." * 300 + "\ufffd"),
    (rb'{"text": "\u0000\u0000"}', ("not_text",)),
    (b'{"text": "a\0b"}', ("not_text",)),
    (b"\0\0\0\0", ("not_json",)),
    (b'{"text": null}', ("no_text",)),
    (b'{"other": "a"}', ("no_text",)),
    (b'{"text": 7}', ("no_text",)),
    (b'{"text": ["a"]}', ("no_text",)),
    (b'["text"]', ("no_text",)),
    (b'{"text": "first", "id": "same"}', "first"),
    (b'{"text": "second", "id": "same"}', "second"),
    (b'{"text": "windows"}\r', "windows"),
    ('{"text": "\u2028 \x85 吾輩"}'.encode(), "\u2028 \x85 吾輩"),
    (b'{"text": "' + b"long" * 60_000 + b'"}', ("too_large",)),
    (b'{"text": "' + b"long" * 30_000 + b'"}', ("too_large",)),
    (b'{"text": "a", "n": 1e999, "m": NaN}', "a"),
    (b'{"text": "last"}', "last"),
]
TEXTS = [expected for _, expected in HOSTILE if isinstance(expected, str)]
RULES = [(number, expected[0]) for number, (_, expected) in enumerate(HOSTILE, 1) if isinstance(expected, tuple)]


def files_at(*paths, **more):
    return Files(
        paths=[str(path) for path in paths],
        **{"text_field": "text", "unit": "file", "extractor": "resiliparse", **more},
    )


def collected(source, data_dir, shard_bytes=10**6, executor=None, limits=LIMITS):
    workspace = Workspace(data_dir, executor or Serial(), Silent())
    return collect_sources({"files": source}, {}, limits, shard_bytes, workspace)


def rows_of(built):
    return [row for file in built.files() for row in pq.read_table(file).to_pylist()]


def refused_by(built):
    return [row for file in built.dropped() for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["no newline at the end", "newline at the end"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["no mark", "byte order mark"])
def test_no_good_line_is_lost_and_each_bad_one_is_told_with_its_number(tmp_path, start, end):
    (tmp_path / "a.jsonl").write_bytes(start + b"\n".join(line for line, _ in HOSTILE) + end)
    built = collected(files_at(tmp_path / "a.jsonl"), tmp_path / "data")
    rows, refused = rows_of(built), refused_by(built)
    assert [row["text"] for row in rows] == TEXTS
    assert len({row["id"] for row in [*rows, *refused]}) == len(TEXTS) + len(RULES)
    assert [row["source_id"] for row in rows if row["text"] in ("first", "second")] == ["same", "same"]
    assert [(int(row["value"]), row["rule"]) for row in refused] == RULES
    assert all(row["source_id"] == "a.jsonl" and row["reason"] and row["stage"] == "collect" for row in refused)
    assert all("\n" not in row["reason"] for row in refused)
    assert all(len(row["text"]) <= 1000 for row in refused)
    assert pq.read_schema(built.dropped()[0]).remove_metadata().equals(DROPPED)
    assert [(entry["file"], entry["line"]) for entry in quarantine(built)] == [("a.jsonl", line) for line, _ in RULES]
    assert built.total("documents_in") == len(TEXTS) + len(RULES)
    assert built.summary()["counters"]["replaced"] == 3


def test_the_head_of_a_refused_line_is_kept_to_look_at(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'plain words\n{"text": 7, "more": "of it"}\n')
    heads = [row["text"] for row in refused_by(collected(files_at(tmp_path / "a.jsonl"), tmp_path / "data"))]
    assert heads == ["plain words\n", '{"text": 7, "more": "of it"}']


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet", "a.md"])
def test_an_empty_file_stops_nothing(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).touch()
    (tmp_path / "folder" / "z.jsonl").write_bytes(b'{"text": "words"}')
    built = collected(files_at(tmp_path / "folder"), tmp_path / "data")
    assert [row["text"] for row in rows_of(built) if row["text"]] == ["words"]


def test_a_line_of_a_hundred_megabytes_costs_no_other_line(tmp_path):
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "after"}\n')
    limits = LIMITS._replace(document_bytes=10_000_000)
    built = collected(files_at(tmp_path / "a.jsonl"), tmp_path / "data", limits=limits)
    assert [row["text"] for row in rows_of(built)] == ["before", "after"]
    assert [(row["rule"], row["value"]) for row in refused_by(built)] == [("too_large", 2.0)]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file of some megabytes, in which every kind of line stands near every kind of cut, once a block."""
    path = tmp_path_factory.mktemp("large") / "large.jsonl"
    with path.open("wb") as file:
        number = 0
        while file.tell() < 3.5 * BLOCK:
            file.write(b'{"text": "' + b"%d" % number + b"." * (number * 37 % 900) + b'"}\n')
            number += 1
            if number % 500 == 0:
                file.write(b"\n".join(line for line, _ in HOSTILE) + b"\n")
    return path


@pytest.mark.parametrize("shard_bytes", [BLOCK // 3, BLOCK, 2 * BLOCK])
def test_a_large_file_in_pieces_gives_what_it_gives_whole(large, tmp_path, shard_bytes):
    whole = collected(files_at(large), tmp_path / "whole", shard_bytes=10**9)
    assert len(whole.shards) == 1
    parts = collected(files_at(large), tmp_path / "parts", shard_bytes=shard_bytes)
    assert len(parts.shards) > 1
    assert rows_of(parts) == rows_of(whole)
    assert refused_by(parts) == refused_by(whole)
    assert len(refused_by(whole)) > 3 * len(RULES)
    lines = large.read_bytes().split(b"\n")
    for row in [*rows_of(parts)[::97], *refused_by(parts)]:
        number = int(row["source_id"].partition(":")[2] or row.get("value") or 0)
        if row["source_id"] != "same":
            assert row["text"][:9].encode("utf-8", "replace") in lines[number - 1] or "\ufffd" in row["text"]


def test_serial_and_pool_read_the_pieces_of_a_large_file_alike(large, tmp_path):
    pool = Pool(workers=2)
    parallel = collected(files_at(large), tmp_path / "pool", shard_bytes=BLOCK, executor=pool)
    pool.close()
    serial = collected(files_at(large), tmp_path / "serial", shard_bytes=BLOCK)
    assert [file.read_bytes() for file in serial.files()] == [file.read_bytes() for file in parallel.files()]
    assert [file.read_bytes() for file in serial.dropped()] == [file.read_bytes() for file in parallel.dropped()]


def test_a_large_text_file_in_lines_is_read_in_pieces_too(tmp_path):
    texts = [f"line {number} " + "." * (number % 200) for number in range(20_000)]
    (tmp_path / "a.txt").write_text("\r\n".join(texts), "utf-8", newline="")
    built = collected(files_at(tmp_path / "a.txt", unit="line"), tmp_path / "data", shard_bytes=BLOCK // 2)
    assert len(built.shards) > 1
    assert [row["text"] for row in rows_of(built)] == texts
    assert [row["source_id"] for row in rows_of(built)] == [f"a.txt:{number}" for number in range(1, 20_001)]


@given(
    content=st.lists(st.sampled_from([b"", b"a", b"\r", b"four", b"seven c", b"over the limit"])).map(b"\n".join),
    end=st.sampled_from([b"", b"\n"]),
    data=st.data(),
)
def test_the_pieces_of_any_file_together_give_each_line_once(content, end, data):
    content += end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    reading = Reading("a", Limits(4, 1.0, 0.0), "text", "line", "resiliparse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "HEAD", 6)  # ten bytes are the longest line
        found = []
        for start, stop in pairwise([0, *cuts, len(content)]):
            piece = dataclasses.replace(reading, start=start, end=stop, lines_before=content[:start].count(b"\n"))
            found += list(lines(io.BytesIO(content), piece))
    expected, place = [], 0
    for number, line in enumerate(io.BytesIO(content), 1):
        expected.append((place, number, None if len(line) > 10 else line))
        place += len(line)
    assert found == expected


class Meddles(Files):
    """Files that someone writes to while they are read."""

    def __init__(self, meddle, *paths):
        super().__init__(paths=[str(path) for path in paths], text_field="text", unit="file", extractor="resiliparse")
        self.meddle = meddle

    def read(self, file, limits):
        for number, item in enumerate(super().read(file, limits)):
            if number == 0:
                self.meddle(file.path)
            yield item


def texts_of(built):
    return [row["text"] for row in rows_of(built)]


@pytest.fixture
def folder(tmp_path):
    """Two files, of which a.jsonl is to be meddled with."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"".join(b'{"text": "old %d"}\n' % number for number in range(3)))
    (folder / "b.jsonl").write_bytes(b'{"text": "other"}\n')
    return folder


def test_what_is_appended_to_a_file_while_it_is_read_does_no_harm(folder, tmp_path):
    def append(path):
        with open(path, "ab") as file:  # noqa: PTH123
            file.write(b'{"text": "more"}\n')

    built = collected(Meddles(append, folder), tmp_path / "data")
    assert texts_of(built) == ["old 0", "old 1", "old 2", "other"]
    assert quarantine(built) == []


@pytest.mark.parametrize("size", [1, 40], ids=["shorter", "longer"])
def test_a_file_that_is_rewritten_while_it_is_read_is_read_anew(folder, tmp_path, size):
    times = []

    def rewrite(path):
        if path.endswith("a.jsonl") and not times:
            times.append(path)
            (folder / "a.jsonl").write_text("".join(json.dumps({"text": f"new {n}"}) + "\n" for n in range(size)))

    built = collected(Meddles(rewrite, folder), tmp_path / "data")
    assert times
    assert texts_of(built) == [*(f"new {number}" for number in range(size)), "other"]


def test_a_file_rewritten_with_the_same_size_is_noticed(folder, tmp_path):
    times = []

    def rewrite(path):
        if path.endswith("a.jsonl") and not times:
            times.append(path)
            content = (folder / "a.jsonl").read_bytes().replace(b"old", b"new")
            (folder / "a.jsonl").write_bytes(content)
            os.utime(path, ns=(1, 1))

    built = collected(Meddles(rewrite, folder), tmp_path / "data")
    assert texts_of(built) == ["new 0", "new 1", "new 2", "other"]


def test_a_file_that_always_changes_is_left_out_and_told(folder, tmp_path):
    times = []

    def rewrite(path):
        if path.endswith("a.jsonl"):
            times.append(path)
            (folder / "a.jsonl").write_text(json.dumps({"text": f"new {len(times)}"}))

    built = collected(Meddles(rewrite, folder), tmp_path / "data")
    assert texts_of(built) == ["other"]
    assert quarantine(built) == [{"file": "a.jsonl", "line": None, "reason": "the file changes while it is read"}]
    assert 0 < len(times) < 5


def test_a_file_that_vanishes_while_the_corpus_is_read_is_left_out(folder, tmp_path):
    def remove(path):
        if path.endswith("a.jsonl"):
            (folder / "b.jsonl").unlink(missing_ok=True)

    built = collected(Meddles(remove, folder), tmp_path / "data")
    assert texts_of(built) == ["old 0", "old 1", "old 2"]
