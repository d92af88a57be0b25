"""The command line: `pretrain COMMAND [key=value ...]`, from the words typed to a command that runs.

It starts in a blink: help is static, every setting is checked before a command is imported, and torch comes last.
"""

import importlib
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pretrain import config, help_text, schema
from pretrain.errors import ConfigError, Interrupted, PretrainError, UsageError

# Hydra's own flags, which pass unchanged; those of the second line may take the next word as their value.
HYDRA_FLAGS = ("--multirun", "-m", "--resolve", "--hydra-help", "--version", "--shell-completion", "-sc")
HYDRA_VALUE_FLAGS = ("--cfg", "-c", "--package", "-p", "--info", "-i")

# Hydra writes no folders, no log files and nothing on stdout: run folders are the program's own.
HYDRA_SETTINGS = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")

BARE_WORDS = {"inspect": "view"}  # the setting that a bare first word behind a command is the value of

COUNT = re.compile(r"(\d+(?:_\d+)*(?:\.\d+)?)(?:[eE]\+?(\d+)|([kKMG]))")
UNITS = {"k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (sys.argv's words by default) names, and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    show_traceback = "--traceback" in words
    try:
        return run([word for word in words if word != "--traceback"])
    except KeyboardInterrupt:
        return _failed("interrupted", 130, show_traceback)
    except PretrainError as error:
        return _failed(str(error), error.exit_code, show_traceback)
    except Exception as error:  # noqa: BLE001  the one place that turns whatever failed into one line
        if show_traceback:
            return _failed("", 1, show_traceback)
        first_line = next(iter(str(error).splitlines()), "")
        return _failed(f"{type(error).__name__}: {first_line} (--traceback shows where)", 1, show_traceback)


def run(words: list[str]) -> int:
    """Run one command line.

    Raises:
        PretrainError: anything that a user can mend, in one line.
    """
    if not words or words[0] in ("--help", "-h", "help"):
        print(help_text.overview())
        return 0
    if words[0] == "--version":
        print(help_text.version())
        return 0
    command, arguments = _command(words)
    if "--help" in arguments or "-h" in arguments:
        print(help_text.command(command))
        return 0
    flags, overrides = understood(command, arguments)
    if any(flag not in ("--multirun", "-m") for flag in flags):  # --cfg, --info and the like: Hydra answers alone
        _hydra(command, [*flags, *overrides], lambda node: None)
        return 0
    return _run(command, overrides, multirun=bool(flags))


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The command that the first word, or the first two, name, and the words behind.

    Raises:
        UsageError: there is no such command.
    """
    commands = {help_text.spoken(name): name for name in config.SCHEMAS}
    two = " ".join(words[:2])
    if two in commands:
        return commands[two], words[2:]
    bare = len(words) > 1 and words[1].isidentifier()
    if bare and any(spoken.startswith(f"{words[0]} ") for spoken in commands):
        raise UsageError(f"unknown command {two}{schema.suggestion(two, commands)}")
    if words[0] not in commands:
        raise UsageError(f"unknown command {words[0]}{schema.suggestion(words[0], commands)}")
    arguments = words[1:]
    if words[0] in BARE_WORDS and arguments and arguments[0].isidentifier():
        arguments[0] = f"{BARE_WORDS[words[0]]}={arguments[0]}"
    return words[0], arguments


def understood(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags (with their values) and the overrides among `arguments`, the latter as Hydra's grammar needs them.

    Raises:
        UsageError: a word is neither a flag nor of the form key=value.
    """
    flags, overrides = [], []
    words = iter(arguments)
    for word in words:
        if word in HYDRA_FLAGS or word.startswith(tuple(f"{flag}=" for flag in HYDRA_VALUE_FLAGS)):
            flags.append(word)
        elif word in HYDRA_VALUE_FLAGS:
            flags += [word, next(words, "")]
        elif word.startswith(("--config-dir=", "-cd=")):
            overrides.append(f"hydra.searchpath=[{_quoted(str(Path(word.partition('=')[2]).absolute()))}]")
        elif word.startswith("--") and "=" not in word:
            value = next(words, "VALUE")
            raise UsageError(f"{word} needs its value behind an equals sign: {word}={value}")
        elif "=" not in word and not word.startswith("~"):
            raise UsageError(f"{word!r} is not of the form key=value")
        else:
            overrides.append(_override(command, word))
    return flags, overrides


def _override(command: str, word: str) -> str:
    key, equals, value = word.partition("=")
    if key.startswith("--"):
        key = key[2:].replace("-", "_")
    if not equals:
        return word
    annotation = config.annotation_of(command, key.lstrip("+~"))
    return f"{key}={_value(value, annotation)}"


def _value(value: str, annotation: Any) -> str:
    """`value` as Hydra's grammar reads it unchanged: text quoted, counts such as 4M written out."""
    if schema.accepts(annotation, list) and not (schema.accepts(annotation, str) and not value.startswith("[")):
        bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        items = [item.strip() for item in re.findall(r"""\s*'[^']*'\s*|\s*"[^"]*"\s*|[^,]+""", bare)]
        written = _count if schema.lists(annotation, int) else _quoted
        return "[" + ",".join(written(item) for item in items) + "]"
    if schema.accepts(annotation, str) and not schema.accepts(annotation, int):
        return value if value == "null" and schema.accepts(annotation, type(None)) else _quoted(value)
    if schema.accepts(annotation, int):
        return ",".join(_count(part) for part in value.split(","))
    return value


def _quoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    # In Hydra's quoted strings only a backslash before a quote, or at the end, is special; `${` would interpolate.
    text = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return "'" + text.replace("${", "\\${") + "'"


def _count(text: str) -> str:
    match = COUNT.fullmatch(text.strip())
    if not match:
        return text
    number, exponent, unit = match.groups()
    count = float(number.replace("_", "")) * (10 ** int(exponent) if exponent else UNITS[unit])
    return str(int(count)) if count == int(count) else text


def _run(command: str, overrides: list[str], multirun: bool) -> int:
    params = _swept_by_experiment(command, overrides)
    multirun = multirun or bool(params)
    jobs, swept = _jobs([*params, *overrides]) if multirun else ([overrides], [])
    settings = [_composed(command, job) for job in jobs]
    module = importlib.import_module(f"pretrain.commands.{command}")
    if not multirun:
        _hydra(command, overrides, lambda node: _finish(module, settings[0], [module.run(_parsed(command, node))]))
        return 0
    by_value = {param.partition("=")[0] for param in params}  # what an experiment sweeps needs no name
    return _sweep(command, module, overrides, settings, swept, by_value)


def _sweep(
    command: str,
    module: ModuleType,
    overrides: list[str],
    settings: list[dict[str, Any]],
    swept: list[str],
    by_value: set[str],
) -> int:
    """Run every job of a sweep through Hydra's sweeper and launcher, then show all results in one table.

    Args:
        swept: keys that name a job; those of `by_value` name it by their values alone.
    """
    from hydra.core.hydra_config import HydraConfig

    results: list[Any] = []
    with tempfile.TemporaryDirectory() as nowhere:
        keeps_folders = hasattr(module, "sweep_folder")  # train's runs lie beside each other; the others leave nothing
        folder = module.sweep_folder(settings[0], overrides) if keeps_folders else Path(nowhere)

        def job(node: Any) -> None:
            own = HydraConfig.get().overrides.task
            pairs = [(item.lstrip("+~").partition("=")[0], item) for item in own]
            choices = [item.partition("=")[2] if key in by_value else item for key, item in pairs if key in swept]
            parsed = _parsed(command, node)
            results.append(module.run(parsed, sweep=(folder, choices)) if keeps_folders else module.run(parsed))
            if keeps_folders:
                module.keep_sweep(folder, results)

        try:
            where = [f"hydra.sweep.dir={_quoted(str(folder))}", "hydra.sweep.subdir=."]
            _hydra(command, ["--multirun", *where, *overrides], job)
        finally:
            if results and keeps_folders:
                module.keep_page(folder)
            if results:
                _finish(module, settings[0], results, sweep=True)
    return 0


def _finish(module: ModuleType, settings: dict[str, Any], results: list[Any], sweep: bool = False) -> None:
    if None in results:  # of the processes that train together only the first one speaks
        return
    if settings["format"] == "json":
        document = results if sweep else results[0]
        print(json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1))
    else:
        module.show(results)


