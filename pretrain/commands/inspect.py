"""`pretrain inspect VIEW`: what is inside a run, or a model."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pretrain.commands.loading import LoadedRun, load_run, run_tokens
from pretrain.commands.train import build_model
from pretrain.config import InspectConfig, build
from pretrain.errors import ConfigError
from pretrain.inspection.parameters import hollow
from pretrain.inspection.view import Subject
from pretrain.models.language_model import LanguageModel
from pretrain.reporting.pictures import draw, drawable
from pretrain.reporting.tables import show_table
from pretrain.tracking.console import warn
from pretrain.training.precision import chosen_device

VOCAB_SIZE = 50_257  # of a model that no tokenizer and no setting gives one: GPT-2's
PICTURES = "inspect"  # their folder in a run


def run(settings: InspectConfig) -> dict[str, Any]:
    """What the view finds, and the paths of its pictures."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    view = build(settings.view)
    needs = getattr(view, "needs", "run")
    folder = Path(settings.runs_dir)
    if needs == "nothing":
        document: dict[str, Any] = view()
    elif needs == "model" and settings.model:
        with hollow():
            model = _chosen_model(settings, settings.model.get("vocab_size") or VOCAB_SIZE)
        document = view(model, settings.model)
    else:
        device = chosen_device(settings.device)
        loaded = load_run(settings.run, settings.step, settings.runs_dir, device, settings.precision)
        folder = loaded.folder
        document = view(loaded.model, loaded.settings.model) if needs == "model" else view(_subject(settings, loaded))
    return _with_pictures(document, Path(settings.path) if settings.path else folder / PICTURES, settings.path)


def show(results: list[dict[str, Any]]) -> None:
    """Print the tables of each view, and where its pictures are."""
    for document in results:
        for number, table in enumerate(_module(document).tables(document)):
            if number:
                print()
            show_table(table.title, table.columns, table.rows)
        for path in document.get("pictures", []):
            print(path)


def _subject(settings: InspectConfig, loaded: LoadedRun) -> Subject:
    """The run; a chosen model takes the place of its own, with the random weights that its seed gives."""
    model, row = loaded.model, loaded.settings.sequence_length
    if settings.model:
        torch.manual_seed(loaded.settings.seed)
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        model = _chosen_model(settings, loaded.tokenizer.vocab_size).to(device).eval()
        row = min(row, model.context_length or row) if any(True for _ in model.parameters()) else row
        if not model.parameter_count():
            raise ConfigError("a model that counts knows nothing before it has read a text; leave model= out, set run=")
    streams = run_tokens(loaded, "train"), run_tokens(loaded, "validation")
    in_order = not settings.objective if settings.model else loaded.other_objective is None
    return Subject(model, loaded.tokenizer, *streams, sequence_length=row, in_order=in_order)


def _chosen_model(settings: InspectConfig, vocab_size: int) -> LanguageModel:
    """The model that was chosen instead of a run's, with the ids that its objective needs."""
    special_ids = 0
    if settings.objective:
        length = settings.model.get("context_length") or 256
        objective = build(settings.objective, end_of_text=0, separator=vocab_size, sequence_length=length)
        special_ids = objective.special_ids
    return build_model(settings.model, vocab_size, special_ids)


def _with_pictures(document: dict[str, Any], folder: Path, asked: str | None) -> dict[str, Any]:
    """The document with the paths of its pictures, which are written."""
    module = _module(document)
    if not hasattr(module, "pictures"):
        if asked:
            raise ConfigError(f"path={asked} is for pictures, and view={document['view']} has none; leave it out")
        return document
    if not drawable():
        missing = "pictures need matplotlib: pip install 'pretrain[plots]'"
        if asked:
            raise ConfigError(missing)
        warn(missing)
        return document | {"pictures": []}
    pictures = module.pictures(document)
    paths = [path for name, picture in pictures.items() for path in draw(picture, folder / name)]
    return document | {"pictures": [str(path.absolute()) for path in paths]}


def _module(document: dict[str, Any]) -> ModuleType:
    return importlib.import_module(f"pretrain.inspection.{document['view']}")
