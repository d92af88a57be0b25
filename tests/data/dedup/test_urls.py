import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretrain.data.dedup.urls import UrlDuplicates, normalised_url
from pretrain.data.documents import DOCUMENT
from pretrain.data.executors import Serial
from pretrain.data.manifests import key_of
from pretrain.data.running import CorpusStage, run_stage
from pretrain.data.stages import Batch, Silent, Workspace, build, text_bytes

SAME = [
    "http://example.org/a/b",
    "https://example.org/a/b",
    "https://www.example.org/a/b/",
    "HTTPS://WWW.Example.ORG:443/a/b#part",
    "  http://example.org:80/a/b?\n",
]
OTHERS = [
    "http://example.org/a/B",
    "http://example.org/a/b?page=2",
    "http://example.org:8080/a/b",
    "ftp://example.org/a/b",
    "http://example.com/a/b",
    "http://example.org",
    "no address",
    "http://[broken",
    "http://example.org:port/",
]


@pytest.mark.parametrize("url", SAME)
def test_spellings_of_one_address_are_the_same(url):
    assert normalised_url(url, ignore_query=False) == "//example.org/a/b"


def test_other_addresses_stay_apart():
    found = [normalised_url(url, ignore_query=False) for url in (SAME[0], *OTHERS)]
    assert len(set(found)) == len(found)


def test_a_query_is_ignored_where_asked():
    assert normalised_url(OTHERS[1], ignore_query=True) == "//example.org/a/b"
    assert normalised_url("", ignore_query=True) is None


def shard(task):
    rows = [
        {"id": f"d{number}", "text": f"text {number}", "source": "test", "source_id": "", "meta": meta}
        for number, meta in task
    ]
    table = pa.Table.from_pylist(rows, schema=DOCUMENT)
    yield Batch(table, None, len(rows), text_bytes(table), {})


def test_of_each_address_the_first_document_stays_and_those_without_one_too(tmp_path):
    metas = [
        *(json.dumps({"url": url}) for url in (SAME[0], OTHERS[0], SAME[2])),
        *("{}", "{}", None, json.dumps({"url": ""}), json.dumps({"url": None}), json.dumps({"title": '"url"'}), "[]"),
        *(json.dumps({"url": url}) for url in (SAME[3], OTHERS[0])),
    ]
    numbered = list(enumerate(metas))
    at = Workspace(tmp_path, Serial(), Silent())
    tasks = [(0, numbered[:4]), (0, []), (0, numbered[4:])]
    before = build("corpus", key_of(settings={}, code=1), at, tasks, shard)
    stage = UrlDuplicates(ignore_query=False)
    assert isinstance(stage, CorpusStage)
    built = run_stage("urls", {}, stage, before, at)
    rows = [row for file in built.dropped() for row in pq.read_table(file).to_pylist()]
    assert [(row["id"], row["survivor"], row["rule"]) for row in rows] == [
        ("d2", "d0", "duplicate_url"),
        ("d10", "d0", "duplicate_url"),
        ("d11", "d1", "duplicate_url"),
    ]
    assert built.total("documents_out") == len(metas) - 3
