"""`pretrain train`: data, model, training, evaluation and a sample, one after the other, from where it stopped."""

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from pretrain.commands.choosing import chosen, with_choice
from pretrain.commands.data import Prepared
from pretrain.commands.run_folder import refuse_changes, run_folder, write_beginnings
from pretrain.commands.run_report import keep_sample, page_keeper, write_endings
from pretrain.commands.sizing import tokens_at_peak
from pretrain.commands.sweep import keep_page as keep_page
from pretrain.commands.sweep import keep_sweep as keep_sweep
from pretrain.commands.sweep import sweep_folder as sweep_folder
from pretrain.commands.train_end import references_of, result_of, sample_of
from pretrain.commands.train_start import (
    compilation_of,
    described,
    first_state,
    limits_of,
    newest_checkpoint,
    prepared_data,
)
from pretrain.config import Part, TrainConfig, build
from pretrain.data.batches import Batches
from pretrain.data.manifests import read_json, write_json
from pretrain.data.mixture import Share
from pretrain.data.objectives import Objective
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.data.verification import verification
from pretrain.errors import ConfigError, Interrupted, TrainingError
from pretrain.evaluation.loss import Loss, Validation
from pretrain.evaluation.loss import Part as Rows
from pretrain.evaluation.references import named_references
from pretrain.models.language_model import LanguageModel
from pretrain.reporting.results_table import show as show
from pretrain.reporting.run_record import beginning, look_into
from pretrain.sampling.decodings import Greedy
from pretrain.stopping import Stop
from pretrain.tokenizers.loading import load
from pretrain.tracking.console import ConsoleTracker, console, say
from pretrain.tracking.jsonl import Metrics
from pretrain.tracking.training_panel import training_panel
from pretrain.training.allocator import keep_freed_memory
from pretrain.training.checkpoints import Checkpoint, Checkpoints, TrainingState
from pretrain.training.compiling import Compilation
from pretrain.training.loop import Limits, Rhythm, Tracker, train
from pretrain.training.parallel import Parallel
from pretrain.training.precision import DTYPES, chosen_device, refuse_precision
from pretrain.training.runs import locked, read_result
from pretrain.training.updates import Update


def run(settings: TrainConfig, sweep: tuple[Path, list[str]] | None = None) -> dict[str, Any] | None:
    """Train one model to its end, from wherever its run stopped.

    Args:
        sweep: the sweep's folder and this job's own choices, which name the run's folder inside.
    Returns:
        the result, on the first of the processes that train together; None on the others.
    """
    stop = Stop().install()
    device = chosen_device(settings.device)
    refuse_precision(settings.precision, device)
    parallel: Parallel = build(settings.parallel)
    with parallel.joined(device, stop):
        console.quiet = parallel.rank > 0
        result = _run(settings, sweep, parallel, device, stop)
    return None if parallel.rank else result


