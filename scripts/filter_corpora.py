"""Texts for measuring filters: all of a folder, Python's own sources, and this machine's manuals."""

import gzip
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.data.sources.reading import Limits, Record, SourceFile
from pretrain.data.sources.web import WebCrawl

MANUALS = ("/usr/share/man", "/usr/share/doc")
MANUAL_BYTES = 30_000_000  # of manuals, at most
LIMITS = Limits(document_bytes=10_000_000, expansion=1000.0, replaced=0.1)
PROSE = ("en", "dirty", "web", "eval")


def corpus(data: Path) -> Iterator[tuple[str, str]]:
    """Kind (prose, japanese, code, manual) and text of every document."""
    for folder in ("en", "dirty", "web", "eval", "ja"):
        for path in sorted((data / folder).rglob("*")):
            for text in texts(path) if path.is_file() else ():
                yield "japanese" if mostly_japanese(text) else "prose", text
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if "site-packages" not in path.parts:
            yield "code", path.read_text("utf-8", "replace")
    size = 0
    for folder in MANUALS:
        for path in sorted(Path(folder).rglob("*"))[::5]:
            if size > MANUAL_BYTES or not path.is_file() or path.is_symlink():
                continue
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            if b"\0" not in content[:1000]:
                size += len(content)
                yield "manual", content.decode("utf-8", "replace")


def texts(path: Path) -> Iterator[str]:
    """The documents of one file."""
    if ".warc" in path.name and path.suffix not in (".wat", ".bad"):
        for item in WebCrawl(paths=[], extractor="resiliparse").read(
            SourceFile(path.name, str(path), path.stat().st_size), LIMITS
        ):
            if isinstance(item, Record):
                yield item.text
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                yield text_of(json.loads(line))
    elif path.suffix == ".txt":
        yield path.read_text("utf-8")


def text_of(row: dict[str, Any]) -> str:
    """A record's text, or all that reads like one."""
    if isinstance(row.get("text"), str):
        return str(row["text"])
    return "\n".join(value for key, value in row.items() if isinstance(value, str) and key not in ("id", "gold"))


def mostly_japanese(text: str) -> bool:
    sample = text[:2000]
    return sum("\u3040" <= character <= "\u9fff" for character in sample) > 0.1 * len(sample)
