"""`pretrain inspect VIEW`: what is inside a run."""

import importlib
from typing import Any

import torch

from pretrain.commands.loading import load_run, run_tokens
from pretrain.config import InspectConfig, build
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
    return view(Subject(loaded.model, loaded.tokenizer, run_tokens(loaded, "train"), run_tokens(loaded, "validation")))


def show(results: list[dict[str, Any]]) -> None:
    """Print the tables of each view."""
    for document in results:
        module = importlib.import_module(f"pretrain.inspection.{document['view']}")
        for table in module.tables(document):
            show_table(table.title, table.columns, table.rows)
