"""Corpora of the Hugging Face Hub: local copies are read by the same library, and what cannot be reached is told."""

import gzip
import json
import os
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretrain.data.sources.hub import HuggingFace
from pretrain.data.sources.reading import Limits, Record, Refused, Unreadable
from pretrain.errors import UsageError

TEXTS = ["0 first", "0 吾輩", "1 first", "1 吾輩", "2 first", "2 吾輩"]  # of the copy below
LIMITS = Limits(document_bytes=1_000_000, expansion=1000.0, replaced=0.1)


def source_at(repository, **changes):
    settings = {
        "repository": str(repository),
        "subset": None,
        "split": "train",
        "revision": None,
        "folder": None,
        "text_field": "text",
        "id_field": None,
        "max_documents": None,
    }
    return HuggingFace(**settings | changes)


def records_at(repository, **changes):
    source = source_at(repository, **changes)
    return [record for file in source.files() for record in source.read(file, LIMITS)]


@pytest.fixture
def copy(tmp_path):
    """A copy of a dataset with a train split of three Parquet files and a test split of one."""
    (tmp_path / "data").mkdir()
    for number in range(3):
        table = pa.table({"id": [10 * number, 10 * number + 1], "text": [f"{number} first", f"{number} 吾輩"]})
        pq.write_table(table, tmp_path / f"data/train-{number:05}-of-00003.parquet")
    pq.write_table(pa.table({"id": [99], "text": ["held out"]}), tmp_path / "data/test-00000-of-00001.parquet")
    return tmp_path


def write_rows(folder, rows, name="train.jsonl"):
    (folder / name).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")


def test_each_shard_is_a_file_with_the_same_name_everywhere_and_its_size(copy):
    files = source_at(copy).files()
    assert [file.name for file in files] == [f"default/train/{shard:05}-of-00003" for shard in range(3)]
    sizes = [(copy / f"data/train-{shard:05}-of-00003.parquet").stat().st_size for shard in range(3)]
    assert [file.size for file in files] == sizes
    assert [file.fingerprint for file in files] == [None] * 3  # local: their content is hashed
    assert [os.path.basename(file.path)[:11] for file in files] == ["train-00000", "train-00001", "train-00002"]  # noqa: PTH119


def test_a_row_is_a_document_and_its_other_columns_are_its_metadata(copy):
    records = records_at(copy)
    assert [record.text for record in records] == TEXTS
    assert [record.name for record in records[::3]] == [
        "default/train/00000-of-00003:0",
        "default/train/00001-of-00003:1",
    ]
    assert [record.position for record in records] == [0, 1] * 3
    assert json.loads(records[-1].meta) == {"id": 21}


def test_a_column_can_name_the_documents(copy):
    record = records_at(copy, id_field="id")[-1]
    assert (record.name, record.meta) == ("21", "{}")


def test_split_and_folder_choose_what_is_read(copy):
    assert [record.text for record in records_at(copy, split="test")] == ["held out"]
    (copy / "other").mkdir()
    write_rows(copy / "other", [{"text": "elsewhere"}])
    assert [record.text for record in records_at(copy, folder="other")] == ["elsewhere"]


def test_only_the_first_documents_are_read_where_a_number_is_given(copy):
    whole = records_at(copy)
    for number in (1, 3, 6, 100):
        assert [record.text for record in records_at(copy, max_documents=number)] == [
            record.text for record in whole[:number]
        ]


def test_the_fingerprint_of_the_first_documents_changes_with_the_data(copy):
    (before,) = source_at(copy, max_documents=3).files()
    (again,) = source_at(copy, max_documents=3).files()
    assert before == again
    pq.write_table(pa.table({"id": [1], "text": ["changed"]}), copy / "data/train-00000-of-00003.parquet")
    (after,) = source_at(copy, max_documents=3).files()
    assert after.fingerprint != before.fingerprint


def test_subsets_of_a_card_are_chosen_by_name(tmp_path):
    card = "---\nconfigs:\n- config_name: ja\n  data_files: ja.jsonl\n- config_name: en\n  data_files: en.jsonl\n---\n"
    (tmp_path / "README.md").write_text(card, "utf-8")
    write_rows(tmp_path, [{"text": "猫"}], "ja.jsonl")
    write_rows(tmp_path, [{"text": "cat"}], "en.jsonl")
    assert [record.text for record in records_at(tmp_path, subset="en")] == ["cat"]
    assert source_at(tmp_path, subset="ja").files()[0].name == "ja/train/00000-of-00001"
    with pytest.raises(UsageError, match=r"ja.*en.*subset="):
        source_at(tmp_path).files()
    with pytest.raises(UsageError, match=r"fr.*ja.*en.*subset="):
        source_at(tmp_path, subset="fr").files()


def test_a_row_without_text_is_refused_and_those_behind_it_are_read(tmp_path):
    write_rows(tmp_path, [{"text": "a", "n": None}, {"text": None}, {"n": 2}, {"text": ""}, {"text": "e", "n": 5}])
    first, *refused, last = records_at(tmp_path)
    assert (first.text, json.loads(first.meta)) == ("a", {"n": None})
    assert [(type(row), row.rule, row.position) for row in refused] == [(Refused, "no_text", n) for n in (1, 2, 3)]
    assert (last.text, last.position) == ("e", 4)


