"""What `pretrain eval` does with one run: its validation tokens or other texts, one text token by token, and tasks."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xxhash

from pretrain.commands.data import FILES, limits_of, refuse_empty, settings_of
from pretrain.commands.loading import LoadedRun, run_tokens
from pretrain.config import EvalConfig, Part, build
from pretrain.data.collect import collect_sources, size_of_shards
from pretrain.data.executors import Serial
from pretrain.data.manifests import read_json
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.data.sources.reading import mended
from pretrain.data.splits import ALL_VALIDATION, gather, place_documents
from pretrain.data.stages import Silent, Workspace
from pretrain.data.tokenizing import write_shards
from pretrain.errors import DataError, EvaluationError, UsageError
from pretrain.evaluation.comparing import compare
from pretrain.evaluation.loss import Loss
from pretrain.evaluation.references import MOST_TRAINING_TOKENS, fit_references
from pretrain.evaluation.scoring import POSITIONED, Text, scored, scored_objective
from pretrain.evaluation.sums import TOP, Measured, Sums, bounds, measured, measured_rows
from pretrain.evaluation.tasks import evaluate_tasks
from pretrain.stopping import Stop
from pretrain.tracking.console import say, warn
from pretrain.tracking.jsonl import finite

UNITS = ("byte", "character", "word")
OTHER = "their losses are on the targets of an objective"  # why runs are not compared


def do_tasks(settings: EvalConfig, loaded: LoadedRun) -> dict[str, Any]:
    """What a run scores in tasks.

    Raises:
        UsageError: lm-eval or a task is not there, or the run has not learned to predict the next token.
    """
    _refuse_other_objective(loaded, "tasks=")
    scores = evaluate_tasks(
        loaded.model,
        loaded.tokenizer,
        settings.tasks,
        tasks_dir=settings.tasks_dir,
        few_shot=settings.few_shot,
        limit=settings.task_limit,
        longest=max(loaded.settings.sequence_length, loaded.model.context_length or 0),
        stop=Stop(),
    )
    tasks = {name: {key: finite(value) for key, value in figures.items()} for name, figures in scores.items()}
    return {
        "run": str(loaded.folder.absolute()),
        "step": loaded.state.step,
        "few_shot": settings.few_shot,
        "tasks": tasks,
    }


def _refuse_other_objective(loaded: LoadedRun, setting: str) -> None:
    if loaded.other_objective is not None:
        raise UsageError(f"{setting} is for runs that predict the next token, and {loaded.folder} does something else")


@dataclass(frozen=True)
class Evaluation:
    """What a run makes of some texts, as far as another run is compared with it.

    Attributes:
        result: what is shown.
        tokens: key of the token shards, the same only for the same texts in the same tokens.
        texts: hash and bytes of the text of each document; empty where one run is measured alone.
    """

    result: dict[str, Any]
    tokens: str
    measured: Measured
    loaded: LoadedRun
    texts: list[tuple[str, int]]


def evaluate(settings: EvalConfig, loaded: LoadedRun) -> Evaluation:
    """Measure a run on its own validation tokens, or on the texts at data.paths.

    Raises:
        DataError: the tokens are gone or damaged, or the texts empty.
        EvaluationError: there is no target, or a loss is no number.
    """
    with _stream(settings, loaded) as (stream, manifest):
        found = _measured(settings, loaded, stream)
        result = _result(loaded, stream, found)
        result["references"] = references = _references(settings, loaded, stream)
        bigram, loss = references.get("bigram"), result["loss"]
        result["share_from_bigram_to_zero"] = None if not bigram or loss is None else 1 - loss / bigram
        texts = [] if isinstance(settings.run, str) else list(_texts(loaded, stream))
    return Evaluation(result, manifest["key"], found, loaded, texts)


def evaluate_text(settings: EvalConfig, loaded: LoadedRun) -> dict[str, Any]:
    """The log-probability of a text, behind an end of text, and of each of its tokens.

    Raises:
        UsageError: the run has not learned to predict the next token.
    """
    _refuse_other_objective(loaded, "text=")
    text, _, _ = mended(settings.text or "")
    ids = loaded.tokenizer.encode(text)
    tokens = Text(np.array([loaded.tokenizer.end_of_text, *ids]))
    row, stride = _row(settings, loaded)
    parts = list(scored(loaded.model, tokens, row=row, stride=stride, stop=Stop()))
    nats, higher = (np.concatenate([getattr(part, name) for part in parts]) for name in ("nats", "higher"))
    loss = Loss(float(nats.sum()), len(nats), int(np.isinf(nats).sum()))
    _refuse_nan(loaded, loss)
    units = {"byte": len(text.encode()), "character": len(text), "word": len(text.split())}
    result = {
        "run": str(loaded.folder.absolute()),
        "step": loaded.state.step,
        "text": text,
        "logprob": finite(-loss.nats),
        "loss": finite(loss.mean),
        "perplexity": finite(loss.perplexity),
        **_bits(loss, units),
        "tokens": [
            {"id": id, "text": loaded.tokenizer.decode([id]), "logprob": finite(-own), "rank": int(rank) + 1}
            for id, own, rank in zip(ids, nats.tolist(), higher, strict=True)
        ],
    }
    return result | _unseen(loss)


def compare_runs(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """The paired test of two evaluations: in nats per token where their tokens are the same, else in bits per byte."""
    against = {"with": first.result["run"], "step": first.result["step"]}
    if first.loaded.other_objective is not None or second.loaded.other_objective is not None:
        return {**against, "reason": OTHER}
    a, b = first.measured, second.measured
    if first.tokens == second.tokens:
        unit, method, scale = "nats per token", a.method, 1.0
        sums, sizes = (a.sums.nats, b.sums.nats), a.sums.tokens
    else:
        places = {digest: place for place, (digest, size) in enumerate(first.texts) if size}
        pairs = [(places[digest], place) for place, (digest, _) in enumerate(second.texts) if digest in places]
        if not pairs:
            return {**against, "reason": "no document is in the texts of both"}
        unit, method, scale = "bits per byte", f"between {len(pairs):,} documents", 1 / math.log(2)
        ours, theirs = np.array(pairs).T
        sums = a.documents.nats[ours], b.documents.nats[theirs]
        sizes = np.array([first.texts[place][1] for place in ours])
    found = compare(sums[0] * scale, sums[1] * scale, sizes)
    if found is None:
        difference = finite(float((sums[1].sum() - sums[0].sum()) * scale / sizes.sum()))
        few = "a loss is infinite" if difference is None else "one document alone has no standard error"
        return {**against, "unit": unit, "difference": difference, "reason": few}
    return {
        **against,
        "unit": unit,
        "difference": found.difference,
        "standard_error": found.error,
        "confidence_95": list(found.interval),
        "p_value": found.p_value,
        "method": f"paired t-test {method}",
    }


def _texts(loaded: LoadedRun, stream: TokenStream) -> Iterator[tuple[str, int]]:
    for ids in stream.documents():
        text = loaded.tokenizer.decode(ids.tolist()).encode()
        yield xxhash.xxh3_128_hexdigest(text), len(text)


@contextmanager
def _stream(settings: EvalConfig, loaded: LoadedRun) -> Iterator[tuple[TokenStream, dict[str, Any]]]:
    """The tokens to measure, with their manifest; those of other texts are written to a temporary folder."""
    if not settings.data.paths:
        stream = run_tokens(loaded, "validation")
        yield stream, read_manifest(stream.folder)
        return
    of_files = {**FILES, **{name: value for name, value in vars(settings.data).items() if name != "paths"}}
    parts = {path: Part({**of_files, "paths": [path]}) for path in settings.data.paths}
    with TemporaryDirectory() as name:
        folder = Path(name)
        workspace = Workspace(folder, Serial(), Silent())
        sources = {path: build(part) for path, part in parts.items()}
        limits = limits_of(loaded.settings.data)
        texts = collect_sources(sources, settings_of(parts), limits, None, workspace, "collect")
        refuse_empty([texts], "the texts at data.paths are empty")
        placed = place_documents(texts, seed=0, workspace=workspace)  # a source then has its own shards
        size = size_of_shards(texts.total("bytes_out"))
        side = gather(placed, "validation", ALL_VALIDATION, shard_bytes=size, workspace=workspace)
        loaded.tokenizer.save(folder / "tokenizer.json")
        shards = write_shards(folder / "tokenizer.json", {"validation": side}, workspace)
        manifest = read_manifest(shards)
        yield TokenStream(shards, "validation", manifest), manifest


def _row(settings: EvalConfig, loaded: LoadedRun) -> tuple[int, int]:
    row = loaded.settings.sequence_length
    return row, settings.eval.stride or max(1, row // 2)


def _measured(settings: EvalConfig, loaded: LoadedRun, stream: TokenStream) -> Measured:
    stop = Stop()
    row, stride = _row(settings, loaded)
    if loaded.other_objective is not None:
        found = scored_objective(loaded.model, stream, loaded.other_objective, row=row, stop=stop)
        return measured_rows(found, len(stream), min(row, len(stream) - 1))
    apart = stream.end_of_text if loaded.settings.trainer.packing == "documents" else None
    found = scored(loaded.model, stream, row=row, stride=stride, stop=stop, end_of_text=apart, positioned=POSITIONED)
    return measured(found, stream)


def _result(loaded: LoadedRun, stream: TokenStream, found: Measured) -> dict[str, Any]:
    loss = found.sums.loss
    _refuse_nan(loaded, loss)
    units = {"byte": stream.bytes, "character": stream.characters, "word": stream.words}
    if found.units is None:  # the targets are not the text
        units = {}
    errors = {"loss": found.sums.error(), **{f"top_{k}": found.sums.error(k) for k in TOP}}
    return {
        "run": str(loaded.folder.absolute()),
        "step": loaded.state.step,
        "loss": finite(loss.mean),
        "perplexity": finite(loss.perplexity),
        **_bits(loss, units),
        "tokens": loss.tokens,
        "accuracy": {**_accuracy(found.sums), "tokens": int(found.sums.ranked.sum())},
        "standard_error": {**errors, "method": found.method},
        "by_source": _by_source(stream, found),
        "by_position": _by_position(found),
        **_unseen(loss),
    }


def _by_source(stream: TokenStream, found: Measured) -> dict[str, Any]:
    sources = {}
    for name, units in (found.units.sources if found.units else {}).items():
        sums = found.sums.part(units)
        if not sums.tokens.sum():
            continue
        total = sum(shard.bytes for shard in stream.shards if shard.source == name)
        sources[name] = {
            "loss": finite(sums.loss.mean),
            "perplexity": finite(sums.loss.perplexity),
            "bits_per_byte": _bits(sums.loss, {"byte": total})["bits_per_byte"],
            "tokens": sums.loss.tokens,
            "accuracy": _accuracy(sums),
            "standard_error": sums.error(),
        }
    return sources


def _by_position(found: Measured) -> list[dict[str, Any]]:
    rows = []
    for position in np.flatnonzero(found.positions.tokens).tolist():
        sums = found.positions.part(slice(position, position + 1))
        first, last = bounds(position)
        row = {"from": first, "to": last, "loss": finite(sums.loss.mean), "tokens": sums.loss.tokens}
        rows.append(row | {"unseen": sums.loss.unseen, **_accuracy(sums)})
    return rows


def _accuracy(sums: Sums) -> dict[str, float | None]:
    return {f"top_{k}": sums.accuracy(k) for k in TOP}


def _bits(loss: Loss, units: dict[str, int]) -> dict[str, float | None]:
    """Bits per byte, character and word of the text; None where there are none, or other targets than the text."""
    return {f"bits_per_{name}": finite(loss.bits_per(units[name])) if units.get(name) else None for name in UNITS}


def _unseen(loss: Loss) -> dict[str, Any]:
    return {"unseen": {"targets": loss.unseen, "of": loss.tokens}} if loss.unseen else {}


def _refuse_nan(loaded: LoadedRun, loss: Loss) -> None:
    """Raise EvaluationError where a trained model's loss is no number; scores that are no probabilities are meant."""
    if math.isnan(loss.nats) and any(True for _ in loaded.model.parameters()):
        raise EvaluationError(
            f"the loss of {loaded.folder} at step {loaded.state.step} is not a number: its weights are broken; "
            "try an earlier checkpoint: step=best"
        )


def _references(settings: EvalConfig, loaded: LoadedRun, stream: TokenStream) -> dict[str, Any]:
    """The run's own references, or for other texts those that are fitted again on its training tokens."""
    if not settings.data.paths:
        return read_json(loaded.folder / "references.json") or {}
    uniform = {"uniform": math.log(loaded.tokenizer.vocab_size)}
    if loaded.other_objective is not None:
        return uniform
    try:
        training = run_tokens(loaded, "train")
    except DataError as error:
        warn(f"{error}; without them there is no reference but the uniform one")
        return uniform
    say("fitting the references on the run's training tokens: unigram, bigram and the best n-gram")
    sizes = {"vocab_size": loaded.tokenizer.vocab_size, "end_of_text": loaded.tokenizer.end_of_text}
    return dict(fit_references(training.array(MOST_TRAINING_TOKENS), stream.array(), **sizes))