def _swept_by_experiment(command: str, overrides: Sequence[str]) -> list[str]:
    """The overrides that an experiment with hydra.mode=MULTIRUN sweeps over; none where it is no sweep."""
    named = [word for word in overrides if word.startswith("experiment=") and "," not in word]
    if not named:
        return []
    searched = [word for word in overrides if word.startswith("hydra.searchpath=")]
    hydra = _composed_node(command, [*named, *searched], with_hydra=True).hydra
    if hydra.mode is None or hydra.mode.name != "MULTIRUN":
        return []
    return [f"{key}={value}" for key, value in hydra.sweeper.params.items()]


def _jobs(overrides: list[str]) -> tuple[list[list[str]], list[str]]:
    """The overrides of each job of a grid sweep, and the keys that differ between them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise _refusal(error, overrides) from error
    swept = [override.key_or_group for override in parsed if override.is_sweep_override()]
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(job) for batch in batches for job in batch], swept


def _composed(command: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The whole config of one job as plain mappings, checked.

    Raises:
        ConfigError: a key, an option or a value is wrong.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    mine = [word for word in overrides if not re.match(r"[+~]*hydra[./](?!searchpath)", word)]
    node = _composed_node(command, mine)
    try:
        settings = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _refusal(error, mine, command) from error
    assert isinstance(settings, dict)
    plain: dict[str, Any] = {str(key): value for key, value in settings.items()}
    config.parse(plain, config.SCHEMAS[command])  # the rules between keys too, before the first job of a sweep
    return plain


def _composed_node(command: str, overrides: Sequence[str], with_hydra: bool = False) -> Any:
    """What Hydra composes, with its own settings or without."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    with initialize_config_dir(str(schema.configs_dir()), version_base="1.3"):
        try:
            node = compose(command, list(overrides), return_hydra_config=with_hydra)
        except (HydraException, OmegaConfBaseException) as error:
            raise _refusal(error, overrides, command) from error
    return node


