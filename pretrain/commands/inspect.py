"""`pretrain inspect VIEW`: what is inside a run."""

import importlib
from pathlib import Path
from typing import Any

import torch

from pretrain.commands.loading import LoadedRun, load_run
from pretrain.config import InspectConfig, build
from pretrain.data.manifests import read_json
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.errors import DataError
from pretrain.inspection.view import Subject, View
from pretrain.reporting.tables import show_table
from pretrain.training.precision import chosen_device


def run(settings: InspectConfig) -> dict[str, Any]:
    """What the view finds."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = chosen_device(settings.device)
    loaded = load_run(settings.run, settings.step, settings.runs_dir, device, settings.precision)
    view: View = build(settings.view)
    return view(Subject(loaded.model, loaded.tokenizer, _tokens(loaded, "train"), _tokens(loaded, "validation")))


def show(results: list[dict[str, Any]]) -> None:
    """Print the tables of each view."""
    for document in results:
        module = importlib.import_module(f"pretrain.inspection.{document['view']}")
        for table in module.tables(document):
            show_table(table.title, table.columns, table.rows)


def _tokens(loaded: LoadedRun, split: str) -> TokenStream:
    """A split of the run's own tokens."""
    written = read_json(loaded.folder / "data_manifest.json")
    folder = Path(written["folder"]) if written else loaded.folder / "no data_manifest.json"
    if not folder.is_dir():
        raise DataError(f"the token shards {folder} of {loaded.folder} are gone; build them again: pretrain train ...")
    return TokenStream(folder, split, read_manifest(folder))
