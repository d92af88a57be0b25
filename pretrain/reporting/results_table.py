"""The table in which a training, or a sweep of trainings, ends, and the samples behind it."""

import math
from pathlib import Path
from typing import Any

from pretrain.evaluation.references import named_references
from pretrain.reporting.tables import decimal, show_table
from pretrain.tracking.console import duration

OTHER_TARGETS = "the loss is on the targets of its objective, which no reference but the uniform one is measured on"
BITS = ("bits_per_byte", "bits_per_character")
COLUMNS = [
    "run",
    "parameters",
    "tokens",
    "time",
    "train\nloss",
    "valid.\nloss",
    "perplex-\nity",
    "bits per\nbyte",
    "bits per\nchar.",
]


def show(results: list[dict[str, Any]]) -> None:
    """Print the runs and their references as one table, then the samples of each run, and where the runs are."""
    rows = [_row(result) for result in results] + _reference_rows(results)
    title = "Nats per token; in brackets references on the same tokens, uniform being ln V"
    show_table(title, COLUMNS, rows, spare=["tokens", "bits per\nbyte", "time"])
    for result in results:
        name = Path(result["run"]).name
        if unseen := result["validation"].get("unseen"):
            print(f"{name}: inf, {unseen['targets']:,} of {unseen['of']:,} targets unseen")
        if set(result["references"]) == {"uniform"}:
            print(f"{name}: {OTHER_TARGETS}")
        if result.get("sample"):
            print(f"\nA sample of {name}:\n{result['sample']}")
        if result.get("greedy_sample"):
            print(f"\nA greedy sample of {name}:\n{result['greedy_sample']}")
    print("\n" + "\n".join(result["run"] for result in results))


def _row(result: dict[str, Any]) -> list[str]:
    validation = result["validation"]
    score = "unseen" not in validation
    return [
        Path(result["run"]).name,
        f"{result['parameters']:,}",
        f"{result['tokens']:,}",
        duration(result["seconds"]),
        decimal(result["train"]["loss"], score=score),
        decimal(validation["loss"], score=score),
        decimal(validation["perplexity"], 2, score=score),
        # Results of older runs have none per character.
        *(decimal(validation[name], score=score) if name in validation else "" for name in BITS),
    ]


def _reference_rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """The references of the run that has most; on the same tokens, bits are in proportion to nats."""
    one = max(results, key=lambda result: len(result["references"]))
    validation = one["validation"]
    share = {name: validation[name] / validation["loss"] for name in BITS if validation.get(name)}
    rows = []
    for name, loss in named_references(one["references"]).items():
        bits = [decimal(loss * share[unit]) if unit in share else "" for unit in BITS]
        label = f"({name})".replace(", ", ",\n")  # so that it is no wider than runs' names are
        rows.append([label, "", "", "", "", decimal(loss), decimal(math.exp(loss), 2), *bits])
    return rows
