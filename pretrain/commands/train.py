"""`pretrain train`: data, model, training, evaluation and a sample, one after the other, from where it stopped."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import xxhash
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from pretrain.commands.data import Prepared, prepare
from pretrain.config import Part, TrainConfig, build
from pretrain.data.batches import Batches
from pretrain.data.manifests import read_json, write_json
from pretrain.data.mixture import Share
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.errors import ConfigError, SamplingError
from pretrain.evaluation.loss import Loss, Validation
from pretrain.evaluation.references import MOST_TRAINING_TOKENS, fit_references
from pretrain.models.language_model import LanguageModel
from pretrain.reporting.loss_curve import loss_curve
from pretrain.reporting.tables import decimal, show_table
from pretrain.sampling.generation import generate
from pretrain.stopping import Stop
from pretrain.tokenizers.loading import load
from pretrain.tracking.console import ConsoleTracker, duration, say, warn
from pretrain.tracking.jsonl import Metrics, finite, read_metrics
from pretrain.tracking.training_panel import training_panel
from pretrain.training.allocator import keep_freed_memory
from pretrain.training.checkpoints import Checkpoint, Checkpoints, TrainingState
from pretrain.training.environment import environment
from pretrain.training.loop import Limits, Rhythm, Tracker, train
from pretrain.training.precision import DTYPES, chosen_device, chosen_precision
from pretrain.training.runs import locked, read_result
from pretrain.training.updates import Update

# Settings that do not change what is learned: a run goes on with others.
FREE = {
    "name",
    "runs_dir",
    "data_dir",
    "device",
    "threads",
    "format",
    "executor",
    "tracker",
    "decoding",
    "sample",
    "eval",
}
LIMITS = {"trainer.max_steps", "trainer.max_tokens", "trainer.epochs", "trainer.max_seconds"}
RHYTHM = {"trainer.eval_tokens", "trainer.keep_checkpoints", "trainer.checkpoint_every", "trainer.loader_workers"}
SHOWN = {"loss": 4, "perplexity": 2, "bits_per_byte": 4}  # figures of the validation, with their places


def run(settings: TrainConfig, sweep: tuple[Path, list[str]] | None = None) -> dict[str, Any]:
    """Train one model to its end, from wherever its run stopped.

    Args:
        sweep: the sweep's folder and this job's own choices, which name the run's folder inside.
    """
    stop = Stop().install()
    keep_freed_memory()
    device = chosen_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    prepared = prepare(settings.data, settings.tokenizer, settings.executor, settings.seed, settings.data_dir, stop)
    manifest = read_manifest(prepared.folder)
    training, validation = (TokenStream(prepared.folder, name, manifest) for name in ("train", "validation"))
    shares = {name: Share(part.get("weight"), part.get("max_epochs")) for name, part in settings.data.sources.items()}
    trainer, row = settings.trainer, settings.sequence_length
    batches = Batches(
        training, row, settings.rows, settings.seed, shares, packing=trainer.packing, workers=trainer.loader_workers
    )
    folder = _run_folder(settings, manifest["key"], sweep)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        checkpoints = Checkpoints(folder, trainer.keep_checkpoints)
        checkpoint = checkpoints.newest(warn)
        if checkpoint:
            _refuse_changes(settings, manifest["key"], folder)
        state = checkpoint.state if checkpoint else _first_state(settings, device)
        state.threads = torch.get_num_threads()
        update = _update(settings, manifest, batches, state, checkpoint, device, stop)
        limits = _limits(settings, batches, update)
        result = read_result(folder)
        if result and result["steps"] == state.step and limits.progress(state) >= 1:
            say(f"{folder} is finished")
            return result
        for stream in (training, validation):
            stream.verify()
        config = OmegaConf.to_yaml(OmegaConf.create(asdict(settings)))
        _write_beginnings(folder, config, prepared)
        stride, apart = settings.eval.stride or max(1, row // 2), trainer.packing == "documents"
        measure = Validation(validation, row, stride, trainer.eval_tokens, stop, apart)
        say(_described(folder, settings, update, state, device))
        loss = _train(folder, settings, config, prepared, update, state, limits, measure, checkpoints, stop)
        loss = loss or measure.loss(update.working, whole=True)
        references = _references(prepared, manifest, training, validation)
        write_json(folder / "references.json", references)
        sample = _sample(settings, update, prepared, manifest, device)
        result = _result(folder, update, state, loss, measure, references, sample)
        _write_endings(folder, result, state)
    return result


def show(results: list[dict[str, Any]]) -> None:
    """Print the runs and their references as one table, and a sample of each run."""
    rows = [
        [
            Path(result["run"]).name,
            f"{result['parameters']:,}",
            f"{result['tokens']:,}",
            duration(result["seconds"]),
            decimal(result["train"]["loss"], score="unseen" not in result["validation"]),
            *(
                decimal(result["validation"][name], n, score="unseen" not in result["validation"])
                for name, n in SHOWN.items()
            ),
        ]
        for result in results
    ]
    rows += [
        [f"({name})", "", "", "", "", decimal(loss), decimal(math.exp(loss), 2), ""]
        for name, loss in named_references(results[0]["references"]).items()
    ]
    columns = ["run", "parameters", "tokens", "time", "train loss", "validation loss", "perplexity", "bits per byte"]
    show_table("Loss in nats per token; in brackets the references, on the same tokens", columns, rows)
    for result in results:
        name = Path(result["run"]).name
        if unseen := result["validation"].get("unseen"):
            print(f"{name}: inf, {unseen['targets']:,} of {unseen['of']:,} targets unseen")
        if result.get("sample"):
            print(f"\nA sample of {name}:\n{result['sample']}")
    print("\n" + "\n".join(result["run"] for result in results))


def named_references(references: dict[str, Any]) -> dict[str, float]:
    """The references as people read them: uniform, unigram, bigram, best n-gram with its order."""
    names = {"best_ngram": f"best n-gram, order {references['best_ngram_order']}"}
    return {names.get(name, name): loss for name, loss in references.items() if name != "best_ngram_order"}


def sweep_folder(settings: dict[str, Any], overrides: list[str]) -> Path:
    """Where the runs of a sweep lie: runs_dir/NAME."""
    folder = Path(settings["runs_dir"]) / (settings["name"] or f"sweep-{_digest(sorted(overrides))}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def saved_settings(folder: Path) -> dict[str, Any]:
    """The config.yaml of a run or a checkpoint as plain mappings."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    return dict(settings)


