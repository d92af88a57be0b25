"""The first stage: from files to shards of documents."""

import json
import os

import pyarrow.parquet as pq
import pytest

from pretrain.data.collect import collect, list_files, quarantine
from pretrain.data.documents import DOCUMENT
from pretrain.data.executors import Pool, Serial
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits
from pretrain.data.stages import Silent, Workspace
from pretrain.errors import DataError

LIMITS = Limits(document_bytes=64_000_000, expansion=200.0, replaced=0.01)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def files_at(*paths, **more):
    settings = {"text_field": "text", "unit": "file", "extractor": "resiliparse", **more}
    return Files(paths=[str(path) for path in paths], **settings)


def listing_of(folder, data_dir, name="files", shard_bytes=10**6, limits=LIMITS):
    return list_files({name: files_at(folder)}, {name: {"text_field": "text"}}, limits, shard_bytes, data_dir)


def collected(folder, data_dir, name="files", shard_bytes=10**6, executor=None, limits=LIMITS):
    listing = listing_of(folder, data_dir, name, shard_bytes, limits)
    return collect(listing, Workspace(data_dir, executor or Serial(), Silent()))


def rows_of(built):
    return [row for file in built.files() for row in pq.read_table(file).to_pylist()]


def fill(folder, sizes):
    for number, size in enumerate(sizes):
        (folder / f"{number}.txt").write_text(str(number) * size, "utf-8")


def test_documents_have_all_columns(corpus, data_dir):
    (corpus / "a.txt").write_text("words", "utf-8")
    (corpus / "b.jsonl").write_text('{"text": "more", "id": "b7", "year": 1905}', "utf-8")
    built = collected(corpus, data_dir)
    first, second = rows_of(built)
    assert first == {"id": first["id"], "text": "words", "source": "files", "source_id": "a.txt", "meta": "{}"}
    assert second["source_id"] == "b7"
    assert json.loads(second["meta"]) == {"year": 1905}
    assert len({first["id"], second["id"]}) == 2
    assert all(pq.read_schema(file).remove_metadata().equals(DOCUMENT) for file in built.files())
    assert (built.total("documents_out"), built.total("bytes_out")) == (2, 9)


def test_what_cannot_be_read_is_quarantined_with_file_and_line(corpus, data_dir):
    (corpus / "a.txt").write_text("words", "utf-8")
    lines = ['{"text": "one"}', '{"text": nu', '{"text": null}', '{"text": 7}', "{}", '{"text": "two"}', ""]
    (corpus / "b.jsonl").write_text("\n".join(lines), "utf-8")
    built = collected(corpus, data_dir)
    assert [row["text"] for row in rows_of(built)] == ["words", "one", "two"]
    places = [(entry["file"], entry["line"]) for entry in quarantine(built)]
    assert places == [("b.jsonl", line) for line in (2, 3, 4, 5)]
    assert all(entry["reason"] for entry in quarantine(built))
    assert built.summary()["reasons"] == {"no_text": 3, "not_json": 1}
    assert (built.total("documents_in"), built.total("documents_out")) == (7, 3)


def test_replaced_bytes_are_counted(corpus, data_dir):
    (corpus / "a.txt").write_bytes(b"a\xff\xfeb" + b"." * 300)
    (corpus / "b.jsonl").write_bytes(rb'{"text": "\ud800"}')
    (corpus / "c.txt").write_bytes(b"a\0b" + b"." * 300)
    built = collected(corpus, data_dir)
    assert [row["text"].rstrip(".") for row in rows_of(built)] == ["a\ufffd\ufffdb", "\ufffd", "a\ufffdb"]
    assert built.summary()["counters"] == {"replaced": 4}
    assert quarantine(built) == []


def test_a_text_with_too_many_broken_bytes_is_refused(corpus, data_dir):
    """Of 1000 characters 10 may be broken: one in a hundred."""
    for broken in (10, 11):
        (corpus / f"{broken}.txt").write_bytes(b"\xff" * broken + b"." * (1000 - broken))
        (corpus / f"{broken}.md").write_bytes(b"\0" * broken + b"." * (1000 - broken))
    built = collected(corpus, data_dir)
    assert [row["source_id"] for row in rows_of(built)] == ["10.md", "10.txt"]
    assert built.summary()["reasons"] == {"not_text": 2}
    assert quarantine(built)[0]["reason"] == "11 of 1,000 characters are not text in UTF-8"


def test_hostile_names_and_ids_reach_the_shards(corpus, data_dir):
    (corpus / "a.jsonl").write_bytes(rb'{"text": "x", "id": "\ud800", "\udfff": "\udfff"}')
    try:
        (corpus / os.fsdecode(b"b\xff.txt")).write_text("words", "utf-8")
    except OSError:
        (corpus / "b.txt").write_text("words", "utf-8")
    assert [row["text"] for row in rows_of(collected(corpus, data_dir))] == ["x", "words"]


