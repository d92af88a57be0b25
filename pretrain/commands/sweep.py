"""What the runs of a sweep leave beside each other: their results in order, a picture of their losses, a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.commands.run_folder import digest
from pretrain.commands.run_report import record_of
from pretrain.commands.sweep_law import keep_law
from pretrain.data.manifests import read_json, temporary_name, write_json
from pretrain.errors import ConfigError
from pretrain.reporting.loss_bars import loss_bars
from pretrain.reporting.report import REPORT, write_report
from pretrain.training.runs import SWEEP, runs_of_sweep


def sweep_folder(settings: dict[str, Any], overrides: list[str]) -> Path:
    """Where the runs of a sweep lie: runs_dir/NAME.

    Raises:
        ConfigError: a single run lies there.
    """
    folder = Path(settings["runs_dir"]) / (settings["name"] or f"sweep-{digest(sorted(overrides))}")
    if (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is a single run, not a sweep; choose another name=")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep_sweep(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    """Keep what the jobs of a sweep gave so far, as sweep.json and losses.svg, with what is there of earlier ones."""
    together = _together(read_json(folder / SWEEP) or [], results)
    write_json(folder / SWEEP, together)
    temporary = temporary_name(folder / "losses.svg")
    temporary.write_text(loss_bars(together, folder.name), "utf-8")
    temporary.rename(folder / "losses.svg")


def keep_page(folder: Path) -> None:
    """Keep the page that compares the runs of a sweep, one alone has its own; and their law, where it is asked for."""
    runs = runs_of_sweep(folder)
    if len(runs) > 1:
        write_report([record_of(run, None) for run in runs], folder / REPORT)
    keep_law(folder)


def _together(before: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """New results in the place of old ones of the same runs; where there are all of them, in their own order."""
    new = {result["run"]: result for result in results}
    old = [result for result in before if (Path(result["run"]) / "config.yaml").is_file()]
    if all(result["run"] in new for result in old):
        return list(new.values())
    return [new.pop(result["run"], result) for result in old] + list(new.values())