def _run_folder(settings: TrainConfig, data_key: str, sweep: tuple[Path, list[str]] | None) -> Path:
    if sweep:
        return sweep[0] / ",".join(sweep[1]).replace("/", ".")
    if settings.name:
        return Path(settings.runs_dir) / settings.name
    choices = HydraConfig.get().runtime.choices
    digest = _digest([_mattering(asdict(settings)), data_key])
    return Path(settings.runs_dir) / f"{choices['model']}-{choices['tokenizer']}-{digest}"


def _digest(content: Any) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())[:8]


def _mattering(settings: dict[str, Any]) -> dict[str, Any]:
    """Dotted key to value, for the settings that a run cannot change half-way."""
    free = FREE | RHYTHM | (LIMITS if "Constant" in settings["schedule"]["_target_"] else set())
    return {key: value for key, value in _flat(settings, "") if key not in free and key.split(".")[0] not in free}


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _refuse_changes(settings: TrainConfig, data_key: str, folder: Path) -> None:
    """Refuse to go on with a run whose settings or data were others."""
    before, now = _mattering(saved_settings(folder)), _mattering(asdict(settings))
    changed = [
        f"{key} was {before.get(key, 'not set')} and is now {now.get(key, 'not set')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if not changed and read_json(folder / "data_manifest.json")["key"] != data_key:
        changed = ["the data is no longer the same"]
    if changed:
        raise ConfigError(f"{folder} was started with other settings: {'; '.join(changed)}; choose another name=")


def _first_state(settings: TrainConfig, device: torch.device) -> TrainingState:
    precision = chosen_precision(settings.precision, device)
    return TrainingState(precision, settings.micro_batch, torch.get_num_threads())


def _update(
    settings: TrainConfig,
    manifest: dict[str, Any],
    batches: Batches,
    state: TrainingState,
    checkpoint: Checkpoint | None,
    device: torch.device,
    stop: Stop,
) -> Update:
    """The model with its way to learn: fresh from the seed, or as the checkpoint left it."""
    torch.manual_seed(settings.seed)
    model = build_model(settings.model, manifest["vocab_size"])
    if checkpoint:
        model.load_weights(checkpoint.weights)
    model.to(device)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
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
    )
    if checkpoint:
        update.load_state(checkpoint.update)
    return update


def build_model(part: Part, vocab_size: int) -> LanguageModel:
    """The model of a config for a tokenizer's vocabulary.

    Raises:
        ConfigError: the config names another vocabulary size.
    """
    if part.get("vocab_size") not in (None, vocab_size):
        raise ConfigError(
            f"model.vocab_size={part['vocab_size']}, but the tokenizer has {vocab_size} ids; leave it out"
        )
    model: LanguageModel = build(part, vocab_size=vocab_size)
    return model


def _limits(settings: TrainConfig, batches: Batches, update: Update) -> Limits:
    trainer = settings.trainer
    steps = [trainer.max_steps, update.most_steps()]
    epoch_tokens = batches.rows_per_epoch * batches.sequence_length
    tokens = [trainer.max_tokens, None if trainer.epochs is None else int(trainer.epochs * epoch_tokens)]
    return Limits(_least(steps), _least(tokens), trainer.max_seconds)


def _least(limits: list[int | None]) -> int | None:
    return min((most for most in limits if most is not None), default=None)


