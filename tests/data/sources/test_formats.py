"""What is read of each format, whole, compressed, cut and misnamed: no good record is lost, each bad one is told."""

import bz2
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits, Record, Refused, Unreadable

LIMITS = Limits(document_bytes=10_000, expansion=200.0, replaced=0.01)
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstd.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def read(path, unit="file", text_field="text", limits=LIMITS):
    """The records and refusals of all files at `path`; the end of one that cannot be read on is the last refusal."""
    source = Files(paths=[str(path)], text_field=text_field, unit=unit, extractor="resiliparse")
    found = []
    for file in source.files():
        try:
            for item in source.read(file, limits):
                found.append(item)  # noqa: PERF402  what comes before a fault counts
        except Unreadable as error:
            found.append(Refused(-1, error.rule, str(error)))
    return found


def texts(found):
    return [item.text for item in found if isinstance(item, Record)]


def rules(found):
    return [item.rule for item in found if isinstance(item, Refused)]


def parquet(rows, **options):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows) if isinstance(rows, list) else rows, buffer, **options)
    return buffer.getvalue()


LINES = b'{"text": "one"}\n{"text": "two\\nlines", "id": "b", "n": 1}\n'
CASES = {
    "a.txt": (b"one\ntwo\n", ["one\ntwo\n"]),
    "a.md": (b"# one\n", ["# one\n"]),
    "a.py": (b"one = 1\n", ["one = 1\n"]),
    "a.jsonl": (LINES, ["one", "two\nlines"]),
    "a.ndjson": (LINES, ["one", "two\nlines"]),
    "a.JSONL": (LINES, ["one", "two\nlines"]),
    "a.json": (b'[{"text": "one"}, {"text": "two\\nlines"}, "three"]', ["one", "two\nlines", "three"]),
    "object.json": (b'{\n "text": "one",\n "more": {"a": [1]}\n}\n', ["one"]),
    "lines.json": (LINES, ["one", "two\nlines"]),
    "pretty.json": (b'{\n "text": "one"\n}\n{\n "text": "two"\n}\n', ["one", "two"]),
    "marked.json": (b'\xef\xbb\xbf[{"text": "one"}]', ["one"]),
    "a.csv": (b'id,text,n\n1,one,2\n2,"two\nlines, ""quoted""",3\n', ["one", 'two\nlines, "quoted"']),
    "a.tsv": (b'text\tn\r\none, or more\t2\r\n"two\r\nlines"\t3\r\n', ["one, or more", "two\r\nlines"]),
}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", CASES)
def test_every_format_is_read_alike_however_it_is_compressed(tmp_path, name, suffix):
    content, expected = CASES[name]
    (tmp_path / f"{name}{suffix}").write_bytes(COMPRESS[suffix](content))
    found = read(tmp_path)
    assert texts(found) == expected
    assert rules(found) == []
    assert len({item.position for item in found}) == len(found)


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("a.txt", "a.md", "a.py", "object.json")])
def test_a_cut_file_of_any_format_keeps_the_good_records_before_the_cut(tmp_path, name, suffix):
    content, expected = CASES[name]
    first, second = (content[:-1], b"," + b"x" * 3000) if content.endswith(b"]") else (content, b"x" * 3000)
    (tmp_path / f"{name}{suffix}").write_bytes(COMPRESS[suffix](first) + COMPRESS[suffix](second)[:-5])
    found = read(tmp_path)
    assert texts(found) == expected
    assert rules(found) == ["truncated"]


def test_records_have_their_own_id_the_rest_as_meta_and_their_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.csv").write_bytes(CASES["a.csv"][0])
    one, two, three, four = read(tmp_path)
    assert (one.name, one.line, one.meta) == ("a.jsonl:1", 1, "{}")
    assert (two.name, two.line, json.loads(two.meta)) == ("b", 2, {"n": 1})
    assert (three.name, three.line, json.loads(three.meta)) == ("1", 2, {"n": "2"})
    assert (four.name, four.line, json.loads(four.meta)) == ("2", 3, {"n": "3"})


