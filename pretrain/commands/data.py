"""`pretrain data`: from sources to token shards, each step done once."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.config import SHARES, DataConfig, DataSettings, Part, build
from pretrain.data.collect import collect_sources, quarantine, size_of_shards
from pretrain.data.dedup.near import NearDuplicates
from pretrain.data.estimate import PER_GIGABYTE, estimate, refuse_full_disk
from pretrain.data.excerpt import Recipe
from pretrain.data.executors import Pool, Ray, Serial
from pretrain.data.leaks import drop_leaks
from pretrain.data.lock import alone
from pretrain.data.manifests import MANIFEST
from pretrain.data.running import CorpusStage, Stage, run_stage
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits
from pretrain.data.sources.streams import is_address
from pretrain.data.splits import ALL_TRAINING, ALL_VALIDATION, gather, place_documents, ranges
from pretrain.data.stages import Built, ShardRecord, Watch, Workspace
from pretrain.data.token_import import TokenFiles, import_tokens
from pretrain.data.tokenizing import train_tokenizer, write_shards
from pretrain.errors import ConfigError, DataError, UsageError
from pretrain.reporting.data_report import write_report
from pretrain.reporting.tables import byte_size, megabytes, show_table
from pretrain.stopping import Stop
from pretrain.tokenizers.tokenizer import TokenizerTrainer
from pretrain.tracking.console import duration, say
from pretrain.tracking.pipeline_table import PipelineTable

NEAR = "near_duplicates"  # the stage that says what near duplicates are
AGAIN = "_again"  # ends the name of a stage that comes a second time
MINUTE = 60.0  # seconds below which nobody wants to know more

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
        report: the page that tells of all this; None where no document passed a stage.
    """

    folder: Path
    tokenizer: Path
    stages: list[Built]
    shuffled: list[Built]
    sides: dict[str, Built]
    report: Path | None


