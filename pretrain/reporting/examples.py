"""Documents of finished stages for people to look at; only the row groups that hold them are read whole."""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pretrain.data.stages import Built

SHOWN_CHARACTERS = 300  # of a document, where it is an example
LINES = "\n\t"  # control characters that belong to texts


class _Place(NamedTuple):
    file: int
    group: int
    row: int


def examples(built: Built, each: int) -> dict[str, list[dict[str, Any]]]:
    """The first `each` documents that each rule of a stage dropped, in the order of the corpus, their texts cut."""
    counts: dict[str, Counter[str]] = {}
    for record in built.shards:
        counts.setdefault(Path(record.file).stem.partition("-")[0], Counter()).update(record.reasons)
    found: dict[str, list[dict[str, Any]]] = {rule: [] for rule in built.summary()["reasons"]}
    for path in built.dropped():
        left = {rule for rule in counts.get(path.stem, ()) if len(found[rule]) < each}
        if not left:
            continue
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                rules = file.read_row_group(group, columns=["rule"])["rule"].to_pylist()
                wanted = [row for rule in left for row in _first(rules, rule, each - len(found[rule]))]
                if wanted:
                    for row in _rows(file.read_row_group(group).take(sorted(wanted))):
                        found[row["rule"]].append(_cut(row))
                    left = {rule for rule in left if len(found[rule]) < each}
    return found


def choose(
    files: Sequence[Path], n: int, *, only: Mapping[str, str], skip: int = 0, seed: int | None = None
) -> list[dict[str, Any]]:
    """`n` rows of Parquet files, each column of `only` with its value: the first behind `skip`, or by chance.

    Args:
        seed: None for the first ones in the order of the corpus; else the chance, which leaves the order as it is.
    """
    places = _first_places(files, only, skip, n) if seed is None else _random_places(files, only, seed, skip + n)[skip:]
    rows = []
    for (file, group), here in groupby(sorted(places), key=lambda place: place[:2]):
        table = pq.ParquetFile(files[file]).read_row_group(group)
        rows += _rows(table.take([place.row for place in here]))
    return rows


def visible(text: str) -> str:
    """`text` with control characters, and those that turn the direction of writing, shown instead of obeyed."""
    return "".join(
        character if character in LINES or character.isprintable() else _shown(character) for character in text
    )


def one_line(text: str) -> str:
    """`text` as visible() shows it, each run of white space one space."""
    return visible(" ".join(text.split()))


def _shown(character: str) -> str:
    if unicodedata.category(character) in ("Zs", "Zl", "Zp"):
        return " "
    code = ord(character)
    return chr(0x2400 + code) if code < 32 else f"\\u{code:04x}"


def _first(rules: list[str], rule: str, most: int) -> list[int]:
    return [row for row, name in enumerate(rules) if name == rule][:most]


def _cut(row: dict[str, Any]) -> dict[str, Any]:
    text = row["text"]
    return {**row, "text": text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS].rstrip() + " …"}


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table; numbers that are none become None."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in rows
    ]


def _matches(files: Sequence[Path], only: Mapping[str, str]) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """File, row group, and the rows in it that match, reading only the columns of `only`."""
    for index, path in enumerate(files):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                fits = np.ones(file.metadata.row_group(group).num_rows, bool)
                if only:
                    table = file.read_row_group(group, columns=list(only))
                    for column, value in only.items():
                        fits &= pc.fill_null(pc.equal(table[column], value), False).to_numpy()
                yield index, group, np.flatnonzero(fits)


def _first_places(files: Sequence[Path], only: Mapping[str, str], skip: int, n: int) -> list[_Place]:
    places: list[_Place] = []
    for file, group, rows in _matches(files, only):
        places += [_Place(file, group, row) for row in rows[skip : skip + n - len(places)].tolist()]
        skip = max(0, skip - len(rows))
        if len(places) == n:
            break
    return places


def _random_places(files: Sequence[Path], only: Mapping[str, str], seed: int, n: int) -> list[_Place]:
    """The `n` places, or all, that draw the smallest numbers."""
    random = np.random.default_rng(seed)
    drawn: list[tuple[float, _Place]] = []
    for file, group, rows in _matches(files, only):
        numbers = random.random(len(rows))
        here = [(float(numbers[at]), _Place(file, group, int(rows[at]))) for at in np.argsort(numbers)[:n]]
        drawn = sorted([*drawn, *here])[:n]
    return [place for _, place in drawn]
