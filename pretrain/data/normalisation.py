"""Normalisation: one spelling for what looks the same, so that later stages and the tokenizer see it once."""

import dataclasses
import re
import unicodedata
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from annotated_types import Interval

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.manifests import UNICODE
from pretrain.errors import ConfigError

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # C0, DEL and C1, but for tab, LF and CR
LINE_ENDINGS = re.compile(r"\r\n?")
LEADING_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
FOREIGN = re.compile(r"[\x80-\u2fff\uf8ff\ufb01\ufb02\ufffd]+ ?")  # neither ASCII nor East Asian
LINE_SEPARATORS = re.compile("[\x0b\x0c\x85\u2028\u2029]")
SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# Soft hyphens, zero-width spaces, directions, byte order marks. The joiners U+200C and U+200D change what is read.
INVISIBLE = re.compile("[\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
UNUSUAL = re.compile("[" + "".join(some.pattern[1:-1] for some in (LINE_SEPARATORS, SPACES, INVISIBLE)) + "]")
REPAIRS = 8  # of one text, at most: a repair may uncover another


class Normalise:
    """Unicode normalisation, LF line endings, no control characters, no blank lines around the text.

    White space elsewhere, such as the indentation of code, stays as it is. A normalised document does not change when
    it is normalised again. A document without any visible text is dropped.

    Args:
        unicode_form: NFC composes accents and changes nothing that a reader sees; NFKC also folds full-width letters,
            ligatures and superscripts into plain ones; https://unicode.org/reports/tr15
        repair_mojibake: read again, as what it was, text that was decoded as what it is not, such as "Ã©" for "é";
            https://ftfy.readthedocs.io
        max_mojibake: the largest share of its characters that the repair may take away from a document: where it takes
            more, the document was damaged throughout, and is dropped. Null for any.
        fold_spaces: make spaces of any width a plain one, other line separators a line feed, and take away characters
            that are not seen: soft hyphens, zero-width spaces, marks of direction and of byte order.
    Raises:
        ConfigError: ftfy is not installed.
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        unicode_form: Literal["NFC", "NFKC", "none"],
        repair_mojibake: bool = False,
        max_mojibake: Annotated[float, Interval(ge=0, le=1)] | None = None,
        fold_spaces: bool = False,
    ) -> None:
        self.unicode_form: Literal["NFC", "NFKC", "none"] = unicode_form
        self.repair_mojibake = repair_mojibake
        self.max_mojibake = max_mojibake
        self.fold_spaces = fold_spaces
        self.libraries = (UNICODE, "ftfy") if repair_mojibake else (UNICODE,)
        if repair_mojibake:
            try:
                import ftfy  # noqa: F401  only to say at once that it is not there
            except ImportError:
                raise ConfigError("repair_mojibake needs pip install 'pretrain[filters]'") from None

    def __call__(self, documents: pa.Table) -> StageOutput:
        texts: list[str] = []
        drops: list[Drop | None] = []
        counters = {"control_characters": 0}
        if self.repair_mojibake:
            counters["mojibake_characters"] = 0
        for column in documents["text"]:
            text = column.as_py()
            result, controls, mojibake = self._normalised(text)
            counters["control_characters"] += controls
            if mojibake:
                counters["mojibake_characters"] += mojibake
            drop = self._judge(result, mojibake / max(1, len(text)))
            drops.append(drop)
            if drop is None:
                texts.append(result)
        output = partition(documents, drops, counters)
        index = output.kept.schema.get_field_index("text")
        return dataclasses.replace(output, kept=output.kept.set_column(index, "text", pa.array(texts, pa.string())))

    def _judge(self, text: str, mojibake: float) -> Drop | None:
        if not text:
            return Drop("empty", 0.0, 1.0, "no visible text is left")
        if self.max_mojibake is not None and mojibake > self.max_mojibake:
            limit = f"at most {100 * self.max_mojibake:g}% may"
            reason = f"the repair of mojibake took {mojibake:.2%} of the characters away; {limit}"
            return Drop("mojibake", mojibake, self.max_mojibake, reason)
        return None

    def _normalised(self, text: str) -> tuple[str, int, int]:
        """`text` in its normal form, its control characters, and by how many characters a repair made it shorter."""
        controls = mojibake = 0
        for _ in range(REPAIRS if self.repair_mojibake else 1):
            before = text
            if self.repair_mojibake:
                text = repaired(text)
                mojibake += max(0, len(before) - len(text))
            text, found = self._plain(text)
            controls += found
            if text == before:
                break
        return text, controls, mojibake

    def _plain(self, text: str) -> tuple[str, int]:
        """`text` without control characters and so on, and how many they were."""
        if self.fold_spaces and UNUSUAL.search(text):
            text = LINE_SEPARATORS.sub("\n", SPACES.sub(" ", INVISIBLE.sub("", text)))
        text, removed = _printable(text)
        # Control characters are gone by now: one between a letter and its accent would have kept the two apart.
        if self.unicode_form != "none" and not unicodedata.is_normalized(self.unicode_form, text):
            text = "\n".join(unicodedata.normalize(self.unicode_form, line) for line in text.split("\n"))
        if "\r" in text:
            text = LINE_ENDINGS.sub("\n", text)
        blank = LEADING_BLANK_LINES.match(text)
        return text[blank.end() if blank else 0 :].rstrip(), removed


def repaired(text: str) -> str:
    """`text` with the lines that are mojibake decoded anew, each by itself, as they may come from different pages."""
    if text.isascii() or not maybe_mojibake(text):
        return text
    from ftfy import fix_encoding

    return "\n".join(fix_encoding(line) if maybe_mojibake(line) else line for line in text.split("\n"))


def maybe_mojibake(text: str) -> bool:
    """Whether a line needs the closer look of ftfy, which takes its time.

    A character of several bytes, read as one of a byte each, gives several in a row that are neither ASCII nor East
    Asian, and unlike, as the first byte is never one of the others. A no-break space, the last of two, may have become
    a plain one, but in no encoding stands a sign before it. Or the text has control characters of C1.
    """
    for run in FOREIGN.finditer(text):
        found = run[0].rstrip(" ")
        if found < "\xa0" or len(set(found)) > 1 or (len(found) < len(run[0]) and found[-1].isalpha()):
            return True
    return False


def _printable(text: str) -> tuple[str, int]:
    """`text` without control characters, and how many they were."""
    return CONTROL_CHARACTERS.subn("", text) if CONTROL_CHARACTERS.search(text) else (text, 0)