def run(settings: DataConfig) -> dict[str, Any]:
    """Build the data and say what was built."""
    prepared = prepare(
        settings.data, settings.tokenizer, settings.executor, settings.seed, settings.data_dir, Stop().install()
    )
    manifest = read_manifest(prepared.folder)
    return {
        "manifest": str((prepared.folder / MANIFEST).resolve()),
        "stages": [stage.summary() for stage in prepared.stages],
        "quarantined": [row for read in (*prepared.stages[:1], *prepared.shuffled) for row in quarantine(read)],
        "documents": [str(file.resolve()) for side in prepared.sides.values() for file in side.files()],
        "dropped": [str(file.resolve()) for stage in prepared.stages for file in stage.dropped()],
        "tokens": {name: len(TokenStream(prepared.folder, name, manifest)) for name in manifest["splits"]},
        "vocab_size": manifest["vocab_size"],
        "report": str(prepared.report.resolve()) if prepared.report else None,
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
        show_table("Data", ["stage", "documents in", "out", "text out", "time", "removed by"], rows)
        for entry in result["quarantined"][:5]:
            print(f"quarantined {entry['file']} line {entry['line']}: {entry['reason']}")
        tokens, ids = result["tokens"], result["vocab_size"]
        print(f"{tokens['train']:,} training and {tokens['validation']:,} validation tokens of {ids:,} ids")
        print(result["manifest"])
        if result["report"]:
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
        sources = {name: build(part) for name, part in data.sources.items()}
        if sources and all(isinstance(source, TokenFiles) for source in sources.values()):
            return _imported(data, sources, tokenizer, seed, Workspace(folder, workers, watch))
        recipe = recipe_of(data)
        workspace = Workspace(folder, workers, _Foretold(watch, data, recipe, build(tokenizer), workers, folder))
        if data.validation_paths:
            _refuse_missing(data)
        stages = [_collected(data, data.sources, workspace, "collect")]
        for name, (settings, stage) in recipe.items():
            stages.append(run_stage(name, settings, stage, stages[-1], workspace))
        shuffled, sides = _sides(data, recipe, stages, seed, workspace)
        tokenizer_file = train_tokenizer(build(tokenizer), dict(tokenizer), sides["train"], workspace)
        shards = write_shards(tokenizer_file, sides, workspace, [*stages, *shuffled, *sides.values()])
        report = write_report(shards, stages, [*shuffled, *sides.values()])
    return Prepared(shards, tokenizer_file, stages, shuffled, sides, report)


@dataclass
class _Foretold:
    """A watch that, before anything is built, says what the build will take, and refuses a disk too small."""

    inner: Watch
    data: DataSettings
    recipe: Recipe
    trainer: TokenizerTrainer
    executor: Serial | Pool | Ray
    folder: Path
    told: bool = False

    def begin(self, name: str, weight: int) -> None:
        if not self.told:
            self.told = True
            self._foretell(name.partition(":")[0])
        self.inner.begin(name, weight)

    def done(self, name: str, weight: int, records: Sequence[ShardRecord]) -> None:
        self.inner.done(name, weight, records)

    def idle(self) -> None:
        self.inner.idle()

    def _foretell(self, first: str) -> None:
        """Say it of the stage `first` and all behind it."""
        sources = {name: build(part) for name, part in self.data.sources.items()}
        workers = self.executor.workers
        if isinstance(self.executor, Pool):
            workers = min(workers, os.cpu_count() or 1)
        expected = estimate(
            sources,
            self.recipe,
            limits_of(self.data),
            workers=workers,
            tokenizer_sample=self.trainer.sample_bytes,
            first=first,
        )
        size = byte_size(expected.corpus_bytes)
        if expected.disk_bytes is None or expected.seconds is None:
            say(f"{size} to build: how long it takes, and how much disk, is not known until it is read; {PER_GIGABYTE}")
            return
        time = "under a minute" if expected.seconds < MINUTE else f"about {duration(expected.seconds)}"
        where = "" if first == "collect" else f", from {first} on"
        download = " (without the download)" if expected.far else ""
        say(
            f"{size} to build{where}: expect {time}{download} "
            f"and about {byte_size(expected.disk_bytes)} of disk in {self.folder}"
        )
        refuse_full_disk(expected.disk_bytes, self.folder)


def recipe_of(data: DataSettings) -> dict[str, tuple[dict[str, Any], Stage | CorpusStage]]:
    """The stages of a recipe by name, each with the settings on which its key depends.

    A setting that names files stands there by what is in them, which a stage with such settings tells in `contents`.
    Where stages may edit texts behind near_duplicates, it comes again at the end: two texts that have lost different
    footers may be near duplicates only then, and one of them could be held out.

    Raises:
        ConfigError: a stage cannot be built with its settings.
    """
    recipe = {name: (dict(part), build(part)) for name, part in data.stages.items()}
    recipe = {name: (settings | getattr(stage, "contents", {}), stage) for name, (settings, stage) in recipe.items()}
    names = list(recipe)
    behind = names[names.index(NEAR) + 1 :] if NEAR in recipe else []
    if not data.validation_paths and any(getattr(recipe[name][1], "edits", True) for name in behind):
        recipe[NEAR + AGAIN] = recipe[NEAR]
    return recipe


def _imported(
    data: DataSettings, sources: dict[str, TokenFiles], tokenizer: Part, seed: int, workspace: Workspace
) -> Prepared:
    """Token shards of ready ids: there is no text, hence no stage and no report."""
    trainer: TokenizerTrainer = build(tokenizer)
    if trainer.sample_bytes:
        raise ConfigError(
            "data=tokens has no text to train a tokenizer on; name the one that made the ids: tokenizer=gpt2, or "
            "tokenizer=pretrained tokenizer.path=tokenizer.json"
        )
    tokenizer_file = train_tokenizer(trainer, dict(tokenizer), None, workspace)
    fraction = data.validation_fraction
    shards = import_tokens(
        sources, data.validation_paths, tokenizer_file, fraction=fraction, seed=seed, workspace=workspace
    )
    return Prepared(shards, tokenizer_file, [], [], {}, None)


def settings_of(sources: Mapping[str, Part]) -> dict[str, Any]:
    """What the documents of each source depend on; paths may differ between machines, and shares change no document."""
    return {
        name: {key: value for key, value in part.items() if key not in ("paths", *SHARES)}
        for name, part in sources.items()
    }


def limits_of(data: DataSettings) -> Limits:
    return Limits(data.max_document_bytes, data.max_expansion, data.max_replaced)


def _validation_part(data: DataSettings) -> Part:
    """The source of the texts at data.validation_paths: as the one that reads data.paths, or files."""
    alike = next((part for part in data.sources.values() if part.get("paths") == data.paths), FILES)
    return Part({**alike, "paths": data.validation_paths})


def _refuse_missing(data: DataSettings) -> None:
    """Raise UsageError, before anything is built, where there is nothing at data.validation_paths."""
    try:
        build(_validation_part(data)).files()
    except UsageError as error:
        raise UsageError(str(error).replace("data.paths", "data.validation_paths", 1)) from error


def _collected(data: DataSettings, parts: Mapping[str, Part], workspace: Workspace, name: str) -> Built:
    sources = {source: build(part) for source, part in parts.items()}
    return collect_sources(sources, settings_of(parts), limits_of(data), data.shard_bytes, workspace, name)


def _sides(
    data: DataSettings, recipe: Recipe, stages: list[Built], seed: int, workspace: Workspace
) -> tuple[list[Built], dict[str, Built]]:
    """Train and validation: two parts of the corpus, or the corpus and the texts at data.validation_paths.

    Where there are such texts and the recipe has near_duplicates, those of them in the corpus are dropped by a further
    one of the `stages`.

    Returns:
        the stages on the way that are not the recipe's, and the two sides by name.
    """
    refuse_empty(stages)
    further: list[Built] = []
    if data.validation_paths:
        texts = _collected(data, {"validation": _validation_part(data)}, workspace, "validation_texts")
        refuse_empty([texts], "the texts at data.validation_paths are empty")
        settings, near = recipe.get(NEAR, ({}, None))
        if isinstance(near, NearDuplicates):
            stages.append(drop_leaks(settings, near, stages[-1], texts, workspace))
            refuse_empty(stages)
        held_out = place_documents(texts, seed=seed, workspace=workspace, name="shuffle_validation")
        further = [texts, held_out]
    placed = place_documents(stages[-1], seed=seed, workspace=workspace)
    shard_bytes = data.shard_bytes or size_of_shards(stages[-1].total("bytes_out"))
    where = ranges(placed, data.validation_fraction)
    sources = {"train": (placed, where), "validation": (placed, where)}
    if further:
        sources = {"train": (placed, ALL_TRAINING), "validation": (held_out, ALL_VALIDATION)}
    sides = {
        name: gather(source, name, places, shard_bytes=shard_bytes, workspace=workspace)
        for name, (source, places) in sources.items()
    }
    return [placed, *further], sides


def refuse_empty(stages: list[Built], empty: str = "the corpus is empty") -> None:
    """Raise DataError where no text is left, with what each rule of each stage took.

    Args:
        empty: what to say where there was none to begin with.
    """
    if stages[-1].total("bytes_out"):
        return
    read = stages[0].total("documents_in")
    if not stages[0].total("documents_out"):
        found = _counts(stages[0].summary()["reasons"])
        raise DataError(f"{empty}: of {read:,} records none could be read" + (f" ({found})" if found else ""))
    took = [
        f"{stage.name} took {stage.total('documents_in') - stage.total('documents_out'):,} of "
        f"{stage.total('documents_in'):,} ({_counts(reasons)})"
        for stage in stages[1:]
        if (reasons := stage.summary()["reasons"])
    ]
    if not took:
        raise DataError(f"{empty}: {read:,} documents without text")
    last = next(stage.name for stage in reversed(stages) if stage.summary()["reasons"]).removesuffix(AGAIN)
    instead = "name other data.validation_paths" if last == "leaks" else f"leave a stage out: ~data.stages.{last}"
    raise DataError(
        f"nothing is left of the corpus (documents: {stages[0].total('documents_out'):,}): {'; '.join(took)}. "
        f"Look at them: pretrain data show sample=1000 ..., or {instead}"
    )


def _counts(reasons: Mapping[str, int]) -> str:
    """Rules with the documents that they took, the one that took most first."""
    return ", ".join(
        f"{rule} {count:,}" for rule, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    )
