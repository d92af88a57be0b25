"""What `--help` prints, read from the YAML files' own comments, without Hydra."""

from functools import cache

from pretrain import __version__
from pretrain.config import SCHEMAS
from pretrain.schema import configs_dir

WIDTH = 118


def version() -> str:
    return f"pretrain {__version__}"


def spoken(name: str) -> str:
    """A command as people type it: `data show` of data_show."""
    return name.replace("_", " ")


def overview() -> str:
    """The page of `pretrain --help`."""
    commands = "\n".join(f"  {spoken(name):<12}{_head(name)[0]}" for name in SCHEMAS)
    return f"""\
Pretraining language models, from raw text to a measured model.

usage: pretrain COMMAND [key=value ...]

commands:
{commands}

examples:
  pretrain train model=gpt2_small
  pretrain eval
  pretrain sample --decoding=top_p

A choice is group=option (model=bigram), a setting is key=value (trainer.max_steps=1k); --key=value means the same.
`pretrain COMMAND --help` lists both. -m sweeps: pretrain train -m model=bigram,mlp,gpt_nano.
--traceback shows where an error came from."""


def command(name: str) -> str:
    """The page of `pretrain NAME --help`: an example, the groups with their options, and the settings."""
    purpose, example = _head(name)
    lines = [purpose, "", f"usage: pretrain {spoken(name)} [key=value ...]", f"example: {example}"]
    chosen = _defaults(name)
    if chosen:
        lines += ["", "groups (group=option):"]
        lines += _wrapped([(group, _marked(options(group), choice)) for group, choice in chosen.items()])
    lines += ["", "settings (key=value):"]
    rows = _settings((configs_dir() / f"{name}.yaml").read_text("utf-8"), "")
    for group, choice in chosen.items():
        if group != "data/recipe" and choice != "null":
            rows += _choice(group, choice)
    return "\n".join(lines + _wrapped(_merged(rows)))


def keys(name: str) -> list[str]:
    """The settings that the command has under any choice of options, and the groups it chooses from."""
    rows = _settings((configs_dir() / f"{name}.yaml").read_text("utf-8"), "")
    chosen = list(_defaults(name))
    for group in chosen:
        for option in options(group):
            rows += _choice(group, option)
    return [*chosen, *dict.fromkeys(key for key, _ in _keyed(rows))]


def owners(name: str, key: str) -> list[str]:
    """The options, as group=option, of the command's groups that have a setting."""
    pairs = [(group, option) for group in _defaults(name) for option in options(group)]
    return [f"{group}={option}" for group, option in pairs if key in dict(_keyed(_choice(group, option)))]


@cache
def groups() -> list[str]:
    """The config groups, each a folder of YAML files."""
    root = configs_dir()
    folders = {file.parent.relative_to(root).as_posix() for file in root.rglob("*.yaml")}
    return sorted(folders - {"."})


def options(group: str) -> list[str]:
    """The options of `group`; a base that others inherit is none."""
    return sorted(file.stem for file in (configs_dir() / group).glob("*.yaml") if file.stem != "base")


def _head(name: str) -> tuple[str, str]:
    first, second = (configs_dir() / f"{name}.yaml").read_text("utf-8").splitlines()[:2]
    return first.removeprefix("# "), second.removeprefix("# example: ")


def _defaults(name: str) -> dict[str, str]:
    lines = (configs_dir() / f"{name}.yaml").read_text("utf-8").splitlines()
    pairs = [line.removeprefix("  - ").split(": ") for line in lines if line.startswith("  - ") and ": " in line]
    return {pair[0]: pair[1] for pair in pairs}


def _choice(group: str, option: str) -> list[tuple[str, str]]:
    """The settings of one option: its own, and those of the file that it inherits."""
    text = (configs_dir() / group / f"{option}.yaml").read_text("utf-8")
    inherited = [line.removeprefix("  - ") for line in text.splitlines() if line.startswith("  - ") and ":" not in line]
    rows = [row for name in inherited for row in _choice(group, name)]
    package = text.partition("\n")[0].removeprefix("# @package ") if text.startswith("# @package ") else group
    prefix = "" if package == "_global_" else package.replace("/", ".") + "."
    return rows + _settings(text, prefix)


def _keyed(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The settings' names instead of `key=value`."""
    return [(row.partition("=")[0], comment) for row, comment in rows]


def _settings(text: str, prefix: str) -> list[tuple[str, str]]:
    """`key=value` and comment of every setting in a YAML text of ours: two spaces a level, one setting a line."""
    rows: list[tuple[str, str]] = []
    path: list[str] = []
    for line in text.splitlines():
        key, colon, rest = line.strip().partition(":")
        if not colon or line.strip().startswith(("#", "-")) or key in ("_target_", "defaults"):
            continue
        path = [*path[: (len(line) - len(line.lstrip())) // 2], key.strip('"')]
        value, _, comment = rest.strip().partition(" # ")
        if value:
            rows.append((f"{prefix}{'.'.join(path)}={value}", comment))
    return rows


def _merged(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """One row a setting: the last value, for a model may bring its own, with the first comment."""
    values: dict[str, str] = {}
    comments: dict[str, str] = {}
    for row, comment in rows:
        key, _, value = row.partition("=")
        values[key] = value
        comments.setdefault(key, comment)
    return [(f"{key}={value}", comments[key]) for key, value in values.items()]


def _marked(names: list[str], chosen: str) -> str:
    return ", ".join(f"{name} (default)" if name == chosen else name for name in names)


def _wrapped(rows: list[tuple[str, str]]) -> list[str]:
    """Two columns; a second one that is too long goes on in the next line."""
    width = min(max(len(left) for left, _ in rows), 44)
    lines = []
    for left, right in rows:
        line = f"  {left:<{width}} "
        for word in right.split():
            if len(line) + len(word) + 1 > WIDTH:
                lines.append(line)
                line = " " * (width + 3)
            line += f" {word}"
        lines.append(line.rstrip())
    return lines
