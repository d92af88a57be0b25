"""`pretrain data show`: documents of a finished build, or what a recipe makes of a sample; nothing is built."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from pretrain.commands.data import limits_of, recipe_of, settings_of
from pretrain.config import DataSettings, DataShowConfig, build
from pretrain.data.collect import list_files
from pretrain.data.excerpt import pass_through, scattered_pieces, some_documents
from pretrain.data.executors import Serial
from pretrain.data.manifests import MANIFEST, key_of, read_json
from pretrain.data.stages import Built, Silent, Workspace, finished
from pretrain.errors import UsageError
from pretrain.reporting.examples import choose, examples, one_line, visible
from pretrain.reporting.tables import byte_size, share, show_table
from pretrain.schema import suggestion

SHOWN_CHARACTERS = 2000  # of a document in the table; JSON has all of them
SEED = 1  # of a sample, where none is set
WIDTH = 100  # of the line between two documents


def run(settings: DataShowConfig) -> list[dict[str, Any]] | dict[str, Any]:
    """Rows of documents; or what the recipe makes of a sample: the stages' summaries and examples of what they drop."""
    if settings.sample:
        return _tried(settings)
    stages = _stages(settings)
    if settings.dropped:
        chosen = list(stages.values()) if settings.dropped == "all" else [_named("dropped", settings.dropped, stages)]
        _refuse_rule(settings.rule, chosen)
        files = [file for built in chosen for file in built.dropped()]
    else:
        built = _named("stage", settings.stage, stages) if settings.stage else _last(stages)
        files = built.files()
    only = {column: value for column in ("rule", "source") if (value := getattr(settings, column))}
    return choose(files, settings.n, only=only, skip=settings.skip, seed=settings.seed)


def show(results: Sequence[list[dict[str, Any]] | dict[str, Any]]) -> None:
    """Print the documents one below the other, or the table of a sample with its examples."""
    for result in results:
        if isinstance(result, dict):
            _show_sample(result)
        elif not result:
            print("no document matches", file=sys.stderr)
        else:
            print(f"\n{'─' * WIDTH}\n".join(_document(row) for row in result))


def _stages(settings: DataShowConfig) -> dict[str, Built]:
    """The finished stages by name, in order: of the data that the user named, else of the newest build.

    Raises:
        UsageError: there is none.
    """
    folder = Path(settings.data_dir)
    at = Workspace(folder, Serial(), Silent())
    named = [
        word for word in HydraConfig.get().overrides.task if word.lstrip("+~").startswith(("data=", "data.", "data/"))
    ]
    folders: list[str] = []
    if (folder / "stages").is_dir():
        chain = _chain(settings.data, at) if named else []
        builds = (made for made in _builds(folder) if not named or (chain and chain[-1] in made))
        folders = next(builds, chain)
    found = (finished(name, key, at) for name, _, key in (made.rpartition("-") for made in folders))
    stages = {built.name: built for built in found if built}
    if not stages:
        raise UsageError(f"{folder} holds no build of this data; build it first: {' '.join(['pretrain data', *named])}")
    return stages


def _chain(data: DataSettings, at: Workspace) -> list[str]:
    """The folders of the stages that these settings lead to, as far as they are finished."""
    sources = {name: build(part) for name, part in data.sources.items()}
    key = list_files(sources, settings_of(data.sources), limits_of(data), data.shard_bytes, at.folder).key
    folders = [f"collect-{key}"]
    for name, (settings, stage) in recipe_of(data).items():
        key = key_of(settings=settings, code=stage.version, libraries=stage.libraries, inputs=[key])
        folders.append(f"{name}-{key}")
    missing = [i for i, name in enumerate(folders) if not (at.folder / "stages" / name / MANIFEST).is_file()]
    return folders[: missing[0]] if missing else folders


def _builds(folder: Path) -> Iterator[list[str]]:
    """The stages' folders that each build of tokens is made of, the newest build first."""
    manifests = sorted(folder.glob("tokens/*/" + MANIFEST), key=lambda file: -file.stat().st_mtime_ns)
    for file in manifests:
        made_of = read_json(file).get("made_of", [])
        yield [name.removeprefix("stages/") for name in made_of if name.startswith("stages/")]


def _named(key: str, name: str, stages: dict[str, Built]) -> Built:
    if name not in stages:
        others = [*stages, "all"] if key == "dropped" else list(stages)
        raise UsageError(f"{key}={name} is not one of {', '.join(others)}{suggestion(name, others)}")
    return stages[name]


def _last(stages: dict[str, Built]) -> Built:
    """The last stage of the recipe: what is shuffled next."""
    names = list(stages)
    return stages[names[names.index("shuffle") - 1] if "shuffle" in names else names[-1]]


def _refuse_rule(rule: str | None, stages: Sequence[Built]) -> None:
    rules = sorted({name for built in stages for name in built.summary()["reasons"]})
    if rule and rule not in rules:
        raise UsageError(
            f"rule={rule} dropped nothing; there are {', '.join(rules) or 'none'}{suggestion(rule, rules)}"
        )


def _tried(settings: DataShowConfig) -> dict[str, Any]:
    sources = {name: build(part) for name, part in settings.data.sources.items()}
    recipe = recipe_of(settings.data)
    limits = limits_of(settings.data)
    pieces = scattered_pieces(sources, SEED if settings.seed is None else settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        at = Workspace(Path(folder), Serial(), Silent())
        stages = pass_through(some_documents(pieces, settings.sample, limits), recipe, limits, at)
        return {
            "stages": [built.summary() for built in stages],
            "examples": {built.name: examples(built, settings.n) for built in stages},
        }


def _show_sample(result: dict[str, Any]) -> None:
    rows = [
        [
            stage["name"],
            f"{stage['documents_in']:,}",
            f"{stage['documents_out']:,}",
            share(stage["documents_out"], stage["documents_in"]),
            byte_size(stage["bytes_out"]),
            ", ".join(f"{rule} {count:,}" for rule, count in stage["reasons"].items()),
        ]
        for stage in result["stages"]
    ]
    for name, rules in result["examples"].items():
        for rule, examples_of_rule in rules.items():
            print(f"{name}, {rule}:")
            for row in examples_of_rule:
                print(f"  {one_line(row['source_id'] or row['id'])}: {one_line(row['reason'])}")
                if row["text"].strip():
                    print(f"    {one_line(row['text'])}")
            print()
    title = f"A sample of {result['stages'][0]['documents_in']:,} documents; in the whole corpus more are duplicates"
    show_table(title, ["stage", "documents in", "out", "kept", "text out", "dropped by"], rows)


def _document(row: dict[str, Any]) -> str:
    """A document as lines of text."""
    lines = [f"{row['id']}  {one_line(row['source'])}  {one_line(row['source_id'] or '')}"]
    if "rule" in row:
        numbers = [f"{key} {row[key]:g}" for key in ("value", "threshold") if row[key] is not None]
        lines.append(f"{row['stage']}, {row['rule']}: {one_line(row['reason'])} ({', '.join(numbers)})")
        if row["survivor"]:
            lines.append(f"stays: {row['survivor']}")
    text = row["text"]
    cut = f" … ({len(text):,} characters)" if len(text) > SHOWN_CHARACTERS else ""
    return "\n".join([*lines, "", visible(text[:SHOWN_CHARACTERS]).rstrip("\n") + cut])
