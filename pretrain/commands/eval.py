"""`pretrain eval`: where a run stands on its validation tokens."""

import math
from pathlib import Path
from typing import Any

import torch

from pretrain.commands.loading import load_run, run_tokens
from pretrain.commands.train import OTHER_TARGETS
from pretrain.config import EvalConfig
from pretrain.data.manifests import read_json
from pretrain.data.shards import TokenStream
from pretrain.evaluation.loss import Loss, Validation
from pretrain.evaluation.references import named_references
from pretrain.reporting.tables import decimal, show_table
from pretrain.stopping import Stop
from pretrain.tracking.jsonl import finite
from pretrain.training.precision import chosen_device


def run(settings: EvalConfig) -> Any:
    """Evaluate one run, or each of a list of runs."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    names = [settings.run] if isinstance(settings.run, str) else settings.run
    results = [_evaluate(settings, name) for name in names]
    return results[0] if isinstance(settings.run, str) else results


def show(results: list[Any]) -> None:
    """Print the runs and their references as one table."""
    flat = [item for result in results for item in (result if isinstance(result, list) else [result])]
    rows = []
    for result in flat:
        figures = [result["loss"], result["perplexity"]]
        bits = [result[f"bits_per_{unit}"] for unit in ("byte", "character", "word")]
        name = f"{Path(result['run']).name}, step {result['step']:,}"
        score = "unseen" not in result
        shown = [decimal(figures[0], score=score), decimal(figures[1], 2, score=score)]
        rows.append([name, *shown, *(decimal(value, score=score) for value in bits)])
        for reference, loss in named_references(result["references"]).items():
            rows.append([f"  ({reference})", decimal(loss), decimal(math.exp(loss), 2), "", "", ""])
    columns = ["run", "loss", "perplexity", "bits per byte", "per character", "per word"]
    show_table("Validation, nats per token; in brackets the references, on the same tokens", columns, rows)
    for result in flat:
        if unseen := result.get("unseen"):
            print(f"{Path(result['run']).name}: inf, {unseen['targets']:,} of {unseen['of']:,} targets unseen")
        if set(result["references"]) == {"uniform"}:
            print(f"{Path(result['run']).name}: {OTHER_TARGETS}")


def _evaluate(settings: EvalConfig, name: str) -> dict[str, Any]:
    loaded = load_run(name, settings.step, settings.runs_dir, chosen_device(settings.device), settings.precision)
    stream = run_tokens(loaded, "validation")
    row = loaded.settings.sequence_length
    apart = loaded.settings.trainer.packing == "documents"
    stride = settings.eval.stride or max(1, row // 2)
    measure = Validation(stream, row, stride, len(stream), Stop(), apart, loaded.other_objective)
    loss = measure.loss(loaded.model, whole=True)
    result: dict[str, Any] = {
        "run": str(loaded.folder.absolute()),
        "step": loaded.state.step,
        "loss": finite(loss.mean),
        "perplexity": finite(loss.perplexity),
        **{f"bits_per_{unit}": bits for unit, bits in _bits(loss, stream, measure).items()},
        "tokens": loss.tokens,
        "references": read_json(loaded.folder / "references.json") or {},
    }
    if loss.unseen:
        result["unseen"] = {"targets": loss.unseen, "of": loss.tokens}
    return result


def _bits(loss: Loss, stream: TokenStream, measure: Validation) -> dict[str, float | None]:
    """Bits per byte, character and word of the text; None where there are no words, or other targets than the text."""
    units = {"byte": stream.bytes, "character": stream.characters, "word": stream.words}
    if measure.objective is not None:
        return dict.fromkeys(units)
    return {unit: finite(loss.bits_per(count)) if count or unit != "word" else None for unit, count in units.items()}
