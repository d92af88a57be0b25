"""What the tests of all kinds of duplicates share."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.parquet as pq
import pytest

from pretrain.data.executors import Serial
from pretrain.data.running import CorpusStage, run_stage
from pretrain.data.stages import Built, Silent, Workspace

Decide = Callable[..., list[tuple[str, str, float]]]
BuildStage = Callable[..., Built]


def rows_of(files: Sequence[Any]) -> list[dict[str, Any]]:
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.fixture
def built(shard_documents, tmp_path) -> BuildStage:
    """A function that runs a stage over shards of texts; ids number the documents through all shards."""
    folders = (tmp_path / str(number) for number in itertools.count())

    def run(stage: CorpusStage, *shards: list[str]) -> Built:
        data_dir = next(folders)  # a new one: what is patched meanwhile is not in the key
        before = shard_documents(shards, data_dir)
        return run_stage("duplicates", {}, stage, before, Workspace(data_dir, Serial(), Silent()))

    return run


@pytest.fixture
def decide(built) -> Decide:
    """A function that gives (id, survivor, value) of the dropped, ids without their leading zeros."""

    def run(stage: CorpusStage, *shards: list[str]) -> list[tuple[str, str, float]]:
        rows = rows_of(built(stage, *shards).dropped())
        return [(str(int(row["id"])), str(int(row["survivor"])), row["value"]) for row in rows]

    return run
