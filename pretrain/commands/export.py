"""`pretrain export`: a run's model in the format of another program."""

from pathlib import Path
from typing import Any

import torch

from pretrain.commands.loading import load_run
from pretrain.config import ExportConfig
from pretrain.errors import UsageError
from pretrain.exporting.arpa import write_arpa
from pretrain.models.ngram import NGram
from pretrain.reporting.tables import show_table


def run(settings: ExportConfig) -> dict[str, Any]:
    """Write the file.

    Raises:
        UsageError: the model has no such form.
    """
    loaded = load_run(settings.run, settings.step, settings.runs_dir, torch.device("cpu"), "auto")
    if not isinstance(loaded.model, NGram):
        raise UsageError(f"to=arpa is for n-grams, and {loaded.folder} is a {type(loaded.model).__name__}")
    path = Path(settings.path) if settings.path else loaded.folder / "model.arpa"
    return {
        "run": str(loaded.folder.absolute()),
        "step": loaded.state.step,
        "path": str(path.absolute()),
        "ngrams": write_arpa(loaded.model, path),
    }


def show(results: list[dict[str, Any]]) -> None:
    """Print where each model lies, and what it holds."""
    for result in results:
        rows = [[str(n), f"{size:,}"] for n, size in enumerate(result["ngrams"], start=1)]
        show_table(result["path"], ["order", "n-grams"], rows)
