"""Files that are not what their names say, or hold one thing that cannot be read: no other record is lost for it."""

import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretrain.data.collect import collect_sources
from pretrain.data.executors import Serial
from pretrain.data.sources import archives
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits, Record, Refused, Unreadable
from pretrain.data.stages import Silent, Workspace

LIMITS = Limits(document_bytes=10**6, expansion=200.0, replaced=0.1)


def files_at(path, text_field="text", unit="file"):
    return Files(paths=[str(path)], text_field=text_field, unit=unit, extractor="trafilatura")


def read(path, text_field="text", limits=LIMITS):
    """The texts of the records, and the rules of what is refused, in order."""
    source = files_at(path, text_field)
    found: list[str] = []
    for file in source.files():
        try:
            for item in source.read(file, limits):
                found.append(item.text if isinstance(item, Record) else item.rule)
                assert isinstance(item, Record | Refused)
        except Unreadable as fault:
            found.append(fault.rule)
    return found


@pytest.mark.parametrize("unit", ["file", "line"])
@pytest.mark.parametrize("name", ["wrong.jsonl", "wrong.txt"])
def test_a_large_file_is_split_by_what_it_holds_and_not_by_its_name(tmp_path, name, unit):
    texts = [f"{number:060d}" for number in range(60_000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / name, compression="none")
    assert (tmp_path / name).stat().st_size > 3 * 10**6
    at = Workspace(tmp_path / "data", Serial(), Silent())
    built = collect_sources({"files": files_at(tmp_path / name, unit=unit)}, {}, LIMITS, 1_100_000, at)
    assert sorted(text for file in built.files() for text in pq.read_table(file)["text"].to_pylist()) == texts


def test_a_row_of_csv_that_is_too_long_is_told_and_the_next_one_is_read(tmp_path):
    (tmp_path / "a.csv").write_text(f"text\none\n{'x' * 50_000}\ntwo\n", "utf-8")
    assert read(tmp_path / "a.csv", limits=LIMITS._replace(document_bytes=1000)) == ["one", "too_large", "two"]


def test_csv_whose_lines_end_like_an_old_macs_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text\rone\rtwo\r")
    assert read(tmp_path / "a.csv") in (["not_csv"], ["one", "two"])


def test_what_follows_an_array_is_told(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "a"}]\n[{"text": "b"}]', "utf-8")
    assert read(tmp_path / "a.json") == ["a", "not_json"]


@pytest.mark.parametrize("first", ["not JSON", '{"text": "cut'])
def test_lines_of_json_are_known_though_the_first_one_is_bad(tmp_path, first):
    (tmp_path / "a.json").write_text(f'{first}\n{{"text": "one"}}\n{{"text": "two"}}\n', "utf-8")
    assert read(tmp_path / "a.json") == ["not_json", "one", "two"]


def test_an_array_with_an_object_a_line_is_an_array(tmp_path):
    (tmp_path / "a.json").write_text('[\n{"text": "one"},\n{"text": "two"}\n]\n', "utf-8")
    assert read(tmp_path / "a.json") == ["one", "two"]


def test_a_cell_of_parquet_that_is_not_utf8_costs_its_row_alone(tmp_path):
    texts = pa.array([b"one", b"tw\xff", b"three"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["one", "damaged", "three"]


def test_a_date_that_python_does_not_know_costs_its_row_alone(tmp_path):
    dates = pa.array([0, 10**6, 4 * 10**6], pa.int32()).view(pa.date32())
    pq.write_table(pa.table({"text": ["one", "two", "three"], "date": dates}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["one", "two", "damaged"]


def test_the_members_of_a_zip_are_capped_together(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 20_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(f"{number}.txt", "0" * 15_000)
        archive.writestr("last.txt", "x")
    limits = LIMITS._replace(expansion=20.0)
    assert [len(text) for text in read(tmp_path / "a.zip", limits=limits)].count(15_000) < 5
    assert "bomb" in read(tmp_path / "a.zip", limits=limits)


@pytest.mark.parametrize("how", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_of_a_zip_costs_no_other(tmp_path, how):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", how) as archive:
        archive.writestr("a.txt", "".join(map(str, range(9000))))
        archive.writestr("b.txt", "good")
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[200:260] = bytes(60)
    (tmp_path / "a.zip").write_bytes(raw)
    assert read(tmp_path / "a.zip") == ["damaged", "good"]


def test_the_text_may_stand_in_the_field_id(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "the text"}), "utf-8")
    assert read(tmp_path / "a.jsonl", text_field="id") == ["the text"]


def test_cyrillic_in_escapes_is_no_longer_than_its_text(tmp_path):
    text = "д" * 490
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}), "utf-8")
    assert read(tmp_path / "a.jsonl", limits=LIMITS._replace(document_bytes=1000)) == [text]
