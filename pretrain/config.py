"""What a command's config holds: one dataclass per command, and the check of every value against it.

A dataclass gives the names, types and bounds of a command's fixed settings; their values stand in configs/. A part is a
mapping with a `_target_`; what it may hold is the signature of that target.
"""

import dataclasses
import importlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval

from pretrain.errors import ConfigError
from pretrain.schema import SHARES as SHARES
from pretrain.schema import Part as Part
from pretrain.schema import Source as Source
from pretrain.schema import check as check
from pretrain.schema import configs_dir as configs_dir
from pretrain.schema import keys as keys
from pretrain.schema import (
    refuse_compile,
    refuse_evaluation,
    refuse_objective,
    refuse_parallel,
    refuse_sampling,
    refuse_uneven_batch,
    signature,
    targets_in,
)

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
TrainingPrecision = Literal["auto", "fp32", "bf16", "fp16", "fp8"]
Format = Literal["table", "json"]
Count = Annotated[int, Ge(1)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]

NEXT_TOKEN = "pretrain.data.objectives.NextToken"  # what runs learned by before there was a choice
ONE_PROCESS = "pretrain.training.parallel.single.Single"  # likewise, how they ran


@dataclass(frozen=True)
class DataSettings:
    paths: list[str]
    sources: dict[str, Source]
    validation_fraction: Annotated[float, Interval(gt=0, lt=1)]
    validation_paths: list[str]
    shard_bytes: Count | None
    stages: dict[str, Part] = dataclasses.field(default_factory=dict)  # `~data.stages` takes all of them away
    # Configs of older runs do not have these.
    max_document_bytes: Count = dataclasses.field(default_factory=lambda: 64_000_000)
    max_expansion: Annotated[float, Gt(1)] = dataclasses.field(default_factory=lambda: 200.0)
    max_replaced: Fraction = dataclasses.field(default_factory=lambda: 0.01)

    def __post_init__(self) -> None:
        """Refuse weights of which it is not clear what they mean."""
        weighted = {name: source.get("weight") is not None for name, source in self.sources.items()}
        if len(set(weighted.values())) > 1:
            without = next(name for name, has in weighted.items() if not has)
            raise ConfigError(f"data.sources.{without}.weight is not set, but other sources have one; set all or none")


@dataclass(frozen=True)
class TrainerSettings:
    max_steps: Count | None
    max_tokens: Count | None
    epochs: Annotated[float, Gt(0)] | None
    max_seconds: Annotated[float, Gt(0)] | None
    batch_tokens: Count
    micro_batch: Count | Literal["auto"] | None
    sequence_length: Count | None
    eval_every: Count
    eval_tokens: Count
    checkpoint_every: Count
    keep_checkpoints: Count
    # Configs of older runs do not have these.
    packing: Literal["stream", "documents", "contiguous"] = dataclasses.field(default_factory=lambda: "stream")
    loader_workers: Annotated[int, Ge(0)] = dataclasses.field(default_factory=lambda: 0)
    keep_every: Count | None = dataclasses.field(default_factory=lambda: None)
    double_batch_at: list[Annotated[int, Ge(1)]] = dataclasses.field(default_factory=list)
    activation_checkpointing: Literal["none", "selective", "full"] = dataclasses.field(default_factory=lambda: "none")
    compile: Literal["auto"] | bool = dataclasses.field(default_factory=lambda: "auto")


@dataclass(frozen=True)
class EvalSettings:
    stride: Count | None


@dataclass(frozen=True)
class SampleSettings:
    prompt: str
    max_tokens: Annotated[int, Ge(0)]
    # Older runs have neither.
    eval_tokens: Annotated[int, Ge(0)] = dataclasses.field(default_factory=lambda: 0)
    greedy: bool = dataclasses.field(default_factory=lambda: False)


@dataclass(frozen=True)
class DataConfig:
    data_dir: str
    seed: Seed
    format: Format
    data: DataSettings
    tokenizer: Part
    executor: Part


@dataclass(frozen=True)
class DataShowConfig:
    stage: str | None
    dropped: str | None
    rule: str | None
    source: str | None
    n: Count
    skip: Annotated[int, Ge(0)]
    sample: Annotated[int, Ge(0)]
    seed: Seed | None
    data_dir: str
    format: Format
    data: DataSettings

    def __post_init__(self) -> None:
        """Refuse to show kept and dropped documents at once."""
        if self.stage and self.dropped:
            raise ConfigError(f"stage={self.stage} shows kept documents, dropped={self.dropped} dropped ones; set one")
        if self.rule and not self.dropped and not self.sample:
            raise ConfigError(f"rule={self.rule} narrows dropped documents; add dropped=all")


