"""What all views have in common: what they look at, and what they make of it.

A view is a class in a file of its own, which configs/view names. Beside it stand `tables(document)`, for people, and,
where there is something to see, `pictures(document)`, file name to picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from rich.text import Text
from torch import nn

from pretrain.data.shards import TokenStream
from pretrain.errors import ConfigError
from pretrain.models.language_model import LanguageModel
from pretrain.tokenizers.tokenizer import Tokenizer

VISIBLE = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "␣"})


@dataclass(frozen=True)
class Subject:
    """A trained run with its tokens.

    Attributes:
        sequence_length: tokens of a row in training.
        in_order: whether the model learned to read a text from left to right, each token from those before it.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    training: TokenStream
    validation: TokenStream
    sequence_length: int = 256
    in_order: bool = True

    def text_of(self, token: int) -> str:
        """A token as text; the end of text has a name."""
        return "<end of text>" if token == self.tokenizer.end_of_text else self.tokenizer.decode([token])

    def label(self, token: int) -> str:
        """A token as a label: its white space as signs."""
        return self.text_of(token) if token == self.tokenizer.end_of_text else visible(self.text_of(token))

    def beginning(self, text: str, most: int) -> list[int]:
        """The first ids, at most `most`, of `text` as a document: the end of text, then its tokens.

        An empty text stands for the first validation document.

        Raises:
            ConfigError: there is no text at all, or the model does not read it from left to right.
        """
        if not self.in_order:
            raise ConfigError(
                "this run learned to write a target for a source, and this view reads a text as it stands"
            )
        ids = self.tokenizer.encode(text) or next((ids.tolist() for ids in self.validation.documents() if len(ids)), [])
        if not ids:
            raise ConfigError('there is no validation text to look at; give one: view.text="..."')
        return [self.tokenizer.end_of_text, *ids][:most]


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and rows of as many texts, plain or styled."""

    title: str
    columns: list[str]
    rows: Sequence[Sequence[str | Text]]


@dataclass(frozen=True)
class HeatMap:
    """Shares between 0 and 1, a row of cells a query and a column a key; what is exactly 0 stays empty.

    Attributes:
        values: (T, S).
        rows, columns: their labels; none where there is no room for any.
    """

    title: str
    values: np.ndarray
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """Small heat maps side by side, `across` in a row."""

    title: str
    maps: Sequence[HeatMap]
    across: int


@dataclass(frozen=True)
class Points:
    """Labelled points of a plane.

    Attributes:
        places: (N, 2).
        labels: N texts, the most important first: of those that would lie on each other the later ones are left out.
    """

    title: str
    places: np.ndarray
    labels: Sequence[str]
    axes: tuple[str, str]


@dataclass(frozen=True)
class Curves:
    """Lines over shared places on the horizontal axis, which is logarithmic.

    Attributes:
        lines: name to a value for each of `places`.
    """

    title: str
    axes: tuple[str, str]
    places: Sequence[float]
    lines: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Group:
    """Rows of bars that belong together.

    Attributes:
        rows: N labels.
        values: (N, columns), shares between 0 and 1.
        marked: the row that stands out, or None.
    """

    title: str
    rows: Sequence[str]
    values: np.ndarray
    marked: int | None


@dataclass(frozen=True)
class Bars:
    """Shares as bars: a column a name, and groups of rows below each other."""

    title: str
    columns: Sequence[str]
    groups: Sequence[Group]


Picture = HeatMap | Page | Points | Curves | Bars


class View(Protocol):
    """What configs/view names.

    It is called with a Subject. One that does with less has a class attribute `needs`: `model` where it looks at an
    architecture alone, and is called with a model, which may be without values, and its settings; or `nothing`.
    """

    def __call__(self, subject: Subject) -> dict[str, Any]:
        """A JSON document, of which `view` is the file's name."""
        ...


def visible(text: str) -> str:
    """A token's text with its white space as signs."""
    return text.translate(VISIBLE)


def token_tables(model: nn.Module) -> list[nn.Embedding]:
    """The model's embeddings of tokens (V or more, C), found as `token_embedding` or `embedding`."""
    found = [getattr(model, name, None) for name in ("token_embedding", "embedding")]
    return [table for table in found if isinstance(table, nn.Embedding)]