def test_plain_text_is_a_document_a_file_a_line_or_a_paragraph(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\r\ntwo\r\n\r\n \r\n吾輩\n\n\nlast".encode())
    assert texts(read(tmp_path)) == ["one\r\ntwo\r\n\r\n \r\n吾輩\n\n\nlast"]
    found = read(tmp_path, unit="line")
    assert [(item.text, item.name, item.line) for item in found] == [
        ("one", "a.txt:1", 1),
        ("two", "a.txt:2", 2),
        ("吾輩", "a.txt:5", 5),
        ("last", "a.txt:8", 8),
    ]
    found = read(tmp_path, unit="paragraph")
    assert [(item.text, item.name, item.line) for item in found] == [
        ("one\r\ntwo", "a.txt:1", 1),
        ("吾輩", "a.txt:5", 5),
        ("last", "a.txt:8", 8),
    ]
    assert [item.position for item in found] == [0, 15, 24]


@given(st.lists(st.lists(st.sampled_from(["a", "two words", " indented", "吾輩"]), min_size=1), min_size=1))
def test_paragraphs_and_lines_are_split_where_they_were_joined(tmp_path_factory, paragraphs):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("\n\n".join("\n".join(paragraph) for paragraph in paragraphs), "utf-8")
    assert texts(read(path, unit="paragraph")) == ["\n".join(paragraph) for paragraph in paragraphs]
    assert texts(read(path, unit="line")) == [line for paragraph in paragraphs for line in paragraph]


def test_of_a_paragraph_that_is_too_long_nothing_is_read_and_the_next_one_is(tmp_path):
    long = "\n".join(["x" * 500] * 60)
    (tmp_path / "a.txt").write_text(f"before\n\n{long}\n\nafter", "utf-8")
    found = read(tmp_path, unit="paragraph")
    assert [item.rule if isinstance(item, Refused) else item.text for item in found] == ["before", "too_large", "after"]
    assert (found[1].line, found[2].line) == (3, 64)
    assert rules(read(tmp_path)) == ["too_large"]


def test_an_array_that_is_cut_keeps_its_good_elements(tmp_path):
    whole = json.dumps([{"text": f"text {n}"} for n in range(5000)])
    for cut in (len(whole) // 2, len(whole) - 1, 7):
        (tmp_path / "a.json").write_text(whole[:cut])
        found = read(tmp_path)
        assert texts(found) == [f"text {n}" for n in range(whole[:cut].count("}"))]
        assert rules(found) == ["not_json"]


def test_a_bad_element_of_an_array_is_told_and_the_others_are_read(tmp_path):
    (tmp_path / "a.json").write_bytes(rb'[{"text": "one"}, 7, null, [1], {"text": null}, {"a": 1}, {"text": "\ud800"}]')
    found = read(tmp_path)
    assert texts(found) == ["one", "\ufffd"]
    assert rules(found) == ["no_text"] * 5
    assert (found[-1].replaced, found[-1].surrogates) == (0, 1)


def test_broken_bytes_and_nuls_are_counted_once_in_every_format(tmp_path):
    broken = b"a\xff" + b"." * 300 + b"\0"
    contents = {
        "a.txt": broken,
        "b.jsonl": b'{"text": "' + broken[:-1] + rb'\u0000"}',
        "c.json": b'[{"text": "' + broken[:-1] + rb'\u0000"}]',
        "d.csv": b"text\n" + broken + b"\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = read(tmp_path)
    assert texts(found) == ["a\ufffd" + "." * 300 + "\ufffd"] * 4
    assert [item.replaced for item in found] == [2] * 4


def test_elements_larger_than_what_is_read_at_once_are_whole(tmp_path):
    long = "吾輩" * 100_000
    (tmp_path / "a.json").write_text(json.dumps(["a", long, "b"], ensure_ascii=False), "utf-8")
    assert texts(read(tmp_path, limits=LIMITS._replace(document_bytes=10**6))) == ["a", long, "b"]
    assert texts(read(tmp_path)) == ["a"]
    assert rules(read(tmp_path)) == ["not_json"]


@given(st.lists(st.integers(-(10**9), 10**9)), st.integers(1, 9))
def test_elements_do_not_depend_on_how_much_is_read_at_once(tmp_path_factory, numbers, size):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps([*numbers, {"text": "words"}]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretrain.data.sources.formats.CHUNK", size)
        found = read(path)
    assert texts(found) == ["words"]
    assert [item.head for item in found[:-1]] == [str(number) for number in numbers]


def test_rows_of_csv_that_are_none_are_told_with_their_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b'text,n\n"one\ntwo",1\nalone\n\n"three",1,2\nfour,1\n' + b"x" * 20_000 + b",1\nfive,1"
    )
    found = read(tmp_path)
    assert texts(found) == ["one\ntwo", "four", "five"]
    assert [(item.rule, item.line) for item in found if isinstance(item, Refused)] == [
        ("not_csv", 4),
        ("not_csv", 6),
        ("not_csv", 8),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b"a,b\n1,2\n"), ("a.tsv", b"a\tb\n1\t2\n"), ("a.parquet", parquet([{"a": 1}])), ("a.csv", b"\n")],
)
def test_a_table_without_the_column_is_told_with_those_there_are(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (found,) = read(tmp_path)
    assert found.rule == "no_text"
    assert "no column 'text'" in found.reason
    assert content == b"\n" or "there are a" in found.reason


def test_parquet_gives_a_document_a_row_and_tells_those_without_text(tmp_path):
    rows = [{"text": f"text {n}", "id": n, "when": None} for n in range(200)]
    rows[7]["text"] = None
    rows[8]["text"] = "nul \0 " + "." * 300
    (tmp_path / "a.parquet").write_bytes(parquet(rows, row_group_size=50))
    found = read(tmp_path)
    assert len(found) == 200
    assert rules(found) == ["no_text"]
    assert found[7].reason == "no text: 'text' is null"
    assert (found[8].text[:6], found[8].replaced) == ("nul \ufffd ", 1)
    assert (found[3].name, json.loads(found[3].meta)) == ("3", {"when": None})
    assert [item.position for item in found] == list(range(200))


@pytest.mark.parametrize("column", [[1, 2], [["a"], []], [{"a": 1}, None], [b"bytes", b"\xff"], [1.5, None]], ids=repr)
def test_a_column_that_holds_no_text_is_told_row_by_row(tmp_path, column):
    (tmp_path / "a.parquet").write_bytes(parquet(pa.table({"text": column})))
    assert rules(read(tmp_path)) == ["no_text"] * 2


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_of_any_arrow_type_is_read(tmp_path, kind):
    (tmp_path / "a.parquet").write_bytes(parquet(pa.table({"text": pa.array(["a", "b", "a"]).cast(kind)})))
    assert texts(read(tmp_path)) == ["a", "b", "a"]


def test_parquet_with_text_that_is_not_utf8_is_told(tmp_path):
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    (tmp_path / "a.parquet").write_bytes(parquet(pa.table({"text": broken})))
    assert rules(read(tmp_path)) in (["damaged"], ["wrong_format"])


@pytest.mark.parametrize("damage", ["cut", "no Parquet", "empty", "only its mark", "JSON lines"])
def test_a_file_that_is_no_whole_parquet_is_told_and_stops_nothing(tmp_path, damage):
    whole = parquet([{"text": "x" * 1000}] * 50)
    contents = {"cut": whole[:-20], "no Parquet": b"words", "empty": b"", "only its mark": b"PAR1", "JSON lines": LINES}
    (tmp_path / "a.parquet").write_bytes(contents[damage])
    (tmp_path / "b.jsonl").write_bytes(LINES)
    found = read(tmp_path)
    assert texts(found) == ["one", "two\nlines"]
    assert rules(found) == ["wrong_format"]
    assert "\n" not in found[0].reason


def test_a_flipped_byte_in_parquet_is_no_crash(tmp_path):
    whole = bytearray(parquet([{"text": f"text {n}"} for n in range(500)], row_group_size=100, compression="zstd"))
    for place in range(4, len(whole), len(whole) // 25):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        (tmp_path / "a.parquet").write_bytes(flipped)
        found = read(tmp_path)
        assert len(texts(found)) == 500 or rules(found)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gzip.jsonl", gzip.compress(LINES, mtime=0), ["one", "two\nlines"]),
        ("zstd.txt", zstd.compress(b"words"), ["words"]),
        ("plain.jsonl.gz", LINES, ["one", "two\nlines"]),
        ("xz.jsonl.gz", lzma.compress(LINES), ["one", "two\nlines"]),
        ("parquet.jsonl", parquet([{"text": "row"}]), ["row"]),
        ("twice.jsonl.gz.gz", gzip.compress(LINES, mtime=0), ["one", "two\nlines"]),
    ],
)
def test_the_content_counts_where_the_name_lies(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    found = read(tmp_path)
    assert texts(found) == expected
    assert rules(found) == []


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(128, 256)) * 30


@pytest.mark.parametrize("name", ["image.txt", "image.jsonl", "image.csv", "image.json", "image.parquet", "image.tar"])
def test_a_picture_under_another_name_is_told_or_counted_as_broken(tmp_path, name):
    (tmp_path / name).write_bytes(PNG)
    found = read(tmp_path)
    assert found
    assert all(isinstance(item, Refused) or item.replaced > LIMITS.replaced * len(item.text) for item in found)
