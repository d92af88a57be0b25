"""`pretrain runs`: the runs with their state and loss."""

from datetime import datetime
from pathlib import Path
from typing import Any

from pretrain.config import RunsConfig
from pretrain.reporting.tables import decimal, show_table
from pretrain.tracking.jsonl import read_metrics
from pretrain.training.runs import all_runs, is_locked, read_result

LOSSES = ("train/loss", "val/loss")


def run(settings: RunsConfig) -> list[dict[str, Any]]:
    """One row a run, newest first."""
    runs_dir = Path(settings.runs_dir)
    folders = sorted(all_runs(runs_dir), key=_changed, reverse=True)
    return [_row(folder, runs_dir) for folder in folders]


def show(results: list[list[dict[str, Any]]]) -> None:
    """Print the runs as a table."""
    rows = [
        [
            row["name"],
            row["state"],
            f"{row['step']:,}",
            "" if row["train_loss"] is None else decimal(row["train_loss"]),
            "" if row["validation_loss"] is None else decimal(row["validation_loss"]),
            datetime.fromtimestamp(row["changed"]).strftime("%Y-%m-%d %H:%M"),
        ]
        for result in results
        for row in result
    ]
    show_table("Runs", ["run", "state", "step", "train\nloss", "validation\nloss", "changed"], rows)


def _row(folder: Path, runs_dir: Path) -> dict[str, Any]:
    metrics = read_metrics(folder / "metrics.jsonl")
    result = read_result(folder)
    state = "running" if is_locked(folder) else "finished" if result else "stopped"
    last = {key: next((row[key] for row in reversed(metrics) if row.get(key) is not None), None) for key in LOSSES}
    return {
        "name": folder.relative_to(runs_dir).as_posix(),
        "state": state,
        "step": metrics[-1]["step"] if metrics else 0,
        "train_loss": result["train"]["loss"] if result else last["train/loss"],
        "validation_loss": result["validation"]["loss"] if result else last["val/loss"],
        "changed": _changed(folder),
    }


def _changed(folder: Path) -> float:
    """When the run last wrote something, seconds since 1970."""
    files = [folder / name for name in ("config.yaml", "metrics.jsonl", "latest", "result.json")]
    return max(file.stat().st_mtime for file in files if file.exists())