def _described(folder: Path, settings: TrainConfig, update: Update, state: TrainingState, device: torch.device) -> str:
    parameters = update.model.parameter_count()  # 0 for counts that are not yet counted
    return (
        f"{folder} from step {state.step:,}: "
        + (f"{parameters:,} parameters, " if parameters else "")
        + f"{settings.trainer.batch_tokens:,} tokens a step = {settings.rows} rows of {settings.sequence_length} "
        f"({state.micro_batch} at once), {state.precision} on {device.type}, {state.threads} threads"
    )


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
    stop: Stop,
) -> Loss | None:
    trackers: list[Tracker] = [Metrics(folder / "metrics.jsonl", state.step), ConsoleTracker()]
    if settings.tracker:
        trackers.append(build(settings.tracker, name=folder.name, folder=folder, settings=asdict(settings)))

    def save(last: bool) -> None:
        weights = dict(update.model.state_dict())
        checkpoints.save(state, weights, update.state(), config, prepared.tokenizer, last=last)

    def restore() -> TrainingState | None:
        checkpoints.wait()
        if checkpoint := checkpoints.newest(warn):
            update.model.load_weights(checkpoint.weights)
            update.load_state(checkpoint.update)
        return checkpoint.state if checkpoint else None

    checkpoints.prepare(dict(update.model.state_dict()), update.state())
    lines = {"uniform": math.log(update.model.vocab_size)}
    if known := read_json(prepared.folder / "references.json"):
        lines = named_references(known)
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
                stop=stop,
            )
    finally:
        for tracker in trackers:
            tracker.close()
        checkpoints.wait()


def _references(
    prepared: Prepared, manifest: dict[str, Any], training: TokenStream, validation: TokenStream
) -> dict[str, Any]:
    """The references on this data, fitted once and kept beside the token shards."""
    path = prepared.folder / "references.json"
    references: dict[str, Any] | None = read_json(path)
    if references is None:
        say("fitting the references: unigram, bigram and the best n-gram")
        sizes = {"vocab_size": manifest["vocab_size"], "end_of_text": manifest["end_of_text"]}
        references = dict(fit_references(training.array(MOST_TRAINING_TOKENS), validation.array(), **sizes))
        write_json(path, references)
    return references


def _sample(
    settings: TrainConfig, update: Update, prepared: Prepared, manifest: dict[str, Any], device: torch.device
) -> str | None:
    if not settings.sample.max_tokens:
        return None
    tokenizer = load(prepared.tokenizer)
    prompt = [tokenizer.end_of_text, *tokenizer.encode(settings.sample.prompt)]
    try:
        [continuation] = generate(
            update.working,
            prompt,
            n=1,
            max_tokens=settings.sample.max_tokens,
            decoding=build(settings.decoding),
            seed=settings.seed,
            end_of_text=manifest["end_of_text"],
            device=device,
        )
    except SamplingError as error:  # a model without smoothing stops in an unseen context; it is trained all the same
        warn(str(error))
        return None
    return settings.sample.prompt + tokenizer.decode(continuation.tokens)


def _result(
    folder: Path,
    update: Update,
    state: TrainingState,
    loss: Loss,
    measure: Validation,
    references: dict[str, Any],
    sample: str | None,
) -> dict[str, Any]:
    validation: dict[str, Any] = {
        "loss": finite(loss.mean),
        "perplexity": finite(loss.perplexity),
        "bits_per_byte": finite(measure.bits_per_byte(loss)),
    }
    if loss.unseen:
        validation["unseen"] = {"targets": loss.unseen, "of": loss.tokens}
    train_loss = state.train_loss
    return {
        "run": str(folder.absolute()),
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "parameters": update.model.parameter_count(),
        "train": {"loss": train_loss, "perplexity": None if train_loss is None else math.exp(train_loss)},
        "validation": validation,
        "references": references,
        "sample": sample,
    }


def _write_beginnings(folder: Path, config: str, prepared: Prepared) -> None:
    """What a run knows before its first step."""
    (folder / "config.yaml").write_text(config, "utf-8")
    write_json(
        folder / "data_manifest.json", read_manifest(prepared.folder) | {"folder": str(prepared.folder.absolute())}
    )
    shutil.copyfile(prepared.tokenizer, folder / "tokenizer.json")
    write_json(folder / "environment.json", environment())


def _write_endings(folder: Path, result: dict[str, Any], state: TrainingState) -> None:
    """What a run leaves behind: its sample, its curve and, last of all, its result."""
    if result["sample"] is not None:
        (folder / "samples").mkdir(exist_ok=True)
        (folder / "samples" / f"step_{state.step:08d}.txt").write_text(result["sample"], "utf-8")
    curve = loss_curve(read_metrics(folder / "metrics.jsonl"), named_references(result["references"]), folder.name)
    (folder / "loss_curve.svg").write_text(curve, "utf-8")
    write_json(folder / "result.json", result)
