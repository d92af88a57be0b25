"""Normalisation: one spelling for what looks the same, so that later stages and the tokenizer see it once."""

import dataclasses
import re
import unicodedata
from typing import ClassVar, Literal

import pyarrow as pa

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.manifests import UNICODE

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # C0, DEL and C1, but for tab, LF and CR
LINE_ENDINGS = re.compile(r"\r\n?")
LEADING_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


class Normalise:
    """Unicode normalisation, LF line endings, no control characters, no blank lines around the text.

    White space elsewhere, such as the indentation of code, stays as it is. A normalised document does not change when
    it is normalised again. A document without any visible text is dropped.

    Args:
        unicode_form: NFC composes accents and changes nothing that a reader sees; NFKC also folds full-width letters,
            ligatures and superscripts into plain ones; https://unicode.org/reports/tr15
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = (UNICODE,)

    def __init__(self, *, unicode_form: Literal["NFC", "NFKC", "none"]) -> None:
        self.unicode_form: Literal["NFC", "NFKC", "none"] = unicode_form

    def __call__(self, documents: pa.Table) -> StageOutput:
        texts, removed = [], 0
        for column in documents["text"]:
            printable, found = _printable(column.as_py())
            texts.append(self._normalised(printable))
            removed += found
        drops = [None if text else Drop("empty", 0.0, 1.0, "no visible text is left") for text in texts]
        output = partition(documents, drops, {"control_characters": removed})
        column = output.kept.schema.get_field_index("text")
        kept = output.kept.set_column(column, "text", pa.array([text for text in texts if text], pa.string()))
        return dataclasses.replace(output, kept=kept)

    def _normalised(self, text: str) -> str:
        # Control characters are gone by now: one between a letter and its accent would have kept the two apart.
        if self.unicode_form != "none" and not unicodedata.is_normalized(self.unicode_form, text):
            text = unicodedata.normalize(self.unicode_form, text)
        if "\r" in text:
            text = LINE_ENDINGS.sub("\n", text)
        blank = LEADING_BLANK_LINES.match(text)
        return text[blank.end() if blank else 0 :].rstrip()


def _printable(text: str) -> tuple[str, int]:
    """`text` without control characters, and how many they were."""
    return CONTROL_CHARACTERS.subn("", text) if CONTROL_CHARACTERS.search(text) else (text, 0)