@dataclass(frozen=True)
class DataCleanConfig:
    yes: bool
    data_dir: str
    runs_dir: str
    format: Format


@dataclass(frozen=True)
class TrainConfig:
    name: str | None
    runs_dir: str
    data_dir: str
    seed: Seed
    device: Device
    threads: Count | None
    precision: TrainingPrecision
    format: Format
    eval: EvalSettings
    sample: SampleSettings
    data: DataSettings
    tokenizer: Part
    model: Part
    update: Part
    optimizer: Part
    schedule: Part
    trainer: TrainerSettings
    decoding: Part
    executor: Part
    objective: Part = dataclasses.field(default_factory=lambda: Part({"_target_": NEXT_TOKEN}))
    tracker: Part = dataclasses.field(default_factory=lambda: Part({}))
    parallel: Part = dataclasses.field(default_factory=lambda: Part({"_target_": ONE_PROCESS}))
    budget: Part = dataclasses.field(default_factory=lambda: Part({}))  # chooses the settings of model=auto
    law: bool = dataclasses.field(default_factory=lambda: False)

    def __post_init__(self) -> None:
        """Refuse what no single key shows to be wrong."""
        if self.budget and self.trainer.max_seconds is None:
            raise ConfigError("model=auto chooses for a budget; set trainer.max_seconds, such as 600")
        if self.budget and self.parallel["_target_"] != ONE_PROCESS:
            raise ConfigError("model=auto measures the speed of one process; leave parallel= out")
        if not any((self.trainer.max_steps, self.trainer.max_tokens, self.trainer.epochs, self.trainer.max_seconds)):
            raise ConfigError("the run has no end; set trainer.max_steps, max_tokens, epochs or max_seconds")
        refuse_uneven_batch(self.trainer.batch_tokens, self.sequence_length, self.trainer.micro_batch)
        refuse_objective(self.objective["_target_"], self.model["_target_"], self.trainer.packing)
        refuse_parallel(self.parallel["_target_"], self.update["_target_"], self.optimizer["_target_"], self.model)
        refuse_compile(self.parallel["_target_"], self.trainer.compile)

    @property
    def sequence_length(self) -> int:
        """Tokens a row."""
        return self.trainer.sequence_length or self.model.get("context_length") or 256

    @property
    def rows(self) -> int:
        """Rows a batch."""
        return self.trainer.batch_tokens // self.sequence_length

    @property
    def micro_batch(self) -> int:
        """Rows computed at once: those that are set, or as many as divide the batch and hold 2,048 tokens at most."""
        set_rows, most = self.trainer.micro_batch, max(1, 2048 // self.sequence_length)
        if isinstance(set_rows, int):
            return set_rows
        return max(rows for rows in range(1, min(self.rows, most) + 1) if not self.rows % rows)


@dataclass(frozen=True)
class TextSettings:
    paths: list[str]
    text_field: str
    unit: Literal["file", "line", "paragraph"]


@dataclass(frozen=True)
class RunsConfig:
    runs_dir: str
    format: Format


@dataclass(frozen=True)
class EvalConfig(RunsConfig):
    run: str | list[str]
    step: int | str
    data_dir: str
    text: str | None
    data: TextSettings
    tasks: list[str]
    tasks_dir: str | None
    few_shot: Annotated[int, Ge(0)]
    task_limit: Count | None
    device: Device
    threads: Count | None
    precision: Precision
    eval: EvalSettings

    def __post_init__(self) -> None:
        refuse_evaluation(text=self.text, paths=self.data.paths, tasks=self.tasks)


@dataclass(frozen=True)
class SampleConfig(RunsConfig):
    run: str
    step: int | str
    prompt: str
    prompts: str | None
    n: Count
    max_tokens: Count
    stop: list[str]
    seed: Seed
    batch: Count
    stream: bool | None
    device: Device
    threads: Count | None
    precision: Precision
    decoding: Part

    def __post_init__(self) -> None:
        """Refuse what no single key shows to be wrong."""
        refuse_sampling(self.prompt, self.prompts, self.stop, stream=self.stream, one=self.n == 1, format=self.format)


@dataclass(frozen=True)
class ReportConfig(RunsConfig):
    run: str | list[str]
    path: str | None
    threads: Count | None


@dataclass(frozen=True)
class InspectConfig(RunsConfig):
    run: str
    step: int | str
    device: Device
    threads: Count | None
    precision: Precision
    path: str | None
    view: Part
    model: Part = dataclasses.field(default_factory=lambda: Part({}))  # it wins over the run's
    objective: Part = dataclasses.field(default_factory=lambda: Part({}))  # whose ids a model may need to have
    # What else a model's file sets is of no account here.
    update: Any = dataclasses.field(default_factory=dict)
    optimizer: Any = dataclasses.field(default_factory=dict)
    schedule: Any = dataclasses.field(default_factory=dict)
    trainer: Any = dataclasses.field(default_factory=dict)
    sample: Any = dataclasses.field(default_factory=dict)
    budget: Any = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class PlanSettings:
    ranks: Count
    memory_share: Annotated[float, Interval(gt=0, le=1)]
    disk_bytes: Count | None
    dry_run: bool


@dataclass(frozen=True)
class PlanConfig:
    threads: Count | None
    precision: TrainingPrecision
    format: Format
    plan: PlanSettings
    model: Part
    optimizer: Part
    trainer: TrainerSettings
    hardware: Part
    parallel: Part
    update: Part = dataclasses.field(default_factory=lambda: Part({}))
    objective: Part = dataclasses.field(default_factory=lambda: Part({}))
    # What else a model's file sets is of no account here.
    schedule: Any = dataclasses.field(default_factory=dict)
    sample: Any = dataclasses.field(default_factory=dict)
    budget: Any = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a batch that does not divide."""
        refuse_uneven_batch(self.trainer.batch_tokens, self.sequence_length, self.trainer.micro_batch)

    @property
    def sequence_length(self) -> int:
        """Tokens a row."""
        return self.trainer.sequence_length or self.model.get("context_length") or 256


@dataclass(frozen=True)
class ExportConfig(RunsConfig):
    run: str
    step: int | str
    to: Literal["huggingface", "arpa", "nanogpt", "megatron"]
    path: str | None


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "data": DataConfig,
    "data_show": DataShowConfig,
    "data_clean": DataCleanConfig,
    "eval": EvalConfig,
    "sample": SampleConfig,
    "inspect": InspectConfig,
    "report": ReportConfig,
    "plan": PlanConfig,
    "export": ExportConfig,
    "runs": RunsConfig,
}


def parse(settings: Mapping[str, Any], schema: type) -> Any:
    """An instance of the dataclass `schema` that holds `settings`, every one of them checked.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    check(settings, schema)
    hints = typing.get_type_hints(schema)
    nested: dict[str, Any] = {key: hint for key, hint in hints.items() if dataclasses.is_dataclass(hint)}
    return schema(**{key: parse(value, nested[key]) if key in nested else value for key, value in settings.items()})


def build(part: Part, **supplied: Any) -> Any:
    """Call the part's target with its settings, and with those of `supplied` that its signature names.

    Raises:
        ConfigError: the target is not one of ours, or refuses what it was given.
    """
    target = part["_target_"]
    parameters = signature(target)
    arguments = {name: value for name, value in supplied.items() if name in parameters}
    arguments |= {
        key: value
        for key, value in part.items()
        if key in parameters and not (value is None and parameters[key].supplied)
    }
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)(**arguments)


def annotation_of(command: str, key: str) -> Any:
    """The annotation of the setting `key` of `command`, or None where there is no such setting.

    Inside a part, every target that a file of its group names is looked at.
    """
    annotation: Any = SCHEMAS[command]
    parts = key.split(".")
    for depth, name in enumerate(parts):
        if dataclasses.is_dataclass(annotation):
            annotation = typing.get_type_hints(annotation, include_extras=True).get(name)
        elif typing.get_origin(annotation) is dict:
            annotation = typing.get_args(annotation)[1]
        elif annotation is Source and name in SHARES:
            annotation = SHARES[name]
        elif annotation in (Part, Source):
            found = [signature(target).get(name) for target in targets_in(configs_dir().joinpath(parts[0]))]
            annotation = next((parameter.annotation for parameter in found if parameter), None)
            return annotation if depth == len(parts) - 1 else None
        else:
            return None
    return annotation
