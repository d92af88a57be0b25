"""Configs and the schema that checks them."""

import ast
from pathlib import Path

import pytest

from pretrain import cli, config, help_text, schema
from pretrain.errors import ConfigError

CONFIGS = config.configs_dir()
OPTIONS = [(group, option) for group in help_text.groups() for option in help_text.options(group)]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_is_accepted(group: str, option: str) -> None:
    words = {
        "files": ["data.paths=[a]"],
        "tinyshakespeare_cpu": ["data.paths=[a]"],
        "tinyshakespeare_cpu_long": ["data.paths=[a]"],
        "auto": ["trainer.max_seconds=60"],
        "pretrained": ["tokenizer.path=a.json"],
        "span_corruption": ["model=encoder_decoder"],
        "reversal": ["model=encoder_decoder"],
    }.get(option, [])
    command = {"view": "inspect", "hardware": "plan"}.get(group, "train")
    settings = cli._composed(command, [f"{group}={option}", *words])
    assert isinstance(config.parse(settings, config.SCHEMAS[command]), config.SCHEMAS[command])


@pytest.mark.parametrize("command", config.SCHEMAS)
def test_every_command_composes_and_is_accepted(command: str) -> None:
    config.parse(cli._composed(command, []), config.SCHEMAS[command])


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_key_has_a_comment(file: Path) -> None:
    for line in file.read_text("utf-8").splitlines():
        key, _, value = line.strip().partition(":")
        is_setting = value.strip() and not line.strip().startswith(("#", "-")) and key != "_target_"
        if is_setting and file.parent.name != "model":
            assert " # " in line, f"{file.name}: {line}"


@pytest.mark.parametrize("file", sorted(schema.PACKAGE.rglob("*.py")), ids=lambda file: file.stem)
def test_no_constructor_takes_kwargs(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            assert node.args.kwarg is None


def test_a_signature_is_read_without_importing_the_module() -> None:
    parameters = schema.signature("pretrain.models.gpt.GPT")
    assert parameters["vocab_size"].supplied
    assert parameters["n_layer"].required
    assert schema.described(parameters["n_layer"].annotation) == "an integer at least 1"
    assert schema.described(parameters["dropout"].annotation) == "a number at least 0 and below 1"


def test_a_missing_setting_is_named() -> None:
    settings = cli._composed("sample", [])
    del settings["decoding"]["temperature"]
    with pytest.raises(ConfigError, match=r"decoding\.temperature is missing"):
        config.check(settings, config.SampleConfig)


def test_what_the_program_supplies_may_be_left_out_and_what_the_config_says_wins() -> None:
    part = config.Part({"_target_": "pretrain.models.mlp.MLP", "context_length": 1, "n_embd": 2, "n_hidden": 3})
    assert config.build(part, vocab_size=5, unused=1).vocab_size == 5
    assert config.build(config.Part(part | {"vocab_size": None}), vocab_size=5).vocab_size == 5
    assert config.build(config.Part(part | {"vocab_size": 7}), vocab_size=5).vocab_size == 7
