"""What all views have in common: what they look at, and what they make of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.text import Text

from pretrain.data.shards import TokenStream
from pretrain.models.language_model import LanguageModel
from pretrain.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Subject:
    """A trained run with its tokens."""

    model: LanguageModel
    tokenizer: Tokenizer
    training: TokenStream
    validation: TokenStream

    def text_of(self, token: int) -> str:
        """A token as text; the end of text has a name."""
        return "<end of text>" if token == self.tokenizer.end_of_text else self.tokenizer.decode([token])


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and rows of as many texts, plain or styled."""

    title: str
    columns: list[str]
    rows: Sequence[Sequence[str | Text]]


class View(Protocol):
    """What configs/view names. Beside it, in the same file, stands `tables(document)`, for people."""

    def __call__(self, subject: Subject) -> dict[str, Any]:
        """A JSON document, of which `view` is the file's name."""
        ...
