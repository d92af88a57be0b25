"""`pretrain eval`: where a run stands on its validation tokens, on other texts, or in tasks."""

import math
from pathlib import Path
from typing import Any

import torch

from pretrain.commands.evaluating import compare_runs, do_tasks, evaluate, evaluate_text
from pretrain.commands.loading import LoadedRun, load_run
from pretrain.config import EvalConfig
from pretrain.evaluation.references import named_references
from pretrain.reporting.results_table import OTHER_TARGETS
from pretrain.reporting.tables import decimal, share, show_table
from pretrain.training.precision import chosen_device

MOST_SHOWN = 200  # tokens of a text
LEAST_P = 1e-10  # a p-value below is shown as below


def run(settings: EvalConfig) -> Any:
    """Evaluate one run, or each of a list of runs, and compare each of these with the first."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if isinstance(settings.run, str):
        return _evaluate(settings, settings.run)
    if settings.text is not None or settings.tasks:
        return [_evaluate(settings, name) for name in settings.run]
    evaluations = [evaluate(settings, _loaded(settings, name)) for name in settings.run]
    for other in evaluations[1:]:
        other.result["compared"] = compare_runs(evaluations[0], other)
    return [evaluation.result for evaluation in evaluations]


def show(results: list[Any]) -> None:
    """Print the runs and their references as one table, then what there is by source and by position."""
    flat = [item for result in results for item in (result if isinstance(result, list) else [result])]
    for result in flat:
        if "logprob" in result:
            _show_text(result)
        if "tasks" in result:
            _show_tasks(result)
    measured = [result for result in flat if "accuracy" in result]
    if measured:
        _show_losses(measured)
    for result in measured:
        _show_parts(result)
        name = _name(result)
        if unseen := result.get("unseen"):
            print(f"{name}: inf, {unseen['targets']:,} of {unseen['of']:,} targets unseen")
        if set(result["references"]) == {"uniform"} and not result["by_position"]:
            print(f"{name}: {OTHER_TARGETS}")
        if (way := result["share_from_bigram_to_zero"]) is not None:
            print(f"{name}: {share(way)} of the way from the bigram to 0")
        print(f"{name}: ± is the standard error {result['standard_error']['method']}")
        if compared := result.get("compared"):
            print(f"{name}: {_compared(compared)}")


def _loaded(settings: EvalConfig, name: str) -> LoadedRun:
    return load_run(name, settings.step, settings.runs_dir, chosen_device(settings.device), settings.precision)


def _evaluate(settings: EvalConfig, name: str) -> dict[str, Any]:
    loaded = _loaded(settings, name)
    if settings.text is not None:
        return evaluate_text(settings, loaded)
    return do_tasks(settings, loaded) if settings.tasks else evaluate(settings, loaded).result


def _name(result: dict[str, Any]) -> str:
    return Path(result["run"]).name


def _shares(accuracy: dict[str, Any]) -> list[str]:
    return [share(value) if (value := accuracy[name]) is not None else "–" for name in ("top_1", "top_5")]


def _plus_minus(value: float | None, error: float | None, *, score: bool) -> str:
    return decimal(value, score=score) + (f" ± {error:.4f}" if error is not None else "")


def _show_losses(results: list[dict[str, Any]]) -> None:
    rows = []
    for result in results:
        score, errors = "unseen" not in result, result["standard_error"]
        bits = [result[f"bits_per_{unit}"] for unit in ("byte", "character", "word")]
        rows.append(
            [
                f"{_name(result)}, step {result['step']:,}",
                _plus_minus(result["loss"], errors["loss"], score=score),
                decimal(result["perplexity"], 2, score=score),
                *(decimal(value, score=score) for value in bits),
                *_shares(result["accuracy"]),
            ]
        )
        for reference, loss in named_references(result["references"]).items():
            rows.append([f"  ({reference})", decimal(loss), decimal(math.exp(loss), 2), "", "", "", "", ""])
    columns = ["run", "loss", "perplexity", "bits per byte", "per character", "per word", "top 1", "top 5"]
    show_table("Nats per token; in brackets the references, on the same tokens", columns, rows)


def _show_parts(result: dict[str, Any]) -> None:
    score = "unseen" not in result
    if len(result["by_source"]) > 1:
        rows = [
            [
                name,
                f"{part['tokens']:,}",
                _plus_minus(part["loss"], part["standard_error"], score=score),
                decimal(part["perplexity"], 2, score=score),
                decimal(part["bits_per_byte"], score=score),
                *_shares(part["accuracy"]),
            ]
            for name, part in result["by_source"].items()
        ]
        columns = ["source", "tokens", "loss", "perplexity", "bits per byte", "top 1", "top 5"]
        show_table(f"{_name(result)} by source", columns, rows)
    if len(result["by_position"]) > 1:
        rows = [
            [
                f"{part['from']:,}" if part["from"] == part["to"] else f"{part['from']:,} to {part['to']:,}",
                f"{part['tokens']:,}",
                decimal(part["loss"], score=score),
                *_shares(part),
            ]
            for part in result["by_position"]
        ]
        columns = ["tokens before the target", "targets", "loss", "top 1", "top 5"]
        show_table(f"{_name(result)} by position in the context", columns, rows)


def _compared(found: dict[str, Any]) -> str:
    first = Path(found["with"]).name
    if "reason" in found:
        difference = found.get("difference")
        told = "not compared with" if difference is None else f"{difference:+.4f} {found['unit']} against"
        return f"{told} {first}: {found['reason']}"
    low, high = found["confidence_95"]
    p_value = f"p = {found['p_value']:.2g}" if found["p_value"] >= LEAST_P else f"p < {LEAST_P:.0e}"
    return (
        f"{found['difference']:+.4f} {found['unit']} against {first} (95 %: {low:+.4f} to {high:+.4f}), "
        f"{p_value} by a {found['method']}"
    )


def _show_text(result: dict[str, Any]) -> None:
    score = "unseen" not in result
    rows = [
        [repr(token["text"]), f"{token['id']}", decimal(token["logprob"], 3, score=score), f"{token['rank']:,}"]
        for token in result["tokens"][:MOST_SHOWN]
    ]
    show_table(f"{_name(result)}, step {result['step']:,}", ["token", "id", "log-probability", "rank"], rows)
    if more := len(result["tokens"]) - MOST_SHOWN:
        print(f"and {more:,} more tokens") if more > 0 else None
    total, mean = decimal(result["logprob"], 3, score=score), decimal(result["loss"], score=score)
    perplexity = decimal(result["perplexity"], 2, score=score)
    print(f"log-probability {total}, {mean} nats per token, perplexity {perplexity}")


def _show_tasks(result: dict[str, Any]) -> None:
    rows = []
    for name, figures in result["tasks"].items():
        for metric, value in figures.items():
            if metric != "questions" and "_stderr" not in metric:
                error = figures.get("_stderr,".join(metric.split(",")) if "," in metric else f"{metric}_stderr")
                questions = f"{figures['questions']:,}" if "questions" in figures else ""
                rows.append([name, metric, _plus_minus(value, error, score=True), questions])
    title = f"{_name(result)}, step {result['step']:,}, with {result['few_shot']} solved questions before each"
    show_table(title, ["task", "metric", "value", "questions"], rows)
