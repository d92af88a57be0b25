"""Splitting English text into words and punctuation marks as spaCy does, by arrays or by spaCy itself.

Filters that count words agree with others' only if they count the same words. datatrove, with which FineWeb was made,
counts spaCy's: "don't" is two, a comma is one, and a line of Japanese between two marks is one. spaCy is slow, so there
are three ways to split:

- letters: runs of letters and digits (`words.py`), in scripts without spaces some characters; punctuation is no word.
- fast: spaCy's rules as operations on arrays of code points. White space parts; brackets, quotes and other marks come
  off at both ends; hyphens, commas and a few more part letters; "n't", "'s" and the like come off; abbreviations keep
  their full stop. spaCy's exceptions for web addresses, smileys and informal spellings are left out.
- spacy: spaCy's own tokenizer for English, https://spacy.io/api/tokenizer
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.data.manifests import UNICODE
from pretrain.data.words import WordTable, grouped_characters
from pretrain.errors import ConfigError
from pretrain.tokenizers.spans import code_points, short_span_hashes

if TYPE_CHECKING:
    from spacy.language import Language

WordRule = Literal["letters", "fast", "spacy"]

GROUP = 400_000  # characters of short texts whose arrays exist at the same time: they stay in the processor's cache
MARGIN = 12  # characters that are looked at before and behind one, at most
LIMIT = 0x40000  # code points from here on are neither letters, punctuation nor white space

SPACE, ALPHA, UPPER, DIGIT, PREFIX, SUFFIX, INFIX, BEFORE_STOP, MARK = (1 << bit for bit in range(9))

# spaCy 3.8's classes, spacy/lang/char_classes.py and spacy/lang/punctuation.py
_BRACKETS = ",:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
_ICONS = re.compile(
    "[¦©®°\u2100-\u214f\u2195-\u21f3\u2300-\u2426\u2440-\u244a\u249c-\u24e9\u2500-\u266e\u2670-\u2767"
    "\u2794-\u27bf\u2800-\u28ff\u2b00-\u2bff\u2e80-\u2fff\ufffc\ufffd\U0001f000-\U0001faff]"
)
_ABBREVIATIONS = tuple(
    "Adm Ak Ala Apr Ariz Ark Aug Bros Calif Co Colo Conn Corp Dec Del Dr Feb Fla Ga Gen Gov Ia Id Ill Inc Ind Jan Jr "
    "Jul Jun Kan Kans Ky La Ltd Mar Mass Md Messrs Mich Minn Miss Mo Mont Mr Mrs Ms Mt Neb Nebr Nev Nov Oct Okla Ore "
    "Pa Prof Rep Rev Sen Sep Sept St Tenn Va Wash Wis co vs".split()
)
_UNITS = tuple(
    "km m dm cm mm ha nm yd in ft kg g mg t lb oz kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K am pm".split()
)
_AFTER_APOSTROPHE = ("s", "S", "m", "d", "re", "ve", "ll")


def check_words(words: str) -> None:
    """Raises ConfigError where words=spacy, and spaCy is not there."""
    if words == "spacy":
        spacy_english()


def libraries_of(words: str) -> tuple[str, ...]:
    """The libraries on whose versions the words depend."""
    return (UNICODE, "spacy") if words == "spacy" else (UNICODE,)


def groups(texts: Sequence[str], size: int = GROUP) -> Iterator[range]:
    """Ranges of neighbouring texts that have about `size` characters together, or are one long text."""
    start = total = 0
    for place, text in enumerate(texts):
        if total and total + len(text) > size:
            yield range(start, place)
            start, total = place, 0
        total += len(text) + 1
    if start < len(texts):
        yield range(start, len(texts))


def word_table(texts: Sequence[str], words: WordRule) -> WordTable:
    """The words of a batch of texts."""
    if words == "letters":
        return grouped_characters(WordTable.of(texts))
    if words == "spacy":
        texts = [spacy_text(text) for text in texts]
    points, borders = code_points(texts, behind="\n")
    starts, ends = _spacy_spans(texts, borders) if words == "spacy" else fast_spans(points)
    return WordTable.of_spans(points, borders, starts, ends)


def fast_spans(points: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the words in an array of code points begin and end."""
    space = np.full(MARGIN, ord(" "), np.uint32)  # at both ends, so that all that is looked at has neighbours
    points = np.concatenate([space, points, space])
    flags = character_flags()[np.minimum(points, LIMIT)]
    edge = np.ones(len(points) + 1, bool)  # whether one word or space ends and another begins before this place
    np.not_equal(flags[1:] & SPACE, flags[:-1] & SPACE, out=edge[1:-1])
    marks = np.flatnonzero(flags & MARK)  # all that may part a word
    if len(marks):
        _part(points, flags, marks, edge)
    filled = np.append((flags & SPACE) == 0, False)
    starts = np.flatnonzero(edge & filled)
    inside = _parted_words(points, flags, starts)
    if len(inside):
        edge[inside] = True
        starts = np.flatnonzero(edge & filled)
    filled[1:] = filled[:-1]
    filled[0] = False
    return starts - MARGIN, np.flatnonzero(edge & filled) - MARGIN


