"""Passages that stand in many documents: menus, notices, footers, quotations.

C4 keeps one of any three sentences in a row that occur more than once (Raffel et al. 2020, section 2.2,
https://arxiv.org/abs/1910.10683), CCNet one of all paragraphs with the same normal form (Wenzek et al. 2020,
https://arxiv.org/abs/1911.00359). So here: the first document that has a passage keeps it, the others lose it. FineWeb
found that removing every line that came before takes more good text than bad (Penedo et al. 2024,
https://arxiv.org/abs/2406.17557); so how long a passage must be, and how many documents may share it, are settings.
"""

from collections import Counter, defaultdict
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from annotated_types import Ge
from numpy.typing import NDArray

from pretrain.data.dedup.shingles import folded
from pretrain.data.dedup.units import CUTS, Unit, unit_hashes
from pretrain.data.documents import DROPPED, LINK, Details, Drop, StageOutput, partition
from pretrain.data.manifests import UNICODE
from pretrain.data.words import words

PASSAGE = LINK.append(pa.field("part", pa.int64()))
_Removals = dict[str, tuple[list[str], float]]  # by survivor: units that it keeps, and documents that have them


class RepeatedPassages:
    """Removes lines, paragraphs or sentences that many documents share from all of them but the first.

    Passages are the same when their words are, in lower case: punctuation and white space do not count. A passage is
    `window` units in a row, of those that have words. What is removed is kept among the dropped, a row for each
    document and survivor. Where too little is left of a document, it is dropped whole, unless others lost a passage
    because this one has it: so every unit that is removed stays somewhere.

    Args:
        unit: what a text is cut into: lines, paragraphs (between blank lines) or sentences.
        window: units in a row that make a passage; C4 takes three sentences.
        min_bytes: the fewest UTF-8 bytes that a passage's words have; a shorter one stays. Sixty are some twelve
            English words or twenty Japanese characters.
        max_documents: documents that may share a passage; where more do, only the first keeps it.
        min_words: words that must be left in a document from which something is removed.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = (UNICODE,)
    transitive: ClassVar[bool] = False

    def __init__(
        self,
        *,
        unit: Unit,
        window: Annotated[int, Ge(1)],
        min_bytes: Annotated[int, Ge(1)],
        max_documents: Annotated[int, Ge(1)],
        min_words: Annotated[int, Ge(0)],
    ) -> None:
        self.unit: Unit = unit
        self.window = window
        self.min_bytes = min_bytes
        self.max_documents = max_documents
        self.min_words = min_words

    def sketch(self, documents: pa.Table) -> tuple[pa.Table, None]:
        """A key for each passage that is long enough, with the number of its first unit among those with words."""
        rows, hashes, sizes = self._units(documents["text"].to_pylist())
        windows = max(0, len(rows) - self.window + 1)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        long = ends[self.window :][:windows] - ends[:windows] >= self.min_bytes
        whole = rows[:windows] == rows[self.window - 1 :][:windows]
        starts = np.flatnonzero(long & whole)
        keys = folded([hashes[starts + place] for place in range(self.window)])
        parts = starts - np.searchsorted(rows, rows[starts])
        return pa.table({"row": rows[starts], "key": keys, "part": parts.astype(np.uint32)}), None

    def link(self, keys: pa.Table, details: Details) -> pa.Table:
        """The first document that has each passage, with all that have it; the value is how many they are."""
        order = np.argsort(keys["key"].to_numpy(), kind="stable")
        key, document, part = (keys[name].to_numpy()[order] for name in ("key", "document", "part"))
        leads = np.append(True, key[1:] != key[:-1])[: len(key)]
        passage = np.cumsum(leads) - 1
        new = leads | np.append(True, document[1:] != document[:-1])[: len(key)]
        count = np.bincount(passage, weights=new)[passage]
        shared = count > self.max_documents
        first = document[np.flatnonzero(leads)][passage]
        columns = [column[shared] for column in (first, document, count, part.astype(np.int64))]
        return pa.table(columns, schema=PASSAGE)

    def apply(self, documents: pa.Table, found: pa.Table) -> StageOutput:
        """Removes the passages that stay elsewhere, and drops the documents of which too little is left."""
        ids, texts = documents["id"].to_pylist(), documents["text"].to_pylist()
        passages: dict[int, list[tuple[int, str, float]]] = defaultdict(list)
        keepers = set()
        columns = (found[name].to_pylist() for name in ("row", "part", "survivor", "value"))
        for row, part, survivor, value in zip(*columns, strict=True):
            if survivor == ids[row]:
                keepers.add(row)
            else:
                passages[row].append((part, survivor, value))
        drops: list[Drop | None] = [None] * len(documents)
        removed: list[dict[str, Any]] = []
        places: list[int] = []
        counted = Counter({"documents_cut": 0, f"{self.unit}s_removed": 0, "characters_removed": 0})
        for row, some in passages.items():
            left, gone = self._cut(texts[row], some)
            count, least = len(words(left)), 1 if row in keepers else max(1, self.min_words)
            if count < least:
                drops[row] = self._drop(count, least, gone)
                continue
            texts[row] = left
            counted["documents_cut"] += 1
            for survivor, (units, shared) in gone.items():
                places.append(row)
                removed.append(self._row(documents, row, survivor, units, shared))
                counted[f"{self.unit}s_removed"] += len(units)
                counted["characters_removed"] += sum(map(len, units))
        output = partition(documents, drops)
        changed = documents.set_column(documents.schema.get_field_index("text"), "text", pa.array(texts, pa.string()))
        kept = changed.filter(pa.array([drop is None for drop in drops], pa.bool_()))
        places = [*(row for row, drop in enumerate(drops) if drop), *places]
        dropped = pa.concat_tables([output.dropped, pa.Table.from_pylist(removed, DROPPED)])
        dropped = dropped.take(pa.array(np.argsort(np.array(places, np.int64), kind="stable")))
        return StageOutput(kept, dropped, dict(counted))

    def _units(self, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
        """The units that have words: the number of the text of each, a hash, and the bytes of its words."""
        cuts = [CUTS[self.unit](text) for text in texts]
        rows = np.repeat(np.arange(len(texts)), np.array([len(units) for units in cuts], np.int64))
        hashes, sizes = unit_hashes([unit for units in cuts for unit in units])
        return rows[sizes > 0], hashes[sizes > 0], sizes[sizes > 0]

    def _cut(self, text: str, passages: list[tuple[int, str, float]]) -> tuple[str, _Removals]:
        """`text` without some passages, each given by its part, survivor and documents; and what is removed."""
        units = CUTS[self.unit](text)
        worded = [number for number, unit in enumerate(units) if words(unit)]
        survivors: dict[int, tuple[str, float]] = {}
        for part, survivor, shared in sorted(passages):
            for number in worded[part : part + self.window]:
                survivors.setdefault(number, (survivor, shared))
        gone: _Removals = {}
        for number, (survivor, shared) in sorted(survivors.items()):
            removed, most = gone.get(survivor, ([], 0.0))
            removed.append(units[number])
            gone[survivor] = (removed, max(most, shared))
        left = "".join(unit for number, unit in enumerate(units) if number not in survivors)
        return left.strip("\n").rstrip(), gone

    def _drop(self, left: int, least: int, gone: _Removals) -> Drop:
        survivor = Counter({name: sum(map(len, units)) for name, (units, _) in gone.items()}).most_common(1)[0][0]
        units = sum(len(units) for units, _ in gone.values())
        reason = f"without {_counted(units, self.unit)} that others have too, such as {survivor}, {left} words are left"
        return Drop("few_words_left", float(left), float(least), reason, survivor)

    def _row(self, documents: pa.Table, row: int, survivor: str, units: list[str], shared: float) -> dict[str, Any]:
        """A row of DROPPED for what one document loses because another one has it."""
        document = documents.slice(row, 1).select(["id", "source_id", "source"]).to_pylist()[0]
        return {
            **document,
            "text": "".join(units).strip("\n").rstrip(),
            "rule": f"duplicate_{self.unit}",
            "value": shared,
            "threshold": float(self.max_documents),
            "reason": f"{_counted(len(units), self.unit)} removed, which document {survivor} keeps for {shared:.0f}",
            "survivor": survivor,
        }


def _counted(units: int, unit: Unit) -> str:
    return f"{units:,} {unit}{'' if units == 1 else 's'}"
