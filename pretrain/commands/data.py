"""`pretrain data`: from sources to token shards, each step done once."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.config import SHARES, DataConfig, DataSettings, Part, build
from pretrain.data.collect import collect_sources, quarantine, size_of_shards
from pretrain.data.estimate import SMALLEST_CORPUS, estimate, refuse_full_disk
from pretrain.data.executors import Pool, Ray, Serial
from pretrain.data.lock import alone
from pretrain.data.manifests import MANIFEST
from pretrain.data.running import run_stage
from pretrain.data.shards import TokenStream, read_manifest, train_tokenizer, write_shards
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits
from pretrain.data.sources.streams import is_address
from pretrain.data.splits import ALL_TRAINING, ALL_VALIDATION, gather, place_documents, ranges
from pretrain.data.stages import Built, ShardRecord, Watch, Workspace
from pretrain.errors import ConfigError, DataError
from pretrain.reporting.data_report import write_report
from pretrain.reporting.tables import byte_size, megabytes, show_table
from pretrain.stopping import Stop
from pretrain.tokenizers.tokenizer import TokenizerTrainer
from pretrain.tracking.console import duration, say
from pretrain.tracking.pipeline_table import PipelineTable

# How texts at data.validation_paths are read where no source reads data.paths.
FILES = {
    "_target_": f"{Files.__module__}.{Files.__name__}",
    "text_field": "text",
    "unit": "file",
    "extractor": "trafilatura",
}


@dataclass(frozen=True)
class Prepared:
    """The data of a run: token shards, the tokenizer, and how they came to be.

    Attributes:
        folder: of the token shards.
        tokenizer: the tokenizer.json.
        stages: every stage on the way, in order.
        shuffled: what stands between the stages and the sides, validation texts of their own included.
        sides: the documents of train and validation.
        report: the page that tells of all this.
    """

    folder: Path
    tokenizer: Path
    stages: list[Built]
    shuffled: list[Built]
    sides: dict[str, Built]
    report: Path


def run(settings: DataConfig) -> dict[str, Any]:
    """Build the data and say what was built."""
    prepared = prepare(
        settings.data, settings.tokenizer, settings.executor, settings.seed, settings.data_dir, Stop().install()
    )
    manifest = read_manifest(prepared.folder)
    return {
        "manifest": str((prepared.folder / MANIFEST).resolve()),
        "stages": [stage.summary() for stage in prepared.stages],
        "quarantined": [row for read in (prepared.stages[0], *prepared.shuffled) for row in quarantine(read)],
        "documents": [str(file.resolve()) for side in prepared.sides.values() for file in side.files()],
        "dropped": [str(file.resolve()) for stage in prepared.stages for file in stage.dropped()],
        "tokens": {name: len(TokenStream(prepared.folder, name, manifest)) for name in manifest["splits"]},
        "vocab_size": manifest["vocab_size"],
        "report": str(prepared.report.resolve()),
    }


def show(results: list[dict[str, Any]]) -> None:
    """Print each result as a table of what every stage took and left."""
    for result in results:
        rows = [
            [
                stage["name"],
                f"{stage['documents_in']:,}",
                f"{stage['documents_out']:,}",
                megabytes(stage["bytes_out"]),
                duration(stage["seconds"]),
                ", ".join(f"{rule} {count:,}" for rule, count in stage["reasons"].items()),
            ]
            for stage in result["stages"]
        ]
        show_table("Data", ["stage", "documents in", "out", "text out", "time", "dropped by"], rows)
        for entry in result["quarantined"][:5]:
            print(f"quarantined {entry['file']} line {entry['line']}: {entry['reason']}")
        tokens, ids = result["tokens"], result["vocab_size"]
        print(f"{tokens['train']:,} training and {tokens['validation']:,} validation tokens of {ids:,} ids")
        print(result["manifest"])
        print(result["report"])


def prepare(data: DataSettings, tokenizer: Part, executor: Part, seed: int, data_dir: str, stop: Stop) -> Prepared:
    """Bring every step of the pipeline up to date; what is already built is only found.

    Raises:
        DataError: nothing is left of the corpus.
        Interrupted: a signal came; finished shards are kept.
    """
    if data.paths and not any(part.get("paths") == data.paths for part in data.sources.values()):
        raise ConfigError("data.paths is set, but no source reads it; add data=files")
    if is_address(data_dir):
        raise ConfigError(
            f"data_dir={data_dir} is an address; name a folder that all machines see, such as a mount of it"
        )
    folder = Path(data_dir).absolute()  # whoever builds a shard may stand in another folder
    watch = PipelineTable(stop.check)
    with alone(folder, stop.check, say), closing(watch), closing(build(executor)) as workers:
        workspace = Workspace(folder, workers, _Foretold(watch, data, build(tokenizer), workers, folder))
        stages = [_collected(data, data.sources, workspace, "collect")]
        for name, part in data.stages.items():
            stages.append(run_stage(name, dict(part), build(part), stages[-1], workspace))
        shuffled, sides = _sides(data, stages, seed, workspace)
        tokenizer_file = train_tokenizer(build(tokenizer), dict(tokenizer), sides["train"], workspace)
        shards = write_shards(tokenizer_file, sides, workspace, [*stages, *shuffled, *sides.values()])
        report = write_report(shards, stages, [*shuffled, *sides.values()])
    return Prepared(shards, tokenizer_file, stages, shuffled, sides, report)


@dataclass(frozen=True)
class _Foretold:
    """A watch that, before a large corpus is read, says what the build will take, and refuses a disk too small."""

    inner: Watch
    data: DataSettings
    trainer: TokenizerTrainer
    executor: Serial | Pool | Ray
    folder: Path

    def begin(self, name: str, weight: int) -> None:
        if name == "collect" and weight >= SMALLEST_CORPUS:
            self._foretell()
        self.inner.begin(name, weight)

    def done(self, name: str, weight: int, records: Sequence[ShardRecord]) -> None:
        self.inner.done(name, weight, records)

    def idle(self) -> None:
        self.inner.idle()

    def _foretell(self) -> None:
        sources = {name: build(part) for name, part in self.data.sources.items()}
        recipe = {name: (dict(part), build(part)) for name, part in self.data.stages.items()}
        workers = self.executor.workers
        if isinstance(self.executor, Pool):
            workers = min(workers, os.cpu_count() or 1)
        expected = estimate(
            sources, recipe, limits_of(self.data), workers=workers, tokenizer_sample=self.trainer.sample_bytes
        )
        if expected:
            say(
                f"{byte_size(expected.corpus_bytes)} to build: expect about {duration(expected.seconds)} "
                f"and {byte_size(expected.disk_bytes)} of disk in {self.folder}"
            )
            refuse_full_disk(expected, self.folder)


def settings_of(sources: Mapping[str, Part]) -> dict[str, Any]:
    """What the documents of each source depend on; paths may differ between machines, and shares change no document."""
    return {
        name: {key: value for key, value in part.items() if key not in ("paths", *SHARES)}
        for name, part in sources.items()
    }


def limits_of(data: DataSettings) -> Limits:
    return Limits(data.max_document_bytes, data.max_expansion, data.max_replaced)


def _collected(data: DataSettings, parts: Mapping[str, Part], workspace: Workspace, name: str) -> Built:
    sources = {source: build(part) for source, part in parts.items()}
    return collect_sources(sources, settings_of(parts), limits_of(data), data.shard_bytes, workspace, name)


def _sides(
    data: DataSettings, stages: list[Built], seed: int, workspace: Workspace
) -> tuple[list[Built], dict[str, Built]]:
    """Train and validation: two halves of the corpus, or the corpus and the texts at data.validation_paths.

    Returns:
        the stages on the way, and the two sides by name.
    """
    _refuse_empty(stages)
    placed = place_documents(stages[-1], seed=seed, workspace=workspace)
    where = ranges(placed, data.validation_fraction)
    held_out, validation_where, shuffled = placed, where, [placed]
    if data.validation_paths:
        alike = next((part for part in data.sources.values() if part.get("paths") == data.paths), FILES)
        part = Part({**alike, "paths": data.validation_paths})
        texts = _collected(data, {"validation": part}, workspace, "validation_texts")
        _refuse_empty([texts])
        held_out = place_documents(texts, seed=seed, workspace=workspace, name="shuffle_validation")
        where, validation_where = ALL_TRAINING, ALL_VALIDATION
        shuffled += [texts, held_out]
    shard_bytes = data.shard_bytes or size_of_shards(stages[-1].total("bytes_out"))
    sides = {
        name: gather(source, name, places, shard_bytes=shard_bytes, workspace=workspace)
        for name, source, places in (("train", placed, where), ("validation", held_out, validation_where))
    }
    return shuffled, sides


def _refuse_empty(stages: list[Built]) -> None:
    if stages[-1].total("bytes_out"):
        return
    took = [
        f"{stage.name} dropped {sum(reasons.values()):,} of {stage.total('documents_in'):,} ({', '.join(reasons)})"
        for stage in stages
        if (reasons := stage.summary()["reasons"])
    ]
    raise DataError("nothing is left of the corpus: " + ("; ".join(took) or "its documents hold no text"))
