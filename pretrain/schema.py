"""What a value of a config must be: the types and bounds of an annotation, and the signature of a `_target_`.

Signatures are read from source, so that a check imports neither torch nor anything else that is slow. In a signature,
what stands before the `*` is supplied by the program where the config leaves it out or null, and what stands behind it
must be set by the config.
"""

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Union

from annotated_types import Ge, Gt, Interval, Le, Lt, MultipleOf

from pretrain.errors import ConfigError

PACKAGE = Path(__file__).parent

Part = NewType("Part", dict[str, Any])  # a mapping with `_target_`; {} where none is chosen
Source = NewType("Source", Part)  # one that may hold SHARES as well

# What every source may hold besides the settings of its target: how much of the training tokens come from it.
SHARES: dict[str, Any] = {"weight": Annotated[float, Gt(0)] | None, "max_epochs": Annotated[float, Gt(0)] | None}


def configs_dir() -> Path:
    """The folder of YAML files: inside the package when installed from a wheel, else beside it."""
    shipped = PACKAGE / "configs"
    return shipped if shipped.is_dir() else PACKAGE.parent / "configs"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a target: its annotation (Any where it is not of the types that a config knows)."""

    annotation: Any
    supplied: bool  # by the program, where the config does not
    required: bool


@cache
def signature(target: str) -> dict[str, Parameter]:
    """The parameters of the class or function `target`, read from its source without importing it.

    Raises:
        ConfigError: the target is not inside this package, which alone may be built from a config.
    """
    module, _, name = target.rpartition(".")
    source = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    if not module.startswith("pretrain.") or not source.is_file():
        raise ConfigError(f"_target_={target} is not allowed: only classes and functions of this program can be built")
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
            return _parameters(methods["__init__"].args) if "__init__" in methods else {}
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _parameters(node.args)
    names = [node.name for node in ast.parse(source.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    raise ConfigError(f"_target_={target} does not exist{suggestion(target, [f'{module}.{name}' for name in names])}")


def targets_in(folder: Path) -> Iterator[str]:
    """Every `_target_` in the YAML files of a folder and those inside it."""
    for file in sorted(folder.rglob("*.yaml")):
        for line in file.read_text("utf-8").splitlines():
            if line.strip().startswith("_target_:"):
                yield line.split(":", 1)[1].strip()


def _parameters(arguments: ast.arguments) -> dict[str, Parameter]:
    supplied = {
        argument.arg: Parameter(_evaluate(argument.annotation), supplied=True, required=False)
        for argument in arguments.args
        if argument.arg != "self"
    }
    settings = {
        argument.arg: Parameter(_evaluate(argument.annotation), supplied=False, required=default is None)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }
    return supplied | settings


class _Names(dict[str, Any]):
    """The names that an annotation may use; any other stands for a type that a config cannot hold."""

    def __missing__(self, name: str) -> Any:
        return Any


_NAMES = _Names(
    {kind.__name__: kind for kind in (int, float, str, bool, list, dict, Ge, Gt, Le, Lt, Interval, MultipleOf)}
    | {"Literal": Literal, "Annotated": Annotated}
)


def _evaluate(annotation: ast.expr | None) -> Any:
    """The type that an annotation in our own source stands for."""
    if annotation is None or any(isinstance(node, ast.Attribute) for node in ast.walk(annotation)):
        return Any
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    if not names <= _NAMES.keys():
        return Any
    return eval(compile(ast.Expression(annotation), "<annotation>", "eval"), {"__builtins__": {}}, _NAMES)


def accepts(annotation: Any, kind: type) -> bool:
    """Whether a value of `kind` fits `annotation`, bounds aside: str fits `str | None`, and list fits list[str]."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return accepts(typing.get_args(annotation)[0], kind)
    if origin in (Union, types.UnionType):
        return any(accepts(member, kind) for member in typing.get_args(annotation))
    return annotation is kind or origin is kind


def lists(annotation: Any, kind: type) -> bool:
    """Whether `annotation` is a list of `kind`, bounds aside."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(lists(member, kind) for member in arguments)
    return origin is list and accepts(arguments[0], kind)


def fits(value: Any, annotation: Any) -> bool:
    """Whether `value` is of the type and within the bounds of `annotation`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if origin is Annotated:
        return fits(value, arguments[0]) and (value is None or all(_within(value, bound) for bound in arguments[1:]))
    if origin in (Union, types.UnionType):
        return any(fits(value, member) for member in arguments)
    if origin is Literal:
        return value in arguments
    if origin in (list, dict):
        items = value.values() if isinstance(value, Mapping) else value
        return isinstance(value, origin) and all(fits(item, arguments[-1]) for item in items)
    if annotation in (int, float):
        kinds = (int,) if annotation is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return value is None if annotation in (None, types.NoneType) else isinstance(value, annotation)


_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "ge": (lambda value, bound: value >= bound, "at least"),
    "gt": (lambda value, bound: value > bound, "above"),
    "le": (lambda value, bound: value <= bound, "at most"),
    "lt": (lambda value, bound: value < bound, "below"),
}


