"""Local files as a corpus: what is read, and what is replaced or refused."""

import json
import os

import pytest

from pretrain.data.sources.files import Files
from pretrain.data.sources.python_stdlib import TOPICS, PythonStandardLibrary
from pretrain.data.sources.reading import Limits, Record, Refused, decoded, mended
from pretrain.errors import UsageError

LIMITS = Limits(document_bytes=64_000_000, expansion=200.0, replaced=0.01)


def files_at(*paths, text_field="text"):
    return Files(paths=[str(path) for path in paths], text_field=text_field, unit="file", extractor="resiliparse")


def records_at(*paths, text_field="text"):
    source = files_at(*paths, text_field=text_field)
    return [record for file in source.files() for record in source.read(file, LIMITS)]


def test_a_text_file_is_one_document(tmp_path):
    text = "two\nlines, and 吾輩\r\nand a third\n\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (record,) = records_at(tmp_path)
    assert record == Record(0, "a.txt", text)


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "JSONL"])
def test_a_file_of_json_lines_is_one_document_a_line(tmp_path, suffix):
    rows = [{"text": "first\nline"}, {"text": "吾輩", "id": "cat", "year": 1905}, {"text": "", "id": 7}]
    file = tmp_path / f"a.{suffix}"
    file.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    first, second, third = records_at(tmp_path)
    assert [record.text for record in (first, second, third)] == [row["text"] for row in rows]
    assert [record.name for record in (first, second, third)] == [f"a.{suffix}:1", "cat", "7"]
    assert [record.line for record in (first, second, third)] == [1, 3, 5]
    assert [json.loads(record.meta) for record in (first, second, third)] == [{}, {"year": 1905}, {}]


def test_the_field_of_the_text_can_be_chosen(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "title", "body": "the body"}', "utf-8")
    (record,) = records_at(tmp_path, text_field="body")
    assert record.text == "the body"
    assert json.loads(record.meta) == {"text": "title"}


UNREADABLE = {
    "cut": b'{"text": "cut',
    "no JSON": b"plain words",
    "empty braces": b"{}",
    "null": b'{"text": null}',
    "number": b'{"text": 7}',
    "list": b'{"text": ["a"]}',
    "other field": b'{"content": "a"}',
    "array": b'["text"]',
    "string": b'"text"',
    "two values": b'{"text": "a"} {"text": "b"}',
    "huge number": b'{"text": "a", "n": ' + b"9" * 5000 + b"}",
    "deep": b'{"text": "a", "deep": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "NUL": b"\0",
    "byte order mark": b"\xef\xbb\xbf",
    "UTF-16": '{"text": "a"}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_line_that_is_no_document_is_told_with_its_number_and_loses_no_other(tmp_path, name):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "before"}\n' + UNREADABLE[name] + b'\n{"text": "after"}\n')
    before, bad, after = records_at(tmp_path)
    assert (before.text, after.text) == ("before", "after")
    assert isinstance(bad, Refused)
    assert bad.reason
    assert (bad.line, after.line) == (2, 3)
    assert "\n" not in bad.reason


def test_nested_records_of_any_depth_are_read_or_told(tmp_path):
    depths = [10, 500, *range(800, 1100), 20_000]
    lines = ['{"text": "a", "deep": ' + "[" * depth + "]" * depth + "}" for depth in depths]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    records = records_at(tmp_path)
    assert len(records) == len(depths)
    assert {record.rule for record in records if isinstance(record, Refused)} == {"not_json", "too_deep"}
    assert all(record.text == "a" for record in records if isinstance(record, Record))
    assert isinstance(records[0], Record)
    assert isinstance(records[-1], Refused)


@pytest.mark.parametrize("identity", [None, "", [1], {"a": 1}, "\ud800", "a\0b"], ids=repr)
def test_an_odd_id_does_not_stop_the_reading(tmp_path, identity):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a", "id": identity}), "utf-8")
    (record,) = records_at(tmp_path)
    assert record.text == "a"
    record.name.encode()  # it can be written down
    if identity is None:
        assert record.name == "a.jsonl:1"