def test_ids_and_key_do_not_depend_on_the_path_of_the_folder(tmp_path, tiny_corpus):
    results = []
    for folder in (tmp_path / "one", tmp_path / "another" / "deeper"):
        (folder / "inner").mkdir(parents=True)
        for number, text in enumerate(tiny_corpus):
            (folder / "inner" / f"{number:02d}.txt").write_text(text, "utf-8")
        results.append(collected(folder, tmp_path / f"data of {folder.name}"))
    assert results[0].key == results[1].key
    assert rows_of(results[0]) == rows_of(results[1])


def test_ids_do_not_depend_on_the_size_of_the_shards(corpus, data_dir):
    fill(corpus, [100] * 7)
    one, many = collected(corpus, data_dir), collected(corpus, data_dir, shard_bytes=250)
    assert (len(one.shards), len(many.shards)) == (1, 4)
    assert rows_of(one) == rows_of(many)


def test_the_same_file_in_two_sources_has_two_ids(corpus, data_dir):
    fill(corpus, [5])
    first, second = collected(corpus, data_dir, "one"), collected(corpus, data_dir, "two")
    assert rows_of(first)[0]["id"] != rows_of(second)[0]["id"]


def test_a_file_is_never_split_between_shards(corpus, data_dir):
    fill(corpus, [10, 500, 10, 10, 70, 30])
    built = collected(corpus, data_dir, shard_bytes=100)
    shards = [[len(row["text"]) for row in pq.read_table(file).to_pylist()] for file in built.files()]
    assert shards == [[10], [500], [10, 10, 70], [30]]


def test_serial_and_pool_give_the_same_bytes(corpus, data_dir, tmp_path):
    fill(corpus, [100] * 5)
    pool = Pool(workers=2)
    parallel = collected(corpus, tmp_path / "pool", shard_bytes=200, executor=pool)
    pool.close()
    serial = collected(corpus, data_dir, shard_bytes=200)
    assert len(serial.shards) == 3
    assert [file.read_bytes() for file in serial.files()] == [file.read_bytes() for file in parallel.files()]


def test_a_second_run_does_nothing(corpus, data_dir):
    fill(corpus, [10, 20])
    first = collected(corpus, data_dir)
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    assert collected(corpus, data_dir) == first
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before


@pytest.mark.parametrize("change", ["content", "name", "new file", "gone", "source's name", "shard_bytes"])
def test_a_change_is_noticed(corpus, data_dir, change):
    fill(corpus, [10, 20])
    before = listing_of(corpus, data_dir).key
    more = {}
    if change == "content":
        (corpus / "0.txt").write_text("1" * 10, "utf-8")
    elif change == "name":
        (corpus / "0.txt").rename(corpus / "00.txt")
    elif change == "new file":
        (corpus / "2.txt").touch()
    elif change == "gone":
        (corpus / "1.txt").unlink()
    else:
        more = {"name": "other"} if change == "source's name" else {"shard_bytes": 7}
    assert listing_of(corpus, data_dir, **more).key != before


def test_a_touched_file_with_the_same_content_changes_nothing(corpus, data_dir):
    fill(corpus, [10, 20])
    before = listing_of(corpus, data_dir).key
    os.utime(corpus / "0.txt", ns=(1, 1))
    assert listing_of(corpus, data_dir).key == before


def test_the_hash_of_an_unchanged_file_comes_from_the_cache(corpus, data_dir):
    fill(corpus, [10, 20])
    before = listing_of(corpus, data_dir).key
    stat = (corpus / "0.txt").stat()
    (corpus / "0.txt").write_text("9" * 10, "utf-8")  # of the same size, and made to look as old
    os.utime(corpus / "0.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert listing_of(corpus, data_dir).key == before
    (data_dir / "file_hashes.json").unlink()
    assert listing_of(corpus, data_dir).key != before


def test_the_cache_keeps_what_it_knows_of_other_files(corpus, data_dir, tmp_path):
    fill(corpus, [10])
    other = tmp_path / "other"
    other.mkdir()
    fill(other, [20])
    listing_of(corpus, data_dir)
    listing_of(other, data_dir)
    assert set(json.loads((data_dir / "file_hashes.json").read_text("utf-8"))) == {
        str(corpus / "0.txt"),
        str(other / "0.txt"),
    }


def test_a_corpus_without_files_is_refused(corpus, data_dir):
    (corpus / "image.png").touch()
    with pytest.raises(DataError, match="the corpus is empty: no file in files"):
        listing_of(corpus, data_dir)
    with pytest.raises(DataError, match="the corpus is empty"):
        list_files({}, {}, LIMITS, 100, data_dir)
