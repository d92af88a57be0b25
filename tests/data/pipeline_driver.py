"""A program for tests of what a killed or strange executor leaves: a whole pipeline of small shards, run as a process.

python pipeline_driver.py DATA_DIR CORPUS MARKS EXECUTOR [WORKERS]

Each attempt at a shard of the stage `noted` leaves an empty file in MARKS.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from pretrain.data.collect import collect_sources
from pretrain.data.dedup.exact import ExactDuplicates
from pretrain.data.documents import StageOutput, partition
from pretrain.data.executors import Executor, Pool, Ray, Serial
from pretrain.data.running import run_stage
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits
from pretrain.data.splits import gather, place_documents, ranges
from pretrain.data.stages import Silent, Workspace

SECONDS = 0.02  # that a shard takes, so that a kill meets some


class Noted:
    """A stage that keeps everything, and leaves a mark for each attempt."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def __call__(self, documents: pa.Table) -> StageOutput:
        (self.marks / f"{documents['id'][0].as_py()}.{time.time_ns()}.{os.getpid()}").touch()
        time.sleep(SECONDS)
        return partition(documents, [None] * len(documents))


class Shuffled(Serial):
    """One task after the other, in an order that differs each time."""

    def map(
        self, function: Callable[[Any], Any], tasks: Sequence[Any], idle: Callable[[], None]
    ) -> Iterator[tuple[Any, Any]]:
        return super().map(function, random.sample(list(tasks), len(tasks)), idle)


def build_all(data_dir: Path, corpus: Path, marks: Path, executor: Executor) -> None:
    at = Workspace(data_dir, executor, Silent())
    source = Files(paths=[str(corpus)], text_field="text", unit="file", extractor="trafilatura")
    built = collect_sources({"files": source}, {}, Limits(10**6, 100, 0.01), 10_000, at)
    built = run_stage("noted", {}, Noted(marks), built, at)
    built = run_stage("exact", {}, ExactDuplicates(ignore_case=False, ignore_space=True), built, at)
    placed = place_documents(built, seed=1, workspace=at)
    for side in ("train", "validation"):
        gather(placed, side, ranges(placed, 0.2), shard_bytes=20_000, workspace=at)


if __name__ == "__main__":
    data_dir, corpus, marks = (Path(word) for word in sys.argv[1:4])
    workers = int(sys.argv[5]) if len(sys.argv) > 5 else 2
    makers: dict[str, Callable[[], Executor]] = {
        "serial": Serial,
        "shuffled": Shuffled,
        "pool": lambda: Pool(workers=workers),
        "ray": lambda: Ray(address=None, cpus=1, tasks_in_flight=100),
    }
    chosen = makers[sys.argv[4]]()
    build_all(data_dir, corpus, marks, chosen)
    chosen.close()