def _within(value: Any, constraint: Any) -> bool:
    bounds = {name: getattr(constraint, name, None) for name in _BOUNDS}
    return all(bound is None or _BOUNDS[name][0](value, bound) for name, bound in bounds.items())


def refuse_non_multiple(settings: Mapping[str, Any], name: str, annotation: Any, key: str) -> None:
    """Refuse a setting of the part `key` that is not the multiple of another one that its annotation says it is.

    Raises:
        ConfigError: it is not; the message has the nearest value that is.
    """
    for constraint in getattr(annotation, "__metadata__", ()):
        if isinstance(constraint, MultipleOf):
            value, other = settings[name], settings[str(constraint.multiple_of)]
            if value % other:
                nearest = max(1, round(value / other)) * other
                raise ConfigError(
                    f"{key}.{name}={value} is not a multiple of {key}.{constraint.multiple_of}={other}; try {nearest}"
                )


def refuse_other_names(
    settings: Mapping[str, Any], allowed: Iterable[str], required: Iterable[str], prefix: str, known: list[str]
) -> None:
    """Refuse settings whose names are not `allowed`, and the lack of one that is required.

    Args:
        prefix: before the names in the message.
        known: names elsewhere in the config, of which the nearest may be what was meant.
    """
    allowed = list(allowed)
    for key in settings:
        if key not in allowed:
            names = [prefix + name for name in allowed] + known
            raise ConfigError(f"unknown setting {prefix}{key}{suggestion(prefix + key, names)}")
    missing = sorted(set(required) - settings.keys())
    if missing:
        raise ConfigError(f"the setting {prefix}{missing[0]} is missing")


def refuse_uneven_batch(batch_tokens: int, length: int, micro_batch: int | str | None) -> None:
    """Refuse a batch that is not made of whole rows of `length`, or not of whole micro-batches.

    Raises:
        ConfigError: it is not; the message has the nearest value that is.
    """
    if batch_tokens % length:
        nearest = max(1, round(batch_tokens / length)) * length
        raise ConfigError(
            f"trainer.batch_tokens={batch_tokens} is not a multiple of the sequence length {length}; try {nearest}"
        )
    rows = batch_tokens // length
    if isinstance(micro_batch, int) and rows % micro_batch:
        nearest = max(size for size in range(1, rows + 1) if not rows % size and size <= micro_batch)
        raise ConfigError(
            f"trainer.micro_batch={micro_batch} does not divide the {rows} rows of a batch; try {nearest}"
        )


def refuse_objective(objective: str, model: str, packing: str) -> None:
    """Refuse the target of an objective that a model or a packing does not go with.

    Raises:
        ConfigError: rows get a separator, of which the model's signature knows nothing, or must be in the text's order.
    """
    if "separator" not in signature(objective):
        return
    if "special_ids" not in signature(model):
        raise ConfigError(
            f"{objective} makes a source and a target of a row, which {model} cannot tell apart; "
            "try model=encoder_decoder"
        )
    if packing != "stream":
        raise ConfigError(
            f"trainer.packing={packing} needs rows in the text's order, which {objective} does not leave; "
            "try trainer.packing=stream"
        )


def refuse_sampling(
    prompt: str, prompts: str | None, stop: list[str], *, stream: bool | None, one: bool, format: str
) -> None:
    """Refuse settings of `pretrain sample` that do not go together; `one` is whether a prompt gets one text.

    Raises:
        ConfigError: there are two kinds of prompts, a stop text that stands everywhere, or no single text to stream.
    """
    if prompt and prompts:
        raise ConfigError(f"prompt={prompt} and prompts={prompts} are both set; set one")
    if not all(stop):
        raise ConfigError('stop has an empty text, which stands everywhere; try stop=["\\n\\n"]')
    if stream and (prompts or not one or format != "table"):
        raise ConfigError("stream=true shows one text as it is written; it needs n=1, format=table and no prompts=")


def refuse_parallel(parallel: str, update: str, optimizer: str, model: Mapping[str, Any]) -> None:
    """Refuse what the target of `parallel` cannot share among processes.

    Raises:
        ConfigError: an optimizer or an update that needs what is whole, or a model that is not cut in that way.
    """
    way, learning, moving, kind = (name.rpartition(".")[2] for name in (parallel, update, optimizer, model["_target_"]))
    if way == "Single":
        return
    if learning == "CountUpdate":
        raise ConfigError(f"{kind} counts, which one process does; leave parallel= out")
    if way != "DDP" and moving not in ("AdamW", "Lion"):
        raise ConfigError(
            f"{moving} needs whole parameters, but {way} gives each process a piece of them; "
            "try optimizer=adamw, or parallel=ddp"
        )
    if way == "TensorParallel" and (
        kind not in ("GPT", "Llama") or model.get("n_expert") or model.get("positions") == "alibi"
    ):
        raise ConfigError(
            f"parallel=tensor cuts gpt and llama without experts or alibi, not this {kind}; try parallel=fsdp"
        )


