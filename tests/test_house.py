"""The house keeps its order: what may import what, and where things lie."""

import re
import shlex
from pathlib import Path

import pytest

from pretrain import cli, config, help_text

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
COURSE = [page.read_text("utf-8") for page in (ROOT / "docs" / "course").rglob("*.md")]
LINES = re.findall(r"^pretrain .*$", "\n".join([README, *sorted(COURSE)]), re.MULTILINE)
COMMANDS = [line for line in dict.fromkeys(LINES) if "COMMAND" not in line]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_and_the_course_is_accepted(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = shlex.split(line, comments=True)[1:]
    command, words = cli._command(typed)
    if words == ["--help"]:
        assert cli.main(typed) == 0
        return
    flags, overrides = cli.understood(command, words)
    params = cli._swept_by_experiment(command, overrides)
    jobs, _ = cli._jobs([*params, *overrides]) if flags or params else ([overrides], [])
    for job in jobs:
        config.parse(cli._composed(command, job), config.SCHEMAS[command])


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) >= 90


def test_the_readme_lists_every_group_and_option() -> None:
    table = {
        match[1]: set(re.findall(r"`([\w.]+)`", match[2]))
        for match in re.finditer(r"^\| `([\w/]+)` \| (.*?) \|", README, re.M)
    }
    assert table == {group: set(help_text.options(group)) for group in help_text.groups()}


@pytest.mark.parametrize("file", sorted((ROOT / "pretrain").rglob("*.py")), ids=lambda file: file.stem)
def test_no_file_is_longer_than_400_lines_and_each_says_what_it_is(file: Path) -> None:
    text = file.read_text("utf-8")
    most = 300 if file.parent.name == "models" or file.name == "loop.py" else 400
    assert len(text.splitlines()) <= most
    assert text.startswith('"""')


def test_every_recipe_and_file_that_contributing_names_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "CONTRIBUTING.md").read_text("utf-8")):
        assert (ROOT / target).exists(), target
