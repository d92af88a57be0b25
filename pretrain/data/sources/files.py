"""Local files and folders as a corpus."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pretrain.data.sources.reading import Record, SourceFile, decoded, without_surrogates
from pretrain.errors import UsageError

# One document a file; the other suffixes inside a folder are left alone, a file named by itself is always read.
TEXT_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        "txt text md rst tex html css json yaml yml toml py pyi c h cc cpp hpp rs go java js ts rb sh sql r jl"
    ).split()
)
LINES_SUFFIXES = frozenset([".jsonl", ".ndjson"])


class Files:
    """Files and folders, nested: .jsonl holds a document a line, any other file is one document.

    Args:
        paths: files and folders.
        text_field: the field of a JSON line that holds the text.
    """

    version: ClassVar[int] = 1

    def __init__(self, *, paths: list[str], text_field: str) -> None:
        self.paths = [Path(path).expanduser() for path in paths]
        self.text_field = text_field

    def files(self) -> list[SourceFile]:
        if not self.paths:
            raise UsageError("data=files reads data.paths, which is empty; try data.paths=[a_folder,a_file.jsonl]")
        return [file for root, path in enumerate(self.paths) for file in self._under(root, path)]

    def read(self, file: SourceFile) -> Iterator[Record]:
        if file.path.suffix.lower() in LINES_SUFFIXES:
            with file.path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield self._parsed(file, number, line)
        else:
            text, replaced = decoded(file.path.read_bytes())
            yield Record(file.name, text, replaced=replaced)

    def _under(self, root: int, path: Path) -> list[SourceFile]:
        """The files at `path`; the place in the list keeps names apart that two folders share."""
        prefix = f"{root}/" if len(self.paths) > 1 else ""
        if path.is_file():
            return [SourceFile(_printable(prefix + path.name), path)]
        if not path.is_dir():
            raise UsageError(f"data.paths: {path} does not exist")
        found = (
            inner
            for inner in path.rglob("*")
            if inner.suffix.lower() in TEXT_SUFFIXES | LINES_SUFFIXES and inner.is_file()
        )
        return [SourceFile(_printable(prefix + inner.relative_to(path).as_posix()), inner) for inner in sorted(found)]

    def _parsed(self, file: SourceFile, number: int, line: bytes) -> Record:
        name = f"{file.name}:{number}"
        raw, replaced = decoded(line)
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError) as error:  # RecursionError: brackets nested a thousand deep
            return Record(name, "", line=number, reason=f"not JSON: {error}")
        text: Any = row.get(self.text_field) if isinstance(row, dict) else None
        if not isinstance(text, str):
            return Record(name, "", line=number, reason=f"no text in the field {self.text_field!r}")
        text, surrogates = without_surrogates(text)
        own_id = name if row.get("id") is None else without_surrogates(str(row["id"]))[0]
        meta = {key: value for key, value in row.items() if key not in (self.text_field, "id")}
        return Record(own_id, text, json.dumps(meta), replaced + surrogates, number)


def _printable(name: str) -> str:
    """A file's name in UTF-8; bytes of it that are not become \\udcXX, so that no two names become one."""
    return name.encode("utf-8", "backslashreplace").decode()
