"""Decontamination: no training document holds what a model will be tested on.

A document is dropped where it shares a sequence of 13 words with an evaluation set, as for GPT-3 (Brown et al. 2020,
appendix C, https://arxiv.org/abs/2005.14165): words are compared in lower case and without punctuation. What is shorter
is looked for whole, if it has at least 8 words, the fewest that GPT-3 looked for. Departures:

- a character of a script without spaces counts as half a word, for 13 Japanese characters are some six words, and
  often a mere turn of phrase;
- of an item whose parts are too short, such as a question with its answers, any two are looked for one after the other;
- a document is dropped whole. GPT-3 cut 200 characters around the place and kept the rest.

Every sequence is told by a hash of its words. A first look, at its first few words and in a table of one byte for each
value of some of the hash's bits, leaves few places; the whole hash decides there, and at last the words themselves.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise, permutations
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from annotated_types import Ge
from numpy.typing import NDArray

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.evaluation_items import Item, content_of, evaluation_files, items_of
from pretrain.data.manifests import UNICODE
from pretrain.data.sources.reading import SourceFile
from pretrain.data.word_sequences import CHARACTER, WORD, WORDS_AT_ONCE, Words, words_of
from pretrain.data.words import joined
from pretrain.errors import ConfigError, DataError

SPARSE = 64  # bytes of the table of the first look for each sequence
MOST_PARTS = 12  # parts of an item that are looked for in pairs
SHOWN_CHARACTERS = 80  # of a shared phrase, in a reason
PUNCTUATION = re.compile(r"[^\w\s]+")
INNER = re.compile(r"\w[^\w\s]+\w")  # punctuation that parts two words, where no space does


class Decontaminate:
    """Drops documents that share n-grams with evaluation sets.

    Args:
        paths: evaluation files, folders of them, patterns or addresses: JSON (lines), Parquet, CSV, or text whose
            paragraphs are items; null: nothing is looked for.
        fields: of the records, those that hold what is looked for; null: all strings, however deep.
        ngram: words in a sequence that may not be shared.
        shortest: words that an item, or a string of it, has at least to be looked for, where it has fewer than `ngram`.
        max_ngrams: places of a document at which a shared sequence may begin.
    """

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = (UNICODE,)
    edits: ClassVar[bool] = False  # no text changes

    def __init__(
        self,
        *,
        paths: list[str] | None,
        fields: list[str] | None,
        ngram: Annotated[int, Ge(1)],
        shortest: Annotated[int, Ge(1)],
        max_ngrams: Annotated[int, Ge(0)],
    ) -> None:
        if shortest > ngram:
            raise ConfigError(f"shortest={shortest} is longer than ngram={ngram}; try shortest={ngram}")
        self.max_ngrams = max_ngrams
        self._files: tuple[SourceFile, ...] = () if paths is None else tuple(evaluation_files(paths))
        # What stands for the setting in the key: the files' contents, wherever they lie.
        self.contents: dict[str, Any] = {
            "paths": None if paths is None else [_fingerprint(file) for file in self._files]
        }
        self._settings = (None if fields is None else tuple(fields), ngram, shortest)
        if self._files:
            self._index()

    def __call__(self, documents: pa.Table) -> StageOutput:
        texts = documents["text"].to_pylist()
        drops: list[Drop | None] = [None] * len(texts)
        if self._files:
            for number, places in self._index().find(texts).items():
                drops[number] = self._judge(texts[number], places)
        return partition(documents, drops)

    def _index(self) -> "Index":
        return _index(self._files, tuple(self.contents["paths"]), *self._settings)

    def _judge(self, text: str, places: "Places") -> Drop | None:
        """Whether the words at `places` are what their hashes say, as far as it matters."""
        count = len(places.first)
        if count <= self.max_ngrams:
            return None
        index = self._index()
        found = list(islice(words_of(text), int(places.first[min(count, 2 * self.max_ngrams + 2) - 1]) + index.longest))
        confirmed = 0
        for first, entry in zip(places.first.tolist(), places.entry.tolist(), strict=True):
            item, phrase = index.phrase(entry)
            if len(found) < first + len(phrase):
                found = list(islice(words_of(text), first + index.longest))
            if found[first : first + len(phrase)] != phrase:
                count -= 1
            elif confirmed == self.max_ngrams:
                shown = joined(phrase)
                shown = shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}..."
                what = f"{count:,} sequence{'s' if count > 1 else ''} with evaluation sets"
                reason = f"shares {what}, such as {shown!r} with {item}"
                return Drop("contaminated", float(count), float(self.max_ngrams), reason)
            else:
                confirmed += 1
        return None


class Places(NamedTuple):
    """Where a document shares sequences: (M,) the first word of each, and its number in the index."""

    first: NDArray[np.int64]
    entry: NDArray[np.int64]


@dataclass(frozen=True)
class Index:
    """All sequences that may not occur.

    Attributes:
        ngram, head: their length in units, and that of the shortest one.
        longest: words in the longest one.
        heads: sorted hashes of their first `head` units.
        table: of the first look: 1 for what the first bits of a head may be.
        hashes: sorted hashes of the sequences.
        lengths: words of those that are shorter than `ngram`, each length once.
        text, start, words: of each, in the order of `hashes`: the text that it is in, the first word, their number.
        texts, names: simplified texts of the evaluation sets, and the item of each.
    """

    ngram: int
    head: int
    longest: int
    heads: NDArray[np.uint64]
    table: NDArray[np.bool_]
    hashes: NDArray[np.uint64]
    lengths: list[int]
    text: NDArray[np.int64]
    start: NDArray[np.int64]
    words: NDArray[np.int64]
    texts: list[str]
    names: list[str]

    def phrase(self, entry: int) -> tuple[str, list[str]]:
        """The item and the words of a sequence."""
        text, start = int(self.text[entry]), int(self.start[entry])
        return self.names[text], list(islice(words_of(self.texts[text]), start, start + int(self.words[entry])))

    def find(self, texts: Sequence[str]) -> dict[int, Places]:
        """Where sequences begin in some texts, by the number of the text."""
        found = Words.of(texts)
        begins = np.searchsorted(found.text, np.arange(len(texts)))
        places: dict[int, list[Places]] = defaultdict(list)
        for start in range(0, len(found.hashes), WORDS_AT_ONCE):
            block = found.part(start, start + WORDS_AT_ONCE + self.longest)
            for number, here in self._find(block, min(WORDS_AT_ONCE, len(found.hashes) - start)):
                places[number].append(here._replace(first=here.first + start - begins[number]))
        return {number: Places(*map(np.concatenate, zip(*some, strict=True))) for number, some in places.items()}

    def _find(self, block: "Words", starts: int) -> Iterator[tuple[int, Places]]:
        """Of the sequences that begin at the first `starts` words of a block, those of the index, by text."""
        ends = block.ends(np.arange(starts), self.head)
        heads = block.sequences(np.arange(len(ends)), ends)
        likely = np.flatnonzero(
            self.table[heads >> _shift(self.table)] & (block.text[ends - 1] == block.text[: len(ends)])
        )
        likely = likely[_among(self.heads, heads[likely])[1]]
        entries = np.full(len(likely), -1)
        for length in [0, *self.lengths]:  # 0: as many words as `ngram` units take
            stops = likely + length if length else block.ends(likely, self.ngram)
            whole = np.flatnonzero(stops <= len(block.hashes))
            whole = whole[block.text[stops[whole] - 1] == block.text[likely[whole]]]
            entry, known = _among(self.hashes, block.sequences(likely[whole], stops[whole]))
            entries[whole[known]] = entry[known]
        first, entries = likely[entries >= 0], entries[entries >= 0]
        numbers = block.text[first]
        for some in np.split(np.arange(len(first)), np.flatnonzero(np.diff(numbers)) + 1):
            if len(some):
                yield int(numbers[some[0]]), Places(first[some], entries[some])


@lru_cache(maxsize=2)
def _index(
    files: tuple[SourceFile, ...],
    fingerprints: tuple[str, ...],
    fields: tuple[str, ...] | None,
    ngram: int,
    shortest: int,
) -> Index:
    """The index of some files, made once a process.

    Raises:
        DataError: a file is not what it was, cannot be read, or has nothing that is long enough to be looked for.
    """
    ngram, shortest = WORD * ngram, WORD * shortest
    items: list[Item] = []
    borders = [0]
    for file, known in zip(files, fingerprints, strict=True):
        content = content_of(file)
        if _told(file, content) != known:
            raise DataError(f"the evaluation file {file.path} changed during the build; run the same command again")
        items += items_of(file, content, fields)
        borders.append(len(items))
    owner, texts, least = _searched(items, shortest)
    found = Words.of(texts)
    ends = found.ends(np.arange(len(found.hashes)), ngram)
    starts = np.flatnonzero(found.text[ends - 1] == found.text[: len(ends)])
    ends = ends[starts]
    firsts = np.searchsorted(found.text, np.arange(len(texts) + 1))
    lengths = np.diff(found.units[firsts])
    short = np.flatnonzero((lengths >= least) & (lengths > 0) & (lengths < ngram))
    starts, ends = np.concatenate([starts, firsts[short]]), np.concatenate([ends, firsts[short + 1]])
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    text = found.text[starts]
    for file, (low, high) in zip(files, pairwise(borders), strict=True):
        if not ((owner[text] >= low) & (owner[text] < high)).any():
            what = f"the fields {', '.join(fields)}" if fields else "it"
            raise DataError(
                f"nothing can be looked for of the evaluation file {file.path}: no string in {what} has "
                f"{shortest // WORD} words; name other fields, or lower shortest"
            )
    hashes = found.sequences(starts, ends)
    head = int((found.units[ends] - found.units[starts]).min())
    heads = np.sort(found.sequences(starts, found.ends(starts, head)))
    order = np.argsort(hashes, kind="stable")
    order = order[np.append(True, hashes[order][1:] != hashes[order][:-1])]
    counts = (ends - starts)[order]
    table = np.zeros(1 << min(26, max(16, (SPARSE * len(heads)).bit_length())), bool)
    table[heads >> _shift(table)] = True
    return Index(
        ngram=ngram,
        head=head,
        longest=ngram // CHARACTER,
        heads=heads,
        table=table,
        hashes=hashes[order],
        lengths=sorted(set((firsts[short + 1] - firsts[short]).tolist())),
        text=text[order],
        start=starts[order] - firsts[text[order]],
        words=counts,
        texts=texts,
        names=[items[number].name for number in owner.tolist()],
    )


def _searched(items: Sequence[Item], shortest: int) -> tuple[NDArray[np.int64], list[str], NDArray[np.int64]]:
    """What is looked for of items: their strings; and of those of one that are too short, any two together, and all.

    Each as it is, and with its punctuation removed rather than taken for space: dont, as well as don t. The latter has
    fewer words, so it may be shorter than `shortest`.

    Returns:
        (T,) the item of each text; the texts; and (T,) how many units each must have.
    """
    strings = [string for item in items for string in item.strings]
    owner = np.repeat(np.arange(len(items)), [len(item.strings) for item in items])
    lengths = Words.of(strings).lengths(len(strings))
    short: dict[int, list[int]] = defaultdict(list)
    for place in np.flatnonzero((lengths > 0) & (lengths < shortest)).tolist():
        short[int(owner[place])].append(place)
    together = [(number, tuple(places)) for number, places in short.items() if len(places) > 2]
    for number, places in short.items():
        if len(places) <= MOST_PARTS:
            pairs = permutations(places, 2)
            together += [(number, pair) for pair in pairs if lengths[list(pair)].sum() >= shortest]
    together = [(number, places) for number, places in together if lengths[list(places)].sum() >= shortest]
    texts = [*strings, *(" ".join(strings[place] for place in places) for _, places in together)]
    owners = np.concatenate([owner, np.array([number for number, _ in together], np.int64)])
    enough = np.concatenate([lengths >= shortest, np.ones(len(together), bool)])
    inner = np.array([place for place, text in enumerate(texts) if INNER.search(text)], np.int64)
    texts += [PUNCTUATION.sub("", texts[place]) for place in inner.tolist()]
    least = np.where(enough[inner], shortest // 2, shortest)
    return np.append(owners, owners[inner]), texts, np.append(np.full(len(owners), shortest), least)


def _fingerprint(file: SourceFile) -> str:
    return _told(file, content_of(file))


def _told(file: SourceFile, content: bytes) -> str:
    """A file's name, which reasons tell, and the hash of what is in it."""
    return f"{file.name} {xxhash.xxh3_128_hexdigest(content)}"


def _among(table: NDArray[np.uint64], values: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each value stands in a sorted table that is not empty, and whether it does."""
    places = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return places, table[places] == values


def _shift(table: NDArray[np.bool_]) -> np.uint64:
    """By how much a hash is shifted to the right to be a place in `table`."""
    return np.uint64(65 - len(table).bit_length())
