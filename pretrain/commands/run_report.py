"""What a training leaves for people to look at: samples, a picture of its curve, and its page."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretrain.commands.run_folder import saved_settings
from pretrain.data.manifests import write_json
from pretrain.evaluation.references import named_references
from pretrain.reporting.loss_curve import loss_curve
from pretrain.reporting.report import REPORT, write_report
from pretrain.reporting.run_record import Insides, RunRecord, State, read_record
from pretrain.tracking.jsonl import read_metrics
from pretrain.training.runs import is_locked, read_result

SHARE = 0.01  # of a run's time, which writing its page may take while it goes on


def record_of(folder: Path, insides: Insides | None) -> RunRecord:
    """What is known of the run at `folder`, whatever its state."""
    result = read_result(folder)
    state: State = "running" if is_locked(folder) else "finished" if result else "stopped"
    return read_record(folder, saved_settings(folder), state, result, insides)


def keep_sample(folder: Path, step: int, text: str | None) -> None:
    """Keep what the run at `folder` wrote at a step."""
    if text is not None:
        (folder / "samples").mkdir(exist_ok=True)
        (folder / "samples" / f"step_{step:08d}.txt").write_text(text, "utf-8", newline="")


def page_keeper(folder: Path, settings: dict[str, Any]) -> Callable[[State], None]:
    """What writes the page of a run: always once it stopped, and while it goes on unless that costs too much time."""
    began, spent = time.perf_counter(), 0.0

    def keep(state: State) -> None:
        nonlocal spent
        now = time.perf_counter()
        if state == "stopped" or spent <= SHARE * (now - began):
            write_report([read_record(folder, settings, state, None, None)], folder / REPORT)
            spent += time.perf_counter() - now

    return keep


def write_endings(folder: Path, settings: dict[str, Any], result: dict[str, Any], insides: Insides | None) -> None:
    """What a run leaves behind: its sample, its curve, its page and, last of all, its result."""
    keep_sample(folder, result["steps"], result["sample"])
    curve = loss_curve(read_metrics(folder / "metrics.jsonl"), named_references(result["references"]), folder.name)
    (folder / "loss_curve.svg").write_text(curve, "utf-8")
    write_report([read_record(folder, settings, "finished", result, insides)], folder / REPORT)
    write_json(folder / "result.json", result)
