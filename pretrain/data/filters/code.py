"""Rules for source code: those of The Stack, and those that StarCoder adds.

The Stack: Kocetkov et al. 2022, https://arxiv.org/abs/2211.15533. StarCoder: Li et al. 2023,
https://arxiv.org/abs/2305.06161, section 3. All documents of a batch are measured together.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Interval
from numpy.typing import NDArray

from pretrain.data.documents import StageOutput
from pretrain.data.filters.characters import DIGIT, SPACE, SYMBOL, CharacterTable
from pretrain.data.filters.rules import Rule, check_bounds, judged
from pretrain.data.manifests import UNICODE

Format = Literal["html", "data", "code"]

GENERATED = re.compile("auto-?generated|automatically generated|do not edit", re.IGNORECASE)
XML = "<?xml version="
XSL = ".xsl"  # programs, though XML
SUFFIXES: dict[str, Format] = {".html": "html", ".htm": "html", ".json": "data", ".yaml": "data", ".yml": "data"}
HTML = re.compile(r"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
TAG = re.compile(r"<(/?+[a-zA-Z!?][^\s<>/]*+)[^<>]*+>")  # possessive, so that the time stays linear
UNSEEN = {"script", "style"}  # elements whose text no reader sees


class Code:
    """Drops files that are no good source code, by the first rule that they break; null switches a rule off.

    The rules, in order; shares are of all characters, white space included:

    - max_line, max_mean_line: characters of the longest line, and of all lines on average.
    - min_alphanumeric, min_alphabetic: share of letters and digits, and of letters.
    - generated_lines: as many lines at the top must not say that the file is generated.
    - xml_characters: as many characters at the top must not hold "<?xml version=", unless the file ends in .xsl.
    - min_html_text, min_html_share: in HTML, characters that a reader sees, and their share.
    - min_data, max_data: characters of a JSON or YAML file.

    What a file is, is told by the end of its name, and for HTML by its beginning too.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = (UNICODE,)

    def __init__(
        self,
        *,
        max_line: Annotated[int, Ge(1)] | None,
        max_mean_line: Annotated[float, Ge(0)] | None,
        min_alphanumeric: Annotated[float, Interval(ge=0, le=1)] | None,
        min_alphabetic: Annotated[float, Interval(ge=0, le=1)] | None,
        generated_lines: Annotated[int, Ge(1)] | None,
        xml_characters: Annotated[int, Ge(1)] | None,
        min_html_text: Annotated[int, Ge(0)] | None,
        min_html_share: Annotated[float, Interval(ge=0, le=1)] | None,
        min_data: Annotated[int, Ge(0)] | None,
        max_data: Annotated[int, Ge(1)] | None,
    ) -> None:
        check_bounds("data", min_data, max_data)
        self.line = max_line
        self.mean_line = max_mean_line
        self.alphanumeric = min_alphanumeric
        self.alphabetic = min_alphabetic
        self.generated_lines = generated_lines
        self.xml_characters = xml_characters
        self.html_text = min_html_text
        self.html_share = min_html_share
        self.data = (min_data, max_data)

    def __call__(self, documents: pa.Table) -> StageOutput:
        return judged(documents, self._rules)

    def _rules(self, texts: list[str], names: list[str]) -> Iterator[Rule]:
        """The rules that are switched on, in order."""
        table = CharacterTable.of(texts)
        longest, mean = line_lengths(table)
        yield Rule("line", longest, None, self.line, "characters are in the longest line", False)
        yield Rule("mean_line", mean, None, self.mean_line, "characters are in a line on average", False)
        letters = table.counts.sum(axis=1) - table.counts[:, [SPACE, SYMBOL, DIGIT]].sum(axis=1)
        characters = np.maximum(table.counts.sum(axis=1), 1)
        both = (letters + table.counts[:, DIGIT]) / characters
        yield Rule("alphanumeric", both, self.alphanumeric, None, "of the characters are letters and digits")
        yield Rule("alphabetic", letters / characters, self.alphabetic, None, "of the characters are letters")
        if self.generated_lines is not None:
            generated = [float(says_generated(text, self.generated_lines)) for text in texts]
            yield Rule("generated", np.array(generated), None, 0, "times it says that it is generated", False)
        if self.xml_characters is not None:
            xml = [
                float(XML in text[: self.xml_characters] and not name.endswith(XSL))
                for text, name in zip(texts, names, strict=True)
            ]
            yield Rule("xml", np.array(xml), None, 0, "XML headers are at the top", False)
        formats = [format_of(text, name) for text, name in zip(texts, names, strict=True)]
        if self.html_text is not None or self.html_share is not None:
            pages = [visible_text(text) if kind == "html" else 0 for text, kind in zip(texts, formats, strict=True)]
            seen = _of(formats, "html", pages)
            yield Rule("html_text", seen, self.html_text, None, "characters of the page are seen", False)
            yield Rule("html_share", seen / characters, self.html_share, None, "of the page's characters are seen")
        size = _of(formats, "data", [len(text) for text in texts])
        yield Rule("data", size, *self.data, "characters of JSON or YAML", False)


def line_lengths(table: CharacterTable) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Characters of the longest line of each text, and of its lines on average."""
    ends = np.flatnonzero(table.points == ord("\n"))
    lengths = np.diff(ends, prepend=-1) - 1
    first = np.searchsorted(ends, table.borders[:-1])
    number = np.diff(np.append(first, len(ends)))
    longest = np.maximum.reduceat(lengths, first) if len(first) else lengths
    mean = (np.add.reduceat(lengths, first) if len(first) else lengths) / np.maximum(number, 1)
    return longest.astype(np.float64), mean


def says_generated(text: str, lines: int) -> bool:
    """Whether one of the first `lines` lines of `text` says that a program wrote it."""
    end = 0
    for _ in range(lines):
        end = text.find("\n", end) + 1
        if not end:
            return bool(GENERATED.search(text))
    return bool(GENERATED.search(text, 0, end))


def format_of(text: str, name: str) -> Format:
    """What the rules see in a file named `name`: HTML, data (JSON, YAML) or code."""
    if HTML.match(text):
        return "html"
    return SUFFIXES.get(PurePosixPath(name).suffix.lower(), "code")


def visible_text(page: str) -> int:
    """Characters of an HTML page that a reader sees, white space left out."""
    seen, end, hidden = 0, 0, ""
    for tag in TAG.finditer(page):
        name = tag[1].lower()
        if not hidden:
            seen += len("".join(page[end : tag.start()].split()))
            hidden = name if name in UNSEEN else ""
        elif name == f"/{hidden}":
            hidden = ""
        end = tag.end()
    return seen if hidden else seen + len("".join(page[end:].split()))


def _of(formats: Sequence[Format], wanted: Format, values: Sequence[int]) -> NDArray[np.float64]:
    """`values` where the format is `wanted`, else nan."""
    return np.where(np.array(formats) == wanted, np.array(values, np.float64), np.nan)
