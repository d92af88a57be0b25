"""`pretrain export`: a run's model, or its tokens, in the format of another program."""

from pathlib import Path
from typing import Any

import torch

from pretrain.commands.loading import LoadedRun, load_run, run_tokens
from pretrain.config import ExportConfig
from pretrain.data.token_files import write_megatron, write_nanogpt
from pretrain.errors import UsageError
from pretrain.exporting.arpa import write_arpa
from pretrain.exporting.huggingface import write_huggingface
from pretrain.models.ngram import NGram
from pretrain.reporting.tables import show_table

TOKEN_FILES = {"nanogpt": write_nanogpt, "megatron": write_megatron}
SPLITS = {"train": "train.bin", "validation": "val.bin"}  # the names that nanoGPT reads


def run(settings: ExportConfig) -> dict[str, Any]:
    """Write the files.

    Raises:
        UsageError: the model has no such form.
        DataError: the run's tokens are gone, or do not fit the format.
    """
    loaded = load_run(settings.run, settings.step, settings.runs_dir, torch.device("cpu"), "fp32")
    path = Path(settings.path) if settings.path else loaded.folder / settings.to
    if settings.to == "huggingface":
        holds = write_huggingface(loaded.model, loaded.tokenizer, path)
    elif settings.to == "arpa":
        holds = _write_ngrams(loaded, path)
    else:
        holds = _write_tokens(loaded, path, settings.to)
    return {
        "run": str(loaded.folder.absolute()),
        "step": loaded.state.step,
        "to": settings.to,
        "path": str(path.absolute()),
        "holds": holds,
    }


def show(results: list[dict[str, Any]]) -> None:
    """Print where each result lies, and what it holds."""
    for result in results:
        rows = [[name, f"{count:,}"] for name, count in result["holds"].items()]
        show_table(result["path"], ["what", "how many"], rows)


def _write_ngrams(loaded: LoadedRun, path: Path) -> dict[str, int]:
    if not isinstance(loaded.model, NGram):
        raise UsageError(f"to=arpa is for n-grams, and {loaded.folder} is a {type(loaded.model).__name__}")
    return {f"{n}-grams": count for n, count in enumerate(write_arpa(loaded.model, path), start=1)}


def _write_tokens(loaded: LoadedRun, folder: Path, to: str) -> dict[str, int]:
    folder.mkdir(parents=True, exist_ok=True)
    holds = {}
    for split, name in SPLITS.items():
        stream = run_tokens(loaded, split)
        TOKEN_FILES[to](stream, folder / name)
        holds[f"tokens in {name}"] = len(stream) - 1  # theirs does not begin with an end of text
    loaded.tokenizer.save(folder / "tokenizer.json")
    return holds