@pytest.mark.parametrize(
    ("raw", "text", "replaced"),
    [
        (b"plain", "plain", 0),
        (b"a\xffb", "a\ufffdb", 1),
        (b"\xe5\x90 and \xff\xfe", "\ufffd and \ufffd\ufffd", 3),
        ("already \ufffd".encode(), "already \ufffd", 0),
        ("already \ufffd".encode() + b"\x80", "already \ufffd\ufffd", 1),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd", 3),
        (b"\xef\xbb\xbfmarked", "marked", 0),
        (b"\xef\xbb\xbfmarked\xff", "marked\ufffd", 1),
        (b"a\0b", "a\ufffdb", 1),
        (b"", "", 0),
    ],
)
def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path, raw, text, replaced):
    assert decoded(raw) == (text, replaced)
    (tmp_path / "a.txt").write_bytes(raw)
    (record,) = records_at(tmp_path)
    assert (record.text, record.replaced) == (text, replaced)


@pytest.mark.parametrize(
    ("line", "text", "replaced"),
    [
        (rb'{"text": "a\ud800b"}', "a\ufffdb", 1),
        (rb'{"text": "\udc00\ud800"}', "\ufffd\ufffd", 2),
        (rb'{"text": "\ud83d\ude42"}', "🙂", 0),
        (b'{"text": "a\xff\\ud800"}', "a\ufffd\ufffd", 2),
        (b'\xef\xbb\xbf{"text": "marked"}', "marked", 0),
    ],
)
def test_lone_surrogates_in_json_are_replaced_and_counted(tmp_path, line, text, replaced):
    (tmp_path / "a.jsonl").write_bytes(line)
    (record,) = records_at(tmp_path)
    assert (record.text, record.replaced + record.surrogates) == (text, replaced)
    assert mended(text) == (text, 0, 0)


def test_a_folder_is_searched_for_texts_in_the_order_of_names(tmp_path):
    for name in ("b.txt", "a/z.md", "a/y.PY", "c.jsonl", "image.png", "archive.tar.gz", "noext"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"text": "x"}', "utf-8")
    assert [file.name for file in files_at(tmp_path).files()] == [
        "a/y.PY",
        "a/z.md",
        "archive.tar.gz",
        "b.txt",
        "c.jsonl",
    ]


def test_a_file_that_is_named_is_read_whatever_its_suffix(tmp_path):
    (tmp_path / "noext").write_text("words", "utf-8")
    assert [record.text for record in records_at(tmp_path / "noext")] == ["words"]


def test_names_do_not_depend_on_where_the_folder_is(tmp_path):
    names = []
    for root in (tmp_path / "one", tmp_path / "two" / "deeper"):
        (root / "inner").mkdir(parents=True)
        (root / "inner" / "a.txt").write_text("a", "utf-8")
        names.append([file.name for file in files_at(root).files()])
    assert names == [["inner/a.txt"]] * 2


def test_files_of_the_same_name_in_two_folders_have_two_names(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder, "utf-8")
    assert [file.name for file in files_at(tmp_path / "one", tmp_path / "two").files()] == ["0/a.txt", "1/a.txt"]


def test_file_names_that_are_not_utf8_can_be_read_and_stay_apart(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"a\xff.txt")).write_text("words", "utf-8")
    except OSError:
        pytest.skip("this file system holds only names in UTF-8")
    (tmp_path / os.fsdecode(b"a\xfe.txt")).write_text("words", "utf-8")
    names = [file.name for file in files_at(tmp_path).files()]
    assert len({name.encode() for name in names}) == 2
    assert [record.text for record in records_at(tmp_path)] == ["words"] * 2


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere does not exist"):
        files_at(tmp_path, tmp_path / "nowhere").files()


def test_no_path_at_all_is_refused():
    with pytest.raises(UsageError, match=r"data\.paths, which is empty"):
        files_at().files()


def test_the_standard_library_is_a_corpus_of_some_hundred_texts():
    source = PythonStandardLibrary()
    files = source.files()
    records = [record for file in files for record in source.read(file, LIMITS)]
    assert 650 <= len(records) <= 900
    assert len({record.name for record in records}) == len(records)
    assert all(isinstance(record, Record) for record in records)
    assert not any({"site-packages", "test", "tests", "idlelib"} & set(file.name.split("/")[:-1]) for file in files)
    assert [file.name for file in files] == [file.name for file in source.files()]


def test_the_topics_of_pydoc_are_texts_of_their_own():
    source = PythonStandardLibrary()
    (file,) = (file for file in source.files() if file.name == TOPICS)
    records = {record.name: record.text for record in source.read(file, LIMITS)}
    assert len(records) > 60
    assert "\n" in records[f"{TOPICS}#assert"]
    assert "AssertionError" in records[f"{TOPICS}#assert"]