def refuse_compile(parallel: str, compile_: bool | str) -> None:
    """Refuse to compile what runs in pieces on several processes."""
    if compile_ is True and not parallel.endswith((".Single", ".DDP")):
        raise ConfigError("trainer.compile=true is for parallel=none and ddp; leave it out")


_KINDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false", types.NoneType: "null"}


def described(annotation: Any) -> str:
    """`annotation` in words: an integer, at least 1, or null."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = [
            f"{words} {getattr(constraint, name)}"
            for constraint in arguments[1:]
            for name, (_, words) in _BOUNDS.items()
            if getattr(constraint, name, None) is not None
        ]
        return f"{described(arguments[0])} {' and '.join(bounds)}"
    if origin in (Union, types.UnionType):
        return " or ".join(described(member) for member in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin is list:
        return f"a list, each item {described(arguments[0])}"
    return _KINDS.get(annotation, "a mapping of settings")


def shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` with the name nearest to `wrong`, by its last part where the whole is far."""
    known = [name for name in known if name != wrong]
    last = {name.rpartition(".")[2]: name for name in reversed(known)}
    near = (
        difflib.get_close_matches(wrong, known, n=1, cutoff=0.75)
        or [last[name] for name in difflib.get_close_matches(wrong.rpartition(".")[2], last, n=1, cutoff=0.7)]
        or difflib.get_close_matches(wrong, known, n=1, cutoff=0)
    )
    return f"; did you mean {near[0]}?" if near else ""


def refuse_evaluation(*, text: str | None, paths: list[str], tasks: list[str]) -> None:
    """Refuse settings of `pretrain eval` that ask for several things at once.

    Raises:
        ConfigError: they do, or the text is empty.
    """
    asked = {"text": text is not None, "data.paths": bool(paths), "tasks": bool(tasks)}
    if sum(asked.values()) > 1:
        named = " and ".join(name for name, chosen in asked.items() if chosen)
        raise ConfigError(f"{named} are measured one at a time; set one of them")
    if text == "":
        raise ConfigError("text= is empty; give it the text whose probability you want to know")


def check(settings: Mapping[str, Any], schema: type) -> None:
    """Refuse `settings` that do not fit the dataclass `schema`, with the nearest name in the message."""
    _check_fields(settings, schema, prefix="", known=list(keys(settings)))


def keys(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted key of every value in `settings`, those of inner mappings included."""
    for key, value in settings.items():
        if key == "_target_":
            continue
        yield prefix + key
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{key}.")


def _check_fields(settings: Mapping[str, Any], schema: Any, prefix: str, known: list[str]) -> None:
    hints = typing.get_type_hints(schema, include_extras=True)
    optional = {field.name for field in dataclasses.fields(schema) if field.default_factory is not dataclasses.MISSING}
    refuse_other_names(settings, hints, hints.keys() - optional, prefix, known)
    for key, value in settings.items():
        _check_value(value, hints[key], prefix + key, known)


def _check_value(value: Any, annotation: Any, key: str, known: list[str]) -> None:
    if annotation is Part:
        _check_part(value, key, known)
    elif annotation is Source and isinstance(value, Mapping):
        for name in SHARES.keys() & value.keys():
            _check_value(value[name], SHARES[name], f"{key}.{name}", known)
        _check_part({name: item for name, item in value.items() if name not in SHARES}, key, known)
    elif dataclasses.is_dataclass(annotation) and isinstance(value, Mapping):
        _check_fields(value, annotation, f"{key}.", known)
    elif typing.get_origin(annotation) is dict and isinstance(value, Mapping):
        for name, item in value.items():
            _check_value(item, typing.get_args(annotation)[1], f"{key}.{name}", known)
    elif not fits(value, annotation):
        nearest = ""
        if typing.get_origin(annotation) is Literal and isinstance(value, str):
            nearest = suggestion(value, [str(choice) for choice in typing.get_args(annotation)])
        raise ConfigError(f"{key}={shown(value)} is not {described(annotation)}{nearest}")


def _check_part(value: Any, key: str, known: list[str]) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}={shown(value)} is not a mapping of settings with a _target_")
    settings = {name: item for name, item in value.items() if name != "_target_"}
    if not value:
        return
    if not isinstance(value.get("_target_"), str):
        unknown = next(iter(settings), "")
        raise ConfigError(f"unknown setting {key}.{unknown}{suggestion(f'{key}.{unknown}', known)}")
    parameters = signature(value["_target_"])
    required = [name for name, parameter in parameters.items() if parameter.required]
    refuse_other_names(settings, parameters, required, f"{key}.", known)
    for name, item in settings.items():
        if item is not None or not parameters[name].supplied:
            _check_value(item, parameters[name].annotation, f"{key}.{name}", known)
    for name, parameter in parameters.items():
        refuse_non_multiple(settings, name, parameter.annotation, key)
