"""`pretrain data`: from sources to token shards, each step done once."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.config import DataConfig, DataSettings, Part, build
from pretrain.data.collect import collect, list_files, quarantine
from pretrain.data.executors import Executor
from pretrain.data.manifests import MANIFEST
from pretrain.data.shards import TokenStream, read_manifest, train_tokenizer, write_shards
from pretrain.data.sources.files import Files
from pretrain.data.splits import ALL_TRAINING, ALL_VALIDATION, gather, place_documents, ranges
from pretrain.data.stages import Built, run_stage
from pretrain.errors import ConfigError, DataError
from pretrain.reporting.tables import megabytes, show_table
from pretrain.stopping import Stop
from pretrain.tracking.console import duration, progress

Bar = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True)
class Prepared:
    """The data of a run: token shards, the tokenizer, and how they came to be.

    Attributes:
        folder: of the token shards.
        tokenizer: the tokenizer.json.
        stages: every stage on the way, in order.
        sides: the documents of train and validation.
    """

    folder: Path
    tokenizer: Path
    stages: list[Built]
    sides: dict[str, Built]


def run(settings: DataConfig) -> dict[str, Any]:
    """Build the data and say what was built."""
    prepared = prepare(
        settings.data, settings.tokenizer, settings.executor, settings.seed, settings.data_dir, Stop().install()
    )
    manifest = read_manifest(prepared.folder)
    return {
        "manifest": str((prepared.folder / MANIFEST).resolve()),
        "stages": [stage.summary() for stage in prepared.stages],
        "quarantined": quarantine(prepared.stages[0]),
        "documents": [str(file.resolve()) for side in prepared.sides.values() for file in side.files()],
        "dropped": [str(file.resolve()) for stage in prepared.stages for file in stage.dropped()],
        "tokens": {name: len(TokenStream(prepared.folder, name, manifest)) for name in manifest["splits"]},
        "vocab_size": manifest["vocab_size"],
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


def prepare(data: DataSettings, tokenizer: Part, executor: Part, seed: int, data_dir: str, stop: Stop) -> Prepared:
    """Bring every step of the pipeline up to date; what is already built is only found.

    Raises:
        DataError: nothing is left of the corpus.
        Interrupted: a signal came; finished shards are kept.
    """
    if data.paths and not any(part.get("paths") == data.paths for part in data.sources.values()):
        raise ConfigError("data.paths is set, but no source reads it; add data=files")
    folder = Path(data_dir)
    with _executor(executor) as workers, _bars(stop) as bar:
        stages = [_collect("collect", data.sources, data.shard_bytes, folder, workers, bar)]
        for name, part in data.stages.items():
            before = stages[-1]
            advance = bar(name, before.total("bytes_out"))
            stages.append(run_stage(name, dict(part), build(part), before, folder, workers, advance))
        sides = _sides(data, stages, seed, folder, workers, bar)
        trainer = build(tokenizer)
        size = min(trainer.sample_bytes, sides["train"].total("bytes_out"))
        tokenizer_file = train_tokenizer(trainer, dict(tokenizer), sides["train"], folder, bar("tokenizer", size))
        size = sum(side.total("bytes_out") for side in sides.values())
        shards = write_shards(tokenizer_file, sides, folder, workers, bar("tokenize", size))
    return Prepared(shards, tokenizer_file, stages, sides)


def _collect(name: str, sources: dict[str, Part], shard_bytes: int, folder: Path, workers: Executor, bar: Bar) -> Built:
    settings = {
        source: {key: value for key, value in part.items() if key != "paths"} for source, part in sources.items()
    }
    listing = list_files({source: build(part) for source, part in sources.items()}, settings, shard_bytes, folder)
    return collect(listing, shard_bytes, folder, workers, bar(name, listing.bytes()), name)


def _sides(
    data: DataSettings, stages: list[Built], seed: int, folder: Path, workers: Executor, bar: Bar
) -> dict[str, Built]:
    """Train and validation: two halves of the corpus, or the corpus and the texts at data.validation_paths."""
    _refuse_empty(stages)
    size = stages[-1].total("bytes_out")
    placed = place_documents(stages[-1], seed=seed, data_dir=folder, executor=workers, advance=bar("shuffle", size))
    where = ranges(placed, data.validation_fraction)
    held_out, validation_where = placed, where
    if data.validation_paths:
        part = Part({"_target_": f"{Files.__module__}.Files", "paths": data.validation_paths, "text_field": "text"})
        texts = _collect("validation_texts", {"validation": part}, data.shard_bytes, folder, workers, bar)
        _refuse_empty([texts])
        advance = bar("validation", texts.total("bytes_out"))
        held_out = place_documents(texts, seed=seed, data_dir=folder, executor=workers, advance=advance)
        where, validation_where = ALL_TRAINING, ALL_VALIDATION
    sides = {}
    for name, source, places in (("train", placed, where), ("validation", held_out, validation_where)):
        advance = bar(name, int(source.total("bytes_out") * places.share(name)))
        sides[name] = gather(
            source, name, places, shard_bytes=data.shard_bytes, data_dir=folder, executor=workers, advance=advance
        )
    return sides


def _refuse_empty(stages: list[Built]) -> None:
    if stages[-1].total("bytes_out"):
        return
    took = [
        f"{stage.name} dropped {sum(reasons.values()):,} of {stage.total('documents_in'):,} ({', '.join(reasons)})"
        for stage in stages
        if (reasons := stage.summary()["reasons"])
    ]
    raise DataError("nothing is left of the corpus: " + ("; ".join(took) or "its documents hold no text"))


@contextmanager
def _executor(part: Part) -> Iterator[Executor]:
    with closing(build(part)) as workers:
        yield workers


@contextmanager
def _bars(stop: Stop) -> Iterator[Bar]:
    """Progress bars that also look for a signal whenever one of them moves."""
    with progress() as bars:

        def bar(description: str, total: int) -> Callable[[int], None]:
            stop.check()
            move = bars(description, total)

            def advance(amount: int) -> None:
                move(amount, "")
                stop.check()

            return advance

        yield bar
