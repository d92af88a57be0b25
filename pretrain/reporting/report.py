"""The pages of runs: report.html in a run's folder, and pages that compare runs."""

from collections.abc import Sequence
from pathlib import Path

from pretrain.data.manifests import temporary_name
from pretrain.reporting.comparison_page import comparison_page
from pretrain.reporting.run_page import run_page
from pretrain.reporting.run_record import RunRecord

REPORT = "report.html"


def write_report(records: Sequence[RunRecord], path: Path) -> Path:
    """Write the page of a run, or one that compares several, to `path`, whole or not at all."""
    text = run_page(records[0]) if len(records) == 1 else comparison_page(records)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.write_text(text, "utf-8", errors="backslashreplace")
    temporary.rename(path)
    return path
