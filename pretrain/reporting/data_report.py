"""The report of a data build, beside its tokens: report.json for programs, report.md for a terminal, report.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.data.manifests import MANIFEST, read_json, temporary_name, write_json
from pretrain.data.shards import read_manifest
from pretrain.data.stages import Built
from pretrain.errors import DataError
from pretrain.reporting.data_markdown import markdown
from pretrain.reporting.data_page import page
from pretrain.reporting.examples import choose, examples

VERSION = 2  # raised whenever the same build gives another report
EXAMPLES = 5  # dropped documents shown a rule
QUARANTINED = 20  # unreadable records named


def write_report(folder: Path, stages: Sequence[Built], others: Sequence[Built]) -> Path:
    """Write the report of the tokens in `folder`, unless there is one that tells of just this build.

    Args:
        stages: what the documents passed, in order, the first one what reads the files.
        others: what else was built on the way, such as the shuffle.
    Returns:
        report.html.
    """
    path = folder / "report.html"
    told = _told(folder / "report.json")
    if path.exists() and (folder / "report.md").exists() and told == (VERSION, *map(_summaries, (stages, others))):
        return path
    report = describe(folder, stages, others)
    write_json(folder / "report.json", report)
    _write(folder / "report.md", markdown(report))
    _write(path, page(report))
    return path


def describe(folder: Path, stages: Sequence[Built], others: Sequence[Built]) -> dict[str, Any]:
    """What report.json holds."""
    manifest = read_manifest(folder)
    return {
        "version": VERSION,
        "manifest": str((folder / MANIFEST).resolve()),
        "stages": [{**_measured(built), "examples": examples(built, EXAMPLES)} for built in stages],
        "others": [_measured(built) for built in others],
        "splits": {
            name: {
                what: sum(shard[what] for shard in shards)
                for what in ("documents", "bytes", "characters", "words", "tokens")
            }
            for name, shards in manifest["splits"].items()
        },
        "vocab_size": manifest["vocab_size"],
        "quarantined": {
            "count": sum(stages[0].summary()["reasons"].values()),
            "first": [
                {key: row[key] for key in ("source", "source_id", "value", "rule", "reason")}
                for row in choose(stages[0].dropped(), QUARANTINED, only={})
            ],
        },
    }


def _measured(built: Built) -> dict[str, Any]:
    """A stage's summary, with the shares that it kept and its speed; None where there was nothing to measure."""
    summary = built.summary()
    return {
        **summary,
        "documents_kept": _ratio(summary["documents_out"], summary["documents_in"]),
        "bytes_kept": _ratio(summary["bytes_out"], summary["bytes_in"]),
        "megabytes_per_second": _ratio(summary["bytes_in"] / 1e6, summary["seconds"]),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _summaries(built: Sequence[Built]) -> list[dict[str, Any]]:
    return [stage.summary() for stage in built]


def _told(path: Path) -> tuple[Any, ...] | None:
    """The version and the summaries in an earlier report, or None where there is none that can be read."""
    try:
        report: Mapping[str, Any] = read_json(path) or {}
    except DataError:
        return None
    lists = (report.get(name, []) for name in ("stages", "others"))
    extra = {"documents_kept", "bytes_kept", "megabytes_per_second", "examples"}
    return (
        report.get("version"),
        *([{key: value for key, value in stage.items() if key not in extra} for stage in stages] for stages in lists),
    )


def _write(path: Path, text: str) -> None:
    temporary = temporary_name(path)
    temporary.write_text(text, "utf-8", errors="backslashreplace")
    temporary.rename(path)