@pytest.mark.parametrize("values", [[1, 2], [["a"], ["b"]], [{"a": "b"}, None], [b"a", b"b"]], ids=str)
def test_a_column_that_holds_no_text_is_refused_row_by_row(tmp_path, values):
    pq.write_table(pa.table({"text": values}), tmp_path / "train.parquet")
    assert [row.rule for row in records_at(tmp_path)] == ["no_text", "no_text"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_of_every_kind_is_read(tmp_path, kind):
    pq.write_table(pa.table({"text": pa.array(["猫", "a"]).cast(kind)}), tmp_path / "train.parquet")
    assert [record.text for record in records_at(tmp_path)] == ["猫", "a"]


def test_broken_bytes_nulls_and_surrogates_are_replaced_and_counted(tmp_path):
    raw = [b"a\0b", b"c\xffd", "e\ud800".encode("utf-8", "surrogatepass"), "猫".encode()]
    text = pa.Array.from_buffers(pa.string(), 4, pa.array(raw).buffers())
    pq.write_table(pa.table({"text": text, "also": text}), tmp_path / "train.parquet")
    records = records_at(tmp_path)
    assert [record.text for record in records] == ["a\ufffdb", "c\ufffdd", "e\ufffd\ufffd\ufffd", "猫"]
    assert [record.replaced for record in records] == [1, 1, 3, 0]
    assert "unreadable" in json.loads(records[1].meta)["also"]


def test_metadata_of_any_type_becomes_json(tmp_path):
    row = {"when": pa.scalar(0, pa.timestamp("s")), "raw": b"12345", "deep": [{"a": 1.5}], "text": "a"}
    pq.write_table(pa.table({name: [value] for name, value in row.items()}), tmp_path / "train.parquet")
    (record,) = records_at(tmp_path)
    assert json.loads(record.meta) == {"when": "1970-01-01 00:00:00", "raw": "5 bytes", "deep": [{"a": 1.5}]}


def test_a_missing_column_split_or_folder_is_an_error_that_names_what_there_is(copy, tmp_path):
    with pytest.raises(UsageError, match=r"no column 'body'; set text_field= to one of id, text"):
        source_at(copy, text_field="body").files()
    with pytest.raises(UsageError, match=r"valid.*'train', 'test'"):
        source_at(copy, split="valid").files()
    with pytest.raises(UsageError, match=r"nowhere does not exist"):
        source_at(tmp_path / "nowhere").files()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty cannot be loaded"):
        source_at(tmp_path / "empty").files()


def test_a_loading_script_is_refused_with_where_the_data_may_be(tmp_path):
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit('this must never run')", "utf-8")
    with pytest.raises(UsageError, match=r"scripts are no longer supported.*revision=refs/convert/parquet"):
        source_at(tmp_path).files()


def test_damage_is_told_and_the_shards_beside_it_are_read(copy):
    damaged = copy / "data/train-00001-of-00003.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"x" * 9)
    source = source_at(copy)
    files = source.files()
    assert [record.text for record in source.read(files[2], LIMITS)] == ["2 first", "2 吾輩"]
    with pytest.raises(Unreadable) as caught:
        list(source.read(files[1], LIMITS))
    assert caught.value.rule == "damaged"


def test_of_a_cut_file_what_was_parsed_before_the_cut_is_given(tmp_path):
    rows = [{"text": f"{number} " + os.urandom(1000).hex()} for number in range(30_000)]
    raw = gzip.compress("\n".join(map(json.dumps, rows)).encode(), 1)
    (tmp_path / "train.jsonl.gz").write_bytes(raw[: len(raw) * 3 // 4])
    source = source_at(tmp_path)
    read = []
    with pytest.raises(Unreadable):
        read.extend(source.read(source.files()[0], LIMITS))
    assert len(read) > 1000
    assert [record.text for record in read] == [row["text"] for row in rows[: len(read)]]
    assert all(isinstance(record, Record) for record in read)


TRY = """
import sys
from pretrain.data.sources.hub import HuggingFace
from pretrain.data.sources.reading import Limits
from pretrain.errors import UsageError
source = HuggingFace(
    repository="someone/some-corpus", subset=None, split="train", revision=None, folder=None, text_field="text",
    id_field=None, max_documents=None,
)
try:
    for file in source.files():
        for record in source.read(file, Limits(1000, 10.0, 0.1)):
            print(record.text)
except UsageError as error:
    print(error)
    sys.exit(2)
"""


def run(cache, **environment):
    """Reading from the hub in a process of its own, since the settings are read when the library is imported."""
    environment = dict(os.environ) | {"HF_HOME": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)} | environment
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", TRY], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip(), time.perf_counter() - began


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "refused"),
        ({"HF_ENDPOINT": "http://no-such-host.invalid"}, ""),
    ],
    ids=["offline", "refused", "unknown host"],
)
def test_what_cannot_be_reached_ends_soon_with_one_line_that_says_what_to_do(tmp_path, environment, reason):
    code, said, seconds = run(tmp_path, **environment)
    assert code == 2
    assert "\n" not in said
    assert "someone/some-corpus cannot be reached" in said
    assert reason in said
    assert f"is not in the cache {tmp_path / 'datasets'}" in said
    assert "HF_HOME" in said
    assert seconds < 15  # of which the library's retries would take 23, and its import takes one or two


def test_what_the_cache_holds_is_read_offline(tmp_path, copy):
    import datasets

    cache = tmp_path / "home" / "datasets"
    datasets.load_dataset(str(copy), cache_dir=str(cache))
    (made,) = [folder for folder in cache.iterdir() if folder.is_dir()]
    made.rename(cache / "someone___some-corpus")
    for kept in (cache / "someone___some-corpus").rglob("*.arrow"):
        kept.rename(kept.with_name(kept.name.replace(made.name, "some-corpus")))
    code, said, seconds = run(tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")
    assert (code, said.splitlines()) == (0, TEXTS)
    assert seconds < 15
