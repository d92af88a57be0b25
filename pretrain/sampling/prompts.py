"""Prompts from a file."""

from pathlib import Path
from typing import Any

import orjson

from pretrain.data.sources.reading import mended
from pretrain.errors import DataError, UsageError


def read_prompts(path: Path) -> list[str]:
    """A prompt a line: the line itself, or in a file .jsonl a JSON text, or an object with a `prompt`.

    An empty line of a text is an empty prompt: the start of a document.

    Raises:
        UsageError: there is no such file.
        DataError: a line is not JSON, or has no prompt, or there is no line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"prompts={path} cannot be read: {error.strerror}") from error
    lines = [line.removesuffix(b"\r") for line in content.removesuffix(b"\n").split(b"\n")] if content else []
    if not lines:
        raise DataError(f"prompts={path} is empty; write a prompt a line")
    if path.suffix == ".jsonl":
        return [_prompt(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    return [mended(line.decode("utf-8", "surrogateescape"))[0] for line in lines]


def _prompt(line: bytes, where: str) -> str:
    try:
        row: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    prompt = row.get("prompt") if isinstance(row, dict) else row
    if not isinstance(prompt, str):
        raise DataError(f'{where} has no prompt; write {{"prompt": "..."}}')
    return prompt