def _run(
    settings: TrainConfig,
    sweep: tuple[Path, list[str]] | None,
    parallel: Parallel,
    device: torch.device,
    stop: Stop,
) -> dict[str, Any]:
    """As run, on every process."""
    if sweep and parallel.ranks > 1:
        raise ConfigError("a sweep (-m) runs its jobs in one process each; start each job with torchrun instead")
    keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    prepared = prepared_data(settings, parallel, stop)
    stop = parallel.stop(stop)
    manifest = read_manifest(prepared.folder)
    training, validation = (TokenStream(prepared.folder, name, manifest) for name in ("train", "validation"))
    folder = run_folder(settings, manifest["key"], sweep)
    folder.mkdir(parents=True, exist_ok=True)
    first = parallel.rank == 0
    streams = verification([training, validation], beside=first)
    with locked(folder) if first else nullcontext(), streams as verify:
        checkpoints = Checkpoints(folder, settings.trainer.keep_checkpoints, settings.trainer.keep_every)
        checkpoint = newest_checkpoint(checkpoints, parallel)
        begin = partial(_begun, training=training, manifest=manifest, parallel=parallel, device=device, stop=stop)
        choice = checkpoint.state.choice if checkpoint else {}
        if settings.budget and not choice:
            objective = build_objective(settings, manifest["vocab_size"], manifest["end_of_text"])
            best = references_of(prepared, manifest, training, validation, objective)["best_ngram"]
            choice = chosen(settings, begin, training, validation, best, stop)
        settings = with_choice(settings, choice)
        if checkpoint:
            refuse_changes(settings, manifest["key"], folder)
        batches, state, update, compilation = begin(settings, checkpoint)
        objective, trainer, row = batches.objective, settings.trainer, settings.sequence_length
        if choice and not checkpoint:
            state.choice, state.seconds = choice, choice["seconds"]
        limits = limits_of(settings, batches, update)
        result = read_result(folder)
        if result and result["steps"] == state.step and limits.progress(state) >= 1:
            say(f"{folder} is finished")
            return result
        verify()
        config = OmegaConf.to_yaml(OmegaConf.create(asdict(settings)))
        if parallel.rank == 0:
            write_beginnings(folder, config, prepared)
        stride, apart = settings.eval.stride or max(1, row // 2), trainer.packing == "documents"
        other = None if objective.in_order else objective
        mine = Rows(parallel.data_rank, parallel.data_ranks, parallel.sum)
        measure = Validation(validation, row, stride, trainer.eval_tokens, stop, apart, other, mine)
        say(described(folder, settings, update, state, device, parallel))
        decoding, show_page = build(settings.decoding), page_keeper(folder, asdict(settings))

        def look() -> None:
            most = min(settings.sample.eval_tokens, settings.sample.max_tokens)
            text = sample_of(settings, update, prepared, objective, device, most, decoding, tell=lambda _: None)
            if parallel.rank == 0:
                keep_sample(folder, state.step, text)
                show_page("running")

        try:
            parts = (update, state, limits, measure, checkpoints, look, parallel, stop, compilation)
            loss = _train(folder, settings, config, prepared, *parts)
        except (Interrupted, TrainingError):
            if parallel.rank == 0:
                show_page("stopped")
            raise
        loss = loss or measure.loss(update.working, whole=True)
        fitted = parallel.turn(lambda: json.dumps(references_of(prepared, manifest, training, validation, objective)))
        references = json.loads(fitted)
        samples = [
            sample_of(settings, update, prepared, objective, device, settings.sample.max_tokens, by)
            for by in (decoding, Greedy())[: 2 if settings.sample.greedy else 1]
        ]
        parameters = parallel.parameter_count(update.model)
        result = result_of(folder, state, loss, measure, references, samples, parameters)
        if choice:
            result["choice"] = choice
        begins = beginning(validation) if objective.in_order else []
        # Weights in pieces are looked into later, by `pretrain report`.
        seen = look_into(update.working, load(prepared.tokenizer), begins) if parallel.ranks == 1 else None
        if parallel.rank == 0:
            write_json(folder / "references.json", references)
            write_endings(folder, asdict(settings), result, seen)
    return result


def _begun(
    settings: TrainConfig,
    checkpoint: Checkpoint | None = None,
    *,
    training: TokenStream,
    manifest: dict[str, Any],
    parallel: Parallel,
    device: torch.device,
    stop: Stop,
) -> tuple[Batches, TrainingState, Update, Compilation]:
    """Batches, state, the model with its way to learn, and whether it is compiled: fresh, or as a checkpoint has it."""
    trainer = settings.trainer
    shares = {name: Share(part.get("weight"), part.get("max_epochs")) for name, part in settings.data.sources.items()}
    batches = Batches(
        training,
        settings.sequence_length,
        settings.rows,
        settings.seed,
        shares,
        doublings=trainer.double_batch_at,
        objective=build_objective(settings, manifest["vocab_size"], manifest["end_of_text"]),
        packing=trainer.packing,
        rank=parallel.data_rank,
        ranks=parallel.data_ranks,
        workers=trainer.loader_workers,
    )
    make_model = partial(build_model, settings.model, manifest["vocab_size"], batches.objective.special_ids)
    state = checkpoint.state if checkpoint else first_state(settings, device, make_model, parallel)
    state.threads = torch.get_num_threads()
    compilation = compilation_of(settings, state, parallel)
    torch.manual_seed(settings.seed)
    model = make_model()
    if checkpoint:
        model.load_weights(checkpoint.weights)
    model.to(device)
    parallel.prepare(model, DTYPES[state.precision])
    parameters = parallel.parameters(model)
    update: Update = build(
        settings.update,
        model=model,
        batches=batches,
        optimizer=build(settings.optimizer, parameters=parameters),
        schedule=build(settings.schedule),
        dtype=DTYPES[state.precision],
        micro_batch=state.micro_batch,
        seed=settings.seed,
        end_of_text=manifest["end_of_text"],
        stop=stop,
        parallel=parallel,
        activation_checkpointing=trainer.activation_checkpointing,
        fp8=state.precision == "fp8",
        compilation=compilation,
    )
    if checkpoint:
        update.load_state(parallel.share.own(checkpoint.update))
    return batches, state, update, compilation


def build_objective(settings: TrainConfig, vocab_size: int, end_of_text: int) -> Objective:
    """What a config makes of rows, for a tokenizer's vocabulary."""
    objective: Objective = build(
        settings.objective,
        end_of_text=end_of_text,
        separator=vocab_size,
        sequence_length=settings.sequence_length,
    )
    return objective


def build_model(part: Part, vocab_size: int, special_ids: int = 0) -> LanguageModel:
    """The model of a config for a tokenizer's vocabulary, and for the ids behind it that an objective needs.

    Raises:
        ConfigError: the config names another vocabulary size, or too few special ids.
    """
    if part.get("vocab_size") not in (None, vocab_size):
        raise ConfigError(
            f"model.vocab_size={part['vocab_size']}, but the tokenizer has {vocab_size} ids; leave it out"
        )
    if (part.get("special_ids") or special_ids) < special_ids:
        raise ConfigError(
            f"model.special_ids={part['special_ids']}, but the objective needs {special_ids}; leave it out"
        )
    model: LanguageModel = build(part, vocab_size=vocab_size, special_ids=special_ids)
    return model


def _train(
    folder: Path,
    settings: TrainConfig,
    config: str,
    prepared: Prepared,
    update: Update,
    state: TrainingState,
    limits: Limits,
    measure: Validation,
    checkpoints: Checkpoints,
    look: Callable[[], None],
    parallel: Parallel,
    stop: Stop,
    compilation: Compilation,
) -> Loss | None:
    first = parallel.rank == 0
    trackers: list[Tracker] = [Metrics(folder / "metrics.jsonl", state.step), ConsoleTracker()] if first else []
    if settings.tracker and first:
        trackers.append(build(settings.tracker, name=folder.name, folder=folder, settings=asdict(settings)))

    def save(last: bool) -> None:
        state.compiled = compilation.choice
        weights, learned, share = parallel.weights(update.model), update.state(), parallel.share
        if share.writes:
            checkpoints.save(state, weights, learned, config, prepared.tokenizer, share=share, last=last)
        parallel.turn(lambda: "")  # the last one takes longer than an exchange may

    def restore() -> TrainingState | None:
        if checkpoint := newest_checkpoint(checkpoints, parallel):
            parallel.load(update.model, checkpoint.weights)
            update.load_state(parallel.share.own(checkpoint.update))
        return checkpoint.state if checkpoint else None

    if parallel.share.writes:
        checkpoints.prepare(parallel.weights(update.model), update.state())
    lines = {"uniform": math.log(update.model.vocab_size)}
    if measure.objective is None and (known := read_json(prepared.folder / "references.json")):
        lines = named_references(known)
    fastest = tokens_at_peak(update.model, state.precision, settings.sequence_length)
    rhythm = Rhythm(settings.trainer.eval_every, settings.trainer.checkpoint_every)
    try:
        with training_panel(limits.progress(state), lines) as show_row:
            return train(
                update,
                state,
                limits,
                rhythm,
                validation=measure,
                save=save,
                restore=restore,
                trackers=trackers,
                show=show_row,
                look=look,
                stop=stop,
                same=parallel.same,
                tokens_at_peak=fastest and fastest * parallel.data_ranks,
            )
    except Exception:
        checkpoints.give_up()
        raise
    finally:
        for tracker in trackers:
            tracker.close()
        checkpoints.wait()