def _parsed(command: str, node: Any) -> Any:
    from omegaconf import OmegaConf

    return config.parse(OmegaConf.to_container(node, resolve=True), config.SCHEMAS[command])  # type: ignore[arg-type]  # str keys


def _refusal(error: Exception, overrides: Sequence[str], command: str = "") -> ConfigError:
    """What Hydra says of a config that it cannot compose, in one line and with the nearest name."""
    said = str(error)
    if match := re.search(r"Missing mandatory value.*full_key: (\S+)", said, re.DOTALL):
        return ConfigError(f"{match[1]} is not set; give it a value: {match[1]}=...")
    if match := re.search(r"Could not find '([^']+)'", said):
        group, _, option = match[1].rpartition("/")
        options = help_text.options(group)
        return ConfigError(f"{group}={option} is not one of {', '.join(options)}{schema.suggestion(option, options)}")
    match = re.search(r"(?:Could not override|Could not delete from config\.|Could not append.*?) '([^']+)'", said)
    if match and command:
        key = match[1].lstrip("+~").partition("=")[0].partition("@")[0]
        if owners := help_text.owners(command, key):
            return ConfigError(f"{key} is no setting of what is chosen here, but of {', '.join(owners)}")
        return ConfigError(f"unknown setting {key}{schema.suggestion(key, help_text.keys(command))}")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return ConfigError(f"{lines[0] if lines else type(error).__name__} (in {' '.join(overrides)})")


def _hydra(command: str, arguments: list[str], task: Callable[[Any], None]) -> None:
    """Run `task` under @hydra.main, with `arguments` as its command line."""
    import hydra
    from hydra.errors import HydraException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back to main() instead of ending the process
    flags = [word for word in arguments if word.startswith("-")]
    sys.argv = [sys.argv[0], *arguments, *(HYDRA_SETTINGS if not flags or "--multirun" in flags else ())]

    failures: list[Exception] = []

    def pretrain(node: Any) -> None:
        if any(isinstance(failure, Interrupted) for failure in failures):
            return
        try:
            task(node)
        except Exception as error:  # noqa: BLE001  raised again below: Hydra would print it, and a sweep goes on
            failures.append(error)

    folder = str(schema.configs_dir())
    try:
        hydra.main(version_base="1.3", config_path=folder, config_name=command)(pretrain)()
    except HydraException as error:
        raise _refusal(error, arguments) from error
    if failures:
        raise failures[0]


def _failed(message: str, code: int, show_traceback: bool) -> int:
    if show_traceback:
        traceback.print_exc()
    if message:
        print("error: " + " ".join(message.split("\n")), file=sys.stderr)
    return code
