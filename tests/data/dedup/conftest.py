"""What the tests of all kinds of duplicates share."""

import itertools
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from pretrain.data.executors import Serial
from pretrain.data.running import CorpusStage, run_stage
from pretrain.data.stages import Built, Silent, Workspace

Decide = Callable[..., list[tuple[str, str, float]]]


def dropped_by(built: Built) -> list[tuple[str, str, float]]:
    """(id, survivor, value) of what a corpus stage dropped, ids without their leading zeros."""
    rows = [row for file in built.dropped() for row in pq.read_table(file).to_pylist()]
    return [(str(int(row["id"])), str(int(row["survivor"])), row["value"]) for row in rows]


@pytest.fixture
def decide(shard_documents, tmp_path) -> Decide:
    """A function that gives (id, survivor, value) of the dropped; ids number the documents through all shards."""
    folders = (tmp_path / str(number) for number in itertools.count())

    def run(stage: CorpusStage, *shards: list[str]) -> list[tuple[str, str, float]]:
        data_dir = next(folders)  # a new one: what is patched meanwhile is not in the key
        before = shard_documents(shards, data_dir)
        return dropped_by(run_stage("duplicates", {}, stage, before, Workspace(data_dir, Serial(), Silent())))

    return run
