from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretrain.data.dedup.exact import ExactDuplicates
from pretrain.data.documents import DECISION, DOCUMENT
from pretrain.data.stages import CorpusStage


def decided(folder: Path, *shards: list[str], ignore_case: bool = False, ignore_space: bool = False) -> list[tuple]:
    """(id, survivor, value) of the dropped; ids number the documents through all shards."""
    stage = ExactDuplicates(ignore_case=ignore_case, ignore_space=ignore_space)
    sketches, number = [], 0
    for shard in shards:
        rows = [{"id": str(number + place), "text": text} for place, text in enumerate(shard)]
        number += len(shard)
        sketches.append(folder / f"{len(sketches)}.parquet")
        pq.write_table(stage.sketch(pa.Table.from_pylist(rows, schema=DOCUMENT)), sketches[-1])
    decision = stage.resolve(sketches)
    assert decision.schema == DECISION
    return [tuple(row.values()) for row in decision.to_pylist()]


def test_every_repeat_is_dropped_for_the_first(tmp_path):
    assert decided(tmp_path, ["a", "b", "a", "", "a", "b", "c", ""]) == [
        ("2", "0", 1.0),
        ("4", "0", 1.0),
        ("5", "1", 1.0),
        ("7", "3", 1.0),
    ]


@pytest.mark.parametrize("cut", range(7))
def test_the_result_is_independent_of_sharding(tmp_path, cut):
    texts = ["x", "y", "x", "z", "y", "x"]
    assert decided(tmp_path, texts[:cut], [], texts[cut:]) == decided(tmp_path, texts)


def test_case_and_space_count_unless_they_are_ignored(tmp_path):
    texts = ["Straße one", "STRASSE ONE", "Straße\n one ", "Straße on"]
    assert decided(tmp_path, texts) == []
    assert decided(tmp_path, texts, ignore_case=True) == [("1", "0", 1.0)]
    assert decided(tmp_path, texts, ignore_space=True) == [("2", "0", 1.0)]
    assert [row[0] for row in decided(tmp_path, texts, ignore_case=True, ignore_space=True)] == ["1", "2"]


def test_nothing_is_dropped_from_nothing(tmp_path):
    assert decided(tmp_path) == []
    assert decided(tmp_path, [], []) == []


def test_it_is_a_corpus_stage():
    assert isinstance(ExactDuplicates(ignore_case=False, ignore_space=False), CorpusStage)
