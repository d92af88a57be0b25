"""Rules for Japanese web pages, in the families of llm-jp and HojiChar, and one of our own for shuffled text.

llm-jp: https://github.com/llm-jp/llm-jp-corpus. HojiChar: https://github.com/HojiChar/HojiChar. Where they count words
in a document or look at its first characters, these rules compare shares of all of it, so that a long good document is
not dropped for its length, and a short bad one is not kept. All documents of a batch are measured together.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Interval

from pretrain.data.documents import StageOutput
from pretrain.data.filters import measures
from pretrain.data.filters.characters import HIRAGANA, KATAKANA, SYMBOL, CharacterTable
from pretrain.data.filters.keywords import Keywords, digest, word_list
from pretrain.data.filters.rules import Rule, check_bounds, judged
from pretrain.data.filters.spelling import impossible_pairs
from pretrain.data.manifests import UNICODE
from pretrain.errors import ConfigError

SHORTEST_WITH_FUNCTION_WORDS = 200  # characters: a shorter good text may have none
SHORTEST_COMPRESSED = 300  # characters: in a shorter good text little is repeated
# UTF-8 that was read as Shift-JIS: the first bytes of every kana become one of three rare Han characters.
MISREAD = "縺繧繝\ufffd"


class Japanese:
    """Drops documents that are no good Japanese prose, by the first rule that they break; null switches a rule off.

    Shares are of the characters that are not white space, unless said otherwise. The rules, in order:

    - min_characters, max_characters: characters that are not white space.
    - min_kana: share of hiragana and katakana.
    - max_symbols: share of punctuation and symbols.
    - max_mojibake: share of characters that a wrong encoding brings about, U+FFFD among them.
    - max_markup: share of all characters that are inside HTML tags.
    - max_character_run: times that one character stands in a row.
    - max_runs: share of characters in such runs of 10 or more.
    - max_sentence: characters a full stop, on average.
    - max_short_lines: share of characters in lines of at most 10.
    - max_ellipsis_lines: of the lines that are not blank, the share that ends in an ellipsis.
    - max_advertisement, max_header_footer, max_adult, max_discrimination, max_violence: share of characters inside the
      words of a list; `..._words` is a file with a word a line or the name of a list that comes with the package.
    - min_function_words: share of characters inside the words of `function_words`, in texts of 200 or more: particles
      and endings of verbs, of which Gopher asks by its list of English stop words.
    - max_impossible_pairs: of the pairs of neighbours, those that Japanese spelling does not have, in texts of 100 or
      more (spelling.impossible_pairs).
    - min_compression, max_compression: compressed bytes a byte of UTF-8 (zstd, level 1); the latter in texts of 300
      characters or more.
    - max_repetition: of all sequences of 5 characters, the share of the most frequent ones (HojiChar).
    - min_order: how many times as often two neighbours equal two others as they would in random order: about 1 in
      shuffled text, 3 and more in prose (measures.order).

    Raises:
        ConfigError: a word list is missing or empty.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = (UNICODE, "backports.zstd")

    def __init__(
        self,
        *,
        min_characters: Annotated[int, Ge(1)] | None,
        max_characters: Annotated[int, Ge(1)] | None,
        min_kana: Annotated[float, Interval(ge=0, le=1)] | None,
        max_symbols: Annotated[float, Interval(ge=0, le=1)] | None,
        max_mojibake: Annotated[float, Interval(ge=0, le=1)] | None,
        max_markup: Annotated[float, Interval(ge=0, le=1)] | None,
        max_character_run: Annotated[int, Ge(1)] | None,
        max_runs: Annotated[float, Interval(ge=0, le=1)] | None,
        max_sentence: Annotated[float, Ge(1)] | None,
        max_short_lines: Annotated[float, Interval(ge=0, le=1)] | None,
        max_ellipsis_lines: Annotated[float, Interval(ge=0, le=1)] | None,
        advertisement_words: str | None,
        max_advertisement: Annotated[float, Interval(ge=0, le=1)] | None,
        header_footer_words: str | None,
        max_header_footer: Annotated[float, Interval(ge=0, le=1)] | None,
        adult_words: str | None,
        max_adult: Annotated[float, Interval(ge=0, le=1)] | None,
        discrimination_words: str | None,
        max_discrimination: Annotated[float, Interval(ge=0, le=1)] | None,
        violence_words: str | None,
        max_violence: Annotated[float, Interval(ge=0, le=1)] | None,
        function_words: str | None,
        min_function_words: Annotated[float, Interval(ge=0, le=1)] | None,
        max_impossible_pairs: Annotated[float, Interval(ge=0, le=1)] | None,
        min_compression: Annotated[float, Interval(ge=0, le=2)] | None,
        max_compression: Annotated[float, Interval(ge=0, le=2)] | None,
        max_repetition: Annotated[float, Interval(ge=0, le=1)] | None,
        min_order: Annotated[float, Ge(0)] | None,
    ) -> None:
        check_bounds("characters", min_characters, max_characters)
        check_bounds("compression", min_compression, max_compression)
        self.characters = (min_characters, max_characters)
        self.kana = min_kana
        self.symbols = max_symbols
        self.mojibake = max_mojibake
        self.markup = max_markup
        self.character_run = max_character_run
        self.runs = max_runs
        self.sentence = max_sentence
        self.short_lines = max_short_lines
        self.ellipsis_lines = max_ellipsis_lines
        self.impossible_pairs = max_impossible_pairs
        self.compression = (min_compression, max_compression)
        self.repetition = max_repetition
        self.order = min_order
        lists = {
            "advertisement": (advertisement_words, None, max_advertisement),
            "header_footer": (header_footer_words, None, max_header_footer),
            "adult": (adult_words, None, max_adult),
            "discrimination": (discrimination_words, None, max_discrimination),
            "violence": (violence_words, None, max_violence),
            "function_words": (function_words, min_function_words, None),
        }
        words = _words_of(lists)
        self.words = {name: bounds for name, (_, *bounds) in lists.items() if name in words}
        self.keywords = Keywords(list(words.values()))
        # What stands for the settings in the key: the words, wherever their file lies.
        self.contents = {f"{name.removesuffix('_words')}_words": digest(some) for name, some in words.items()}

    def __call__(self, documents: pa.Table) -> StageOutput:
        return judged(documents, self._rules)

    def _rules(self, texts: list[str], _: list[str]) -> Iterator[Rule]:
        """The rules that are switched on, in order."""
        table = CharacterTable.of(texts)
        visible = np.maximum(table.visible, 1)
        counts = table.counts
        if self.characters != (None, None):
            visible_characters = table.visible.astype(np.float64)
            yield Rule("characters", visible_characters, *self.characters, "characters are visible", False)
        if self.kana is not None:
            kana = (counts[:, HIRAGANA] + counts[:, KATAKANA]) / visible
            yield Rule("kana", kana, self.kana, None, "of the characters are kana")
        if self.symbols is not None:
            symbols = counts[:, SYMBOL] / visible
            yield Rule("symbols", symbols, None, self.symbols, "of the characters are punctuation or symbols")
        if self.mojibake is not None:
            misread = table.per_text(table.where(*MISREAD)) / visible
            yield Rule("mojibake", misread, None, self.mojibake, "of the characters come of a wrong encoding")
        if self.markup is not None:
            tags = measures.markup_share(texts)
            yield Rule("markup", tags, None, self.markup, "of the characters are inside HTML tags")
        if self.character_run is not None:
            longest = measures.longest_run(table)
            yield Rule("character_run", longest, None, self.character_run, "times one character in a row", False)
        if self.runs is not None:
            runs = measures.run_share(table)
            yield Rule("runs", runs, None, self.runs, f"of the characters are {measures.RUN} or more times in a row")
        if self.sentence is not None:
            sentence = measures.sentence_length(table)
            yield Rule("sentence", sentence, None, self.sentence, "characters a full stop", False)
        if self.short_lines is not None:
            short = measures.short_line_share(table)
            meaning = f"of the characters are in lines of at most {measures.SHORT_LINE}"
            yield Rule("short_lines", short, None, self.short_lines, meaning)
        if self.ellipsis_lines is not None:
            ellipses = measures.ellipsis_line_share(table)
            yield Rule("ellipsis_lines", ellipses, None, self.ellipsis_lines, "of the lines end in an ellipsis")
        yield from self._word_rules(table)
        if self.impossible_pairs is not None:
            pairs = impossible_pairs(table)
            meaning = "of the pairs of neighbours are none in Japanese"
            yield Rule("impossible_pairs", pairs, None, self.impossible_pairs, meaning)
        if self.compression != (None, None):
            ratios = measures.compression(texts)
            meaning = "of the bytes are left when it is compressed"
            yield Rule("compression", ratios, self.compression[0], None, meaning)
            told = np.where(table.visible < SHORTEST_COMPRESSED, np.nan, ratios)
            yield Rule("compression", told, None, self.compression[1], meaning)
        if self.repetition is not None:
            repeated = measures.repetition(texts, table, self.repetition)
            meaning = f"of the sequences of {measures.NGRAM} characters are repetitions of a few"
            yield Rule("repetition", repeated, None, self.repetition, meaning)
        if self.order is not None:
            order = measures.order(texts)
            meaning = "times as many neighbours equal others as in random order"
            yield Rule("order", order, self.order, None, meaning, False)

    def _word_rules(self, table: CharacterTable) -> Iterator[Rule]:
        """The rules on word lists that are switched on, in order."""
        if not self.words:
            return
        covered = self.keywords.covered(table) / np.maximum(table.visible, 1)[:, None]
        for number, (name, (least, most)) in enumerate(self.words.items()):
            told = np.where((most is None) & (table.visible < SHORTEST_WITH_FUNCTION_WORDS), np.nan, covered[:, number])
            yield Rule(name, told, least, most, f"of the characters are words of the list {name}")


def _words_of(lists: dict[str, tuple[str | None, float | None, float | None]]) -> dict[str, list[str]]:
    """The words of each list, given by its file and the least and most that may be, whose rule is switched on."""
    words = {}
    for name, (file, least, most) in lists.items():
        if least is None and most is None:
            continue
        if file is None:
            rule = f"max_{name}={most}" if least is None else f"min_{name}={least}"
            setting = f"{name.removesuffix('_words')}_words"
            raise ConfigError(f"japanese: {rule} needs {setting}; name a list, or set {rule.split('=')[0]} null")
        words[name] = word_list(file)
    return words
