"""`pretrain report`: the page of a run, or one that compares runs."""

from pathlib import Path
from typing import Any

import torch

from pretrain.commands.loading import load_run, run_tokens
from pretrain.commands.run_report import record_of
from pretrain.config import ReportConfig
from pretrain.errors import CheckpointError, ConfigError, DataError
from pretrain.reporting.report import REPORT, write_report
from pretrain.reporting.run_record import Insides, beginning, look_into
from pretrain.tracking.console import warn
from pretrain.training.runs import SWEEP, find_run, runs_of_sweep


def run(settings: ReportConfig) -> dict[str, Any]:
    """Write the page, and tell where it is and of which runs."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    names = [settings.run] if isinstance(settings.run, str) else settings.run
    runs_dir = Path(settings.runs_dir)
    folders = [folder for name in names for folder in _folders(name, runs_dir)]
    if not folders:
        raise ConfigError(f"run=[{','.join(names)}] names no run; try run=latest")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"run=[{','.join(names)}] names a run twice")
    look = len(folders) == 1
    records = [record_of(folder, _insides(folder) if look else None) for folder in folders]
    own = folders[0] if len(folders) == 1 else folders[0].parent if len(names) == 1 else runs_dir
    path = Path(settings.path) if settings.path else own / REPORT
    if path.is_dir():
        raise ConfigError(f"path={path} is a folder; name a file in it: path={path / REPORT}")
    write_report(records, path)
    return {"path": str(path.absolute()), "runs": [str(folder.absolute()) for folder in folders]}


def show(results: list[dict[str, Any]]) -> None:
    """Print where each page is."""
    for result in results:
        print(result["path"])


def _folders(name: str, runs_dir: Path) -> list[Path]:
    """The run of that name, or all runs of the sweep of that name."""
    for sweep in (runs_dir / name, Path(name)):
        if (sweep / SWEEP).is_file():
            return runs_of_sweep(sweep)
    return [find_run(name, runs_dir)]


def _insides(folder: Path) -> Insides | None:
    """What the newest checkpoint holds, as far as it can be read: a page shows what is left of a run."""
    if not (folder / "latest").is_file():
        return None
    try:
        loaded = load_run(str(folder.absolute()), "latest", ".", torch.device("cpu"), "fp32")
    except (CheckpointError, DataError) as error:
        warn(f"{error}; the page has neither parameters nor attention maps")
        return None
    tokens: list[int] = []
    if loaded.objective.in_order:
        try:
            tokens = beginning(run_tokens(loaded, "validation"))
        except DataError as error:
            warn(f"{error}; the page has no attention maps")
    return look_into(loaded.model, loaded.tokenizer, tokens)
