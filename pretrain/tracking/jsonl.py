"""metrics.jsonl: one JSON object a line, the record of a run."""

import json
import math
from pathlib import Path
from typing import Any


class Metrics:
    """Rows appended to a file; an infinite or undefined number is written as null.

    Args:
        path: the file.
        step: the step from which the run goes on; rows of later ones, from before a kill, are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        rows = [row for row in read_metrics(path) if row["step"] <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        temporary.rename(path)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def log(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps({key: finite(value) for key, value in row.items()}, allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that was cut by a kill is left out."""
    rows: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def finite(value: Any) -> Any:
    """`value`, or None for a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
