"""Rules for English web pages that Gopher, C4 and FineWeb lack: is it English, is it text, is it an advertisement.

They measure shares of a document, so that they hold for short and for long ones alike. All documents of a batch are
measured together.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from annotated_types import Interval
from numpy.typing import NDArray

from pretrain.data.documents import StageOutput
from pretrain.data.filters import measures
from pretrain.data.filters.characters import HIRAGANA, LETTER, CharacterTable
from pretrain.data.filters.english_words import hashes_of
from pretrain.data.filters.keywords import Keywords, digest, word_list
from pretrain.data.filters.rules import Rule, judged
from pretrain.data.manifests import UNICODE
from pretrain.data.words import WordTable
from pretrain.errors import ConfigError

# The letters that follow each letter inside English words in more than one of 5,000 pairs of neighbours, counted in
# novels and encyclopaedia articles, half each. All others together make 1.1% of the pairs of English, and 22% of those
# of the same letters in random order.
FOLLOWERS = dict(
    pair.split(":")
    for pair in (
        "a:bcdefgiklmnprstuvwyz b:aeilorsuy c:acehiklorstuy d:adegilorsuy e:abcdefghiklmnopqrstuvwxy f:aefilortu "
        "g:aeghilnorsuy h:aeiortuy i:abcdefgklmnoprstuvz j:aeou k:aeins l:adefiklmostuvy m:abeimoprsuy "
        "n:acdefgiklnostuvy o:abcdefghiklmnoprstuvwy p:aehiloprstu q:u r:abcdefghiklmnoprstuvy s:acehiklmnopstuwy "
        "t:acehilorstuwy u:abcdegilmnprst v:aeio w:aehinors x:cipt y:aeimnopst z:ae"
    ).split()
)
FEWEST_PAIRS = 50  # pairs of letters of a text that tell something
# By name, for texts hold other words in angle brackets too. https://html.spec.whatwg.org/multipage/indices.html
TAGS = (
    "a abbr address article aside audio b blockquote body br button canvas center code div dd dl dt em embed fieldset "
    "figcaption figure font footer form frame h[1-6] head header hr html i iframe img input ins label legend li link "
    "main map meta nav noscript object ol optgroup option p param picture pre s script section select small source "
    "span strike strong style sub sup svg table tbody td template textarea tfoot th thead title tr tt u ul video"
)
MARKUP = re.compile(
    rf"<!--[^<]*?-->|<[!?][a-z][^<>]*>|<!\[cdata\[|\]\]>|</[a-z][^<>\s]*>|"
    rf"<(?:{TAGS.replace(' ', '|')})(?:\s[^<>]*)?/?>|&(?:[a-z]{{2,8}}|#[0-9]{{1,7}});",
    re.IGNORECASE,
)


class English:
    """Drops documents that are no good English prose, by the first rule that they break; null switches a rule off.

    The rules, in order:

    - min_letters: of the characters that are not white space, those that are letters of any script.
    - max_runs: of those characters, those in runs of 10 or more of the same.
    - max_markup: of all characters, those in HTML tags and character references.
    - max_ellipsis_lines: of the lines, those that end in an ellipsis.
    - max_separators: of the words, as white space parts them, those that are a sign such as "|" inside a line, as
      between the items of a menu.
    - min_function_words: of the words, those in `function_words`, such as "the" and "of".
    - max_rare_pairs: of the pairs of neighbouring letters a to z, those that are rare in English; not looked at in
      texts of less than 50 such pairs.
    - max_advertisement: of the characters that are not white space, those in a phrase of `advertisement_words`.

    Args:
        function_words: a file with a word a line, or the name of a list that comes with the package.
        advertisement_words: likewise, of words or phrases.
    Raises:
        ConfigError: a word list is missing or empty.
    """

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = (UNICODE,)

    def __init__(
        self,
        *,
        min_letters: Annotated[float, Interval(ge=0, le=1)] | None,
        max_runs: Annotated[float, Interval(ge=0, le=1)] | None,
        max_markup: Annotated[float, Interval(ge=0, le=1)] | None,
        max_ellipsis_lines: Annotated[float, Interval(ge=0, le=1)] | None,
        max_separators: Annotated[float, Interval(ge=0, le=1)] | None,
        function_words: str | None,
        min_function_words: Annotated[float, Interval(ge=0, le=1)] | None,
        max_rare_pairs: Annotated[float, Interval(ge=0, le=1)] | None,
        advertisement_words: str | None,
        max_advertisement: Annotated[float, Interval(ge=0, le=1)] | None,
    ) -> None:
        self.letters = min_letters
        self.runs = max_runs
        self.markup = max_markup
        self.ellipsis_lines = max_ellipsis_lines
        self.separators = max_separators
        self.function_words = min_function_words
        self.rare_pairs = max_rare_pairs
        self.advertisement = max_advertisement
        for name, file, rule, threshold in (
            ("function_words", function_words, "min_function_words", min_function_words),
            ("advertisement_words", advertisement_words, "max_advertisement", max_advertisement),
        ):
            if file is None and threshold is not None:
                raise ConfigError(f"english: {rule}={threshold} needs {name}; name a list, or set {rule} null")
        function = word_list(function_words) if function_words else []
        advertisement = word_list(advertisement_words) if advertisement_words else []
        self.function_hashes = np.sort(hashes_of(function))
        self.advertisements = Keywords([advertisement])
        # What stands for the settings in the key: the words, wherever their file lies.
        self.contents = {"function_words": digest(function), "advertisement_words": digest(advertisement)}

    def __call__(self, documents: pa.Table) -> StageOutput:
        return judged(documents, self._rules)

    def _rules(self, texts: list[str], _: list[str]) -> Iterator[Rule]:
        """The rules that are switched on, in order."""
        table = CharacterTable.of(texts)
        lower = [text.lower() for text in texts]
        if self.letters is not None:
            letters = table.counts[:, HIRAGANA : LETTER + 1].sum(axis=1) / np.maximum(table.visible, 1)
            yield Rule("letters", letters, self.letters, None, "of the characters are letters")
        if self.runs is not None:
            runs = measures.run_share(table)
            yield Rule("runs", runs, None, self.runs, "of the characters are ten or more times in a row")
        if self.markup is not None:
            markup = measures.markup_share(texts, MARKUP)
            yield Rule("markup", markup, None, self.markup, "of the characters are in HTML tags")
        if self.ellipsis_lines is not None:
            ellipses = measures.ellipsis_line_share(table)
            yield Rule("ellipsis_lines", ellipses, None, self.ellipsis_lines, "of the lines end in an ellipsis")
        if self.separators is not None:
            separators = measures.separator_share(table)
            yield Rule("separators", separators, None, self.separators, "of the words are separators")
        if self.function_words is not None:
            share = function_word_share(lower, self.function_hashes)
            yield Rule("function_words", share, self.function_words, None, "of the words are function words")
        if self.rare_pairs is not None:
            pairs = rare_pair_share(lower)
            yield Rule("rare_pairs", pairs, None, self.rare_pairs, "of the pairs of letters are rare in English")
        if self.advertisement is not None:
            covered = CharacterTable.of(lower)
            share = self.advertisements.covered(covered)[:, 0] / np.maximum(covered.visible, 1)
            meaning = "of the characters are in phrases of advertisements"
            yield Rule("advertisement", share, None, self.advertisement, meaning)


def function_word_share(texts: Sequence[str], hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Of the words of each text, the share of those with the given hashes (sorted)."""
    table = WordTable.of(texts)
    place = np.minimum(np.searchsorted(hashes, table.hashes), max(len(hashes) - 1, 0))
    found = hashes[place] == table.hashes if len(hashes) else np.zeros(len(table.hashes), bool)
    number = np.bincount(table.text, minlength=len(texts))
    share: NDArray[np.float64] = np.bincount(table.text, found, len(texts)) / np.maximum(number, 1)
    return share


def rare_pair_share(texts: Sequence[str]) -> NDArray[np.float64]:
    """Of the pairs of neighbouring small letters a to z of each text, the share of rare ones; nan where few are."""
    table = CharacterTable.of(texts)
    letters = table.points - np.uint32(ord("a"))  # others become large numbers
    pairs = np.flatnonzero((letters[1:] < 26) & (letters[:-1] < 26))
    rare = _rare_pairs()[letters[pairs], letters[pairs + 1]]
    owner = table.owner[pairs]
    number = np.bincount(owner, minlength=len(texts))
    share = np.bincount(owner, rare, len(texts)) / np.maximum(number, 1)
    return np.where(number >= FEWEST_PAIRS, share, np.nan)


@lru_cache(maxsize=1)
def _rare_pairs() -> NDArray[np.bool_]:
    """(26, 26) whether the second letter is rare behind the first."""
    rare = np.ones((26, 26), bool)
    for first, followers in FOLLOWERS.items():
        rare[ord(first) - ord("a"), [ord(letter) - ord("a") for letter in followers]] = False
    return rare