def _parted_words(
    points: NDArray[np.uint32], flags: NDArray[np.uint16], starts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where words are parted that have no mark inside: before the unit of "10km", and in "cannot"."""
    number = starts[flags[starts] & DIGIT > 0]
    for step in range(1, 12):  # past the digits, points and commas
        number = number + ((flags[number] & DIGIT > 0) | (points[number] == ord(".")) | (points[number] == ord(",")))
        if step == 1:
            number = number[flags[number] & SPACE == 0]
    number = number[(flags[number] & ALPHA > 0) & (flags[number - 1] & DIGIT > 0)]
    units = number[_spells(points, flags, number, _keys_of(_UNITS))]
    first = starts[(points[starts] == ord("c")) | (points[starts] == ord("C"))]
    first = first[points[first + 3] == ord("n")]
    return np.concatenate([units, first[_spells(points, flags, first, _keys_of(("cannot", "Cannot")))] + 3])


def _spells(
    points: NDArray[np.uint32], flags: NDArray[np.uint16], starts: NDArray[np.int64], keys: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Whether the letters from each place on are one of some words."""
    lengths = np.zeros(len(starts), np.int64)
    for step in range(8):
        lengths += (lengths == step) & (flags[starts + step] & (ALPHA | DIGIT) > 0)
    return np.isin(_packed(points, starts, lengths), keys)


def _part(
    points: NDArray[np.uint32], flags: NDArray[np.uint16], marks: NDArray[np.int64], edge: NDArray[np.bool_]
) -> None:
    """Note in `edge` where the punctuation at `marks` parts words."""
    mark, before, after = points[marks], flags[marks - 1], flags[marks + 1]
    dot = mark == ord(".")
    neighbours = np.diff(marks) == 1
    twice = dot[1:] & dot[:-1] & neighbours  # this mark and the next one are both dots, side by side
    run = np.append(twice, False) | np.insert(twice, 0, False)
    stop = dot & ~run
    ends_word = stop & ((before & BEFORE_STOP > 0) | (before & UPPER > 0) & (flags[marks - 2] & UPPER > 0))
    ends_word[ends_word] = ~_abbreviated(points, flags, marks[ends_word])
    percent = (before & DIGIT > 0) & ((mark == ord("%")) | np.isin(mark, _points(_CURRENCY)))

    peeled = run | (flags[marks] & PREFIX > 0)
    outer = _leading(marks, peeled, (before & SPACE) > 0)
    peeled = run | ends_word | percent | (flags[marks] & SUFFIX > 0)
    outer |= _leading(marks[::-1], peeled[::-1], (after & SPACE)[::-1] > 0)[::-1]

    letter, other = before & ALPHA > 0, after & ALPHA > 0
    digit = before & DIGIT > 0
    inner = run | (flags[marks] & INFIX > 0)
    inner |= (letter | digit) & other & np.isin(mark, _points("-–—~:<>=/"))
    inner |= letter & other & (mark == ord(","))
    inner |= digit & (after & DIGIT > 0) & np.isin(mark, _points("+-*^"))
    inner |= stop & letter & (before & UPPER == 0) & (after & UPPER > 0)
    dashes = np.flatnonzero((mark[:-1] == ord("-")) & (mark[1:] == ord("-")) & neighbours)
    dashes = dashes[letter[dashes] & other[dashes + 1]]  # a dash written as two hyphens

    cut = outer | inner
    single = marks[cut & ~run]
    edge[single] = edge[single + 1] = True
    edge[marks[dashes]] = edge[marks[dashes] + 2] = True
    runs = marks[cut & run]
    edge[runs[points[runs - 1] != ord(".")]] = True
    edge[runs[points[runs + 1] != ord(".")] + 1] = True
    _contractions(points, flags, marks[(mark == ord("'")) | (mark == ord("’"))], edge)


def _leading(marks: NDArray[np.int64], peeled: NDArray[np.bool_], at_border: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which marks come off the end of a word: those with nothing but others that do between them and the border."""
    beside = np.append(False, np.abs(np.diff(marks)) == 1)
    chained = np.zeros(len(marks), bool)
    chained[1:] = beside[1:] & peeled[:-1] & peeled[1:] & ~at_border[1:]
    head = ~chained
    first = np.maximum.accumulate(np.where(head, np.arange(len(marks)), 0))
    result: NDArray[np.bool_] = peeled & (at_border & peeled)[first]
    return result


def _abbreviated(points: NDArray[np.uint32], flags: NDArray[np.uint16], stops: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which full stops belong to a single small letter or to an abbreviation."""
    length = np.zeros(len(stops), np.int64)  # letters before the full stop, up to 7
    for step in range(1, 8):
        length += (length == step - 1) & (flags[stops - step] & ALPHA > 0)
    inside = flags[stops - length - 1] & (SPACE | PREFIX) > 0
    single = (length == 1) & (points[stops - 1] <= ord("z")) & (points[stops - 1] >= ord("a"))
    acronym = (length == 1) & (points[stops - 2] == ord("."))  # a.m.
    candidates = np.flatnonzero((length >= 2) & (length <= 6) & (flags[stops - length - 1] & DIGIT == 0))
    names = np.zeros(len(stops), bool)
    if len(candidates):
        keys = _packed(points, stops[candidates] - length[candidates], length[candidates])
        names[candidates] = np.isin(keys, _keys_of(_ABBREVIATIONS))
    kept: NDArray[np.bool_] = (single & inside) | acronym | names
    return kept


def _packed(points: NDArray[np.uint32], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Spans of up to 8 characters as one number each, different for different ASCII spans."""
    keys = np.zeros(len(starts), np.uint64)
    for step in range(8):
        inside = lengths > step
        following = points[np.minimum(starts + step, len(points) - 1)].astype(np.uint64)
        keys = np.where(inside, keys * np.uint64(257) + following, keys)
    return keys


@lru_cache(maxsize=4)
def _keys_of(words: tuple[str, ...]) -> NDArray[np.uint64]:
    points, borders = code_points(words, behind="\n")
    return _packed(points, borders[:-1], np.diff(borders) - 1)


def _contractions(
    points: NDArray[np.uint32], flags: NDArray[np.uint16], quotes: NDArray[np.int64], edge: NDArray[np.bool_]
) -> None:
    """Part "n't", "'s", "'ll" and the like from the word before them."""
    quotes = quotes[(flags[quotes - 1] & (ALPHA | DIGIT) > 0) & (flags[quotes + 1] & ALPHA > 0)]
    one, two = points[quotes + 1], points[quotes + 2]
    ends_two, ends_three = (flags[quotes + step] & (ALPHA | DIGIT) == 0 for step in (2, 3))
    for ending in _AFTER_APOSTROPHE:
        found = one == ord(ending[0])
        found &= ends_two if len(ending) == 1 else (two == ord(ending[1])) & ends_three
        edge[quotes[found]] = True
    negated = quotes[(one == ord("t")) & ends_two & (points[quotes - 1] == ord("n"))]
    edge[negated - 1] = True


@lru_cache(maxsize=16)
def _points(characters: str) -> NDArray[np.uint32]:
    return np.array([ord(character) for character in characters], np.uint32)


@lru_cache(maxsize=1)
def character_flags() -> NDArray[np.uint16]:
    """(LIMIT + 1,) what each code point is, as a sum of flags."""
    characters = list(map(chr, range(LIMIT)))
    table = np.zeros(LIMIT + 1, np.uint16)
    for flag, test in ((SPACE, str.isspace), (ALPHA, str.isalpha), (UPPER, str.isupper)):
        table[:-1] |= np.frombuffer(bytes(map(test, characters)), np.uint8).astype(np.uint16) * np.uint16(flag)
    lower = (table & ALPHA > 0) & (table & UPPER == 0)
    table[lower] |= BEFORE_STOP
    icons = [ord(found.group()) for found in _ICONS.finditer("".join(characters))]
    flags: list[tuple[int, Sequence[int]]] = [
        (DIGIT | BEFORE_STOP, range(ord("0"), ord("9") + 1)),
        (PREFIX | SUFFIX, [*map(ord, _BRACKETS + _QUOTES + "…–—"), *icons]),
        (PREFIX, [*map(ord, _CURRENCY + "§%=+")]),
        (INFIX, [ord("…"), *icons]),
        (BEFORE_STOP, [*map(ord, _BRACKETS + _QUOTES + "…%²-+")]),
    ]
    for flag, points in flags:
        table[np.array([point for point in points if point < LIMIT])] |= flag
    marks = (table & (PREFIX | SUFFIX | INFIX)) > 0
    marks[_points(".-~/^")] = True
    table[marks] |= MARK
    return table


@lru_cache(maxsize=1)
def spacy_english() -> "Language":
    """spaCy's rules for English, without any model.

    Raises:
        ConfigError: spaCy is not installed.
    """
    try:
        import spacy
    except ImportError:
        raise ConfigError("words=spacy needs spaCy; pip install spacy, or set words=fast") from None
    english = spacy.blank("en")
    english.add_pipe("sentencizer")
    return english


def _spacy_spans(texts: Sequence[str], borders: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    english = spacy_english()
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    with english.memory_zone():
        for text, border in zip(texts, borders.tolist(), strict=False):
            found = english.tokenizer(text).to_array(["LENGTH", "SPACY", "IS_SPACE"]).astype(np.int64)
            behind = np.cumsum(found[:, 0] + found[:, 1])
            real = found[:, 2] == 0
            first = (behind - found[:, 0] - found[:, 1])[real] + border
            starts.append(first)
            ends.append(first + found[real, 0])
    return np.concatenate(starts), np.concatenate(ends)


def spacy_text(text: str) -> str:
    """`text`, without a word on which spaCy may fail, and which datatrove then leaves out too."""
    if "IS_ALPHA" in text:
        try:
            with spacy_english().memory_zone():
                spacy_english().tokenizer(text)
        except Exception:  # noqa: BLE001  # whatever it says, there is only one thing to try
            return text.replace("IS_ALPHA", "")
    return text


def hashes_of(words: Sequence[str]) -> NDArray[np.uint64]:
    """The hashes that the words of a table have."""
    points, borders = code_points(list(words), behind="\n")
    return short_span_hashes(points, borders[:-1], borders[1:] - 1)
