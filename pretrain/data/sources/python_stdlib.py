"""Python's own standard library as a corpus: real text on every machine, without a download."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import ClassVar

from pretrain.data.sources.reading import Limits, Record, SourceFile, decoded

EXCLUDED = {"site-packages", "test", "tests", "idlelib"}
TOPICS = "pydoc_data/topics.py"


class PythonStandardLibrary:
    """The .py files of the running Python's standard library, tests and IDLE left out, and pydoc's topics as texts."""

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ()

    def files(self) -> list[SourceFile]:
        root = Path(sysconfig.get_path("stdlib"))
        paths = []
        for folder, inner, names in os.walk(root):
            inner[:] = [name for name in inner if name not in EXCLUDED]
            paths += [Path(folder, name) for name in names if name.endswith(".py")]
        return [SourceFile(path.relative_to(root).as_posix(), str(path), path.stat().st_size) for path in sorted(paths)]

    def read(self, file: SourceFile, limits: Limits) -> Iterator[Record]:
        if file.name == TOPICS:
            for position, (topic, text) in enumerate(sorted(topics.items())):
                yield Record(position, f"{file.name}#{topic}", text)
        else:
            text, replaced = decoded(Path(file.path).read_bytes())
            yield Record(0, file.name, text, replaced=replaced)
