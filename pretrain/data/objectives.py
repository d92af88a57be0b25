"""What a row of text is made into before a model learns from it: the next token, a text with gaps, a text turned round.

An objective is a pure function of rows and of one random key a row, so that a resumed run sees the same. It may put ids
of its own, behind the tokenizer's vocabulary, into what a model reads: V is the separator between a source and the
target that is to be written for it, and from V + 1 on are sentinels, which number gaps. They are never to be predicted,
so that a loss is one over the tokenizer's V ids, and nothing else is ever sampled.

Shapes: R rows, T text tokens a row, P positions of what they become, G gaps.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, Protocol

import numpy as np
from annotated_types import Ge, Interval
from numpy.typing import NDArray

from pretrain.data.permutation import mixed
from pretrain.errors import ConfigError, UsageError
from pretrain.models.language_model import IGNORED

Rows = NDArray[np.int64]
Keys = NDArray[np.uint64]


class Objective(Protocol):
    """Attributes:
    in_order: whether each target is the next token of the text, so that the loss compares with an n-gram's.
    special_ids: ids behind the vocabulary that it may put into rows.
    """

    in_order: ClassVar[bool]

    @property
    def special_ids(self) -> int: ...

    def __call__(self, rows: Rows, keys: Keys) -> tuple[Rows, Rows]:
        """Tokens and targets, each (R, P), of rows (R, T + 1) with a random key each (R,); targets may be IGNORED."""
        ...

    def targets(self, keys: Keys, length: int) -> int:
        """How many targets it gives of rows with these keys (R,) and T = `length`."""
        ...

    def prompt(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """The ids that a model reads before it writes, for a user's text."""
        ...

    def whole(self, prompt: str, text: str) -> str:
        """A user's text and what was written for it, as people read them together."""
        ...


class NextToken:
    """Each token is to be predicted from those before it.

    Args:
        end_of_text: the id before each document.
    """

    in_order: ClassVar[bool] = True
    special_ids = 0

    def __init__(self, end_of_text: int) -> None:
        self.end_of_text = end_of_text

    def __call__(self, rows: Rows, keys: Keys) -> tuple[Rows, Rows]:
        return rows[:, :-1], rows[:, 1:]

    def targets(self, keys: Keys, length: int) -> int:
        return len(keys) * length

    def prompt(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        return [self.end_of_text, *encode(text)]

    def whole(self, prompt: str, text: str) -> str:
        return prompt + text


class SpanCorruption:
    """Gaps in a text are to be filled (T5, Raffel et al. 2020, https://arxiv.org/abs/1910.10683).

    `a b c d e f` without `b c` and `f` becomes the source `a <0> d e <1>` and the target `b c EOT f EOT`, for which a
    model reads `SEP b c <1> f`. T5's targets have sentinels where EOT stands here: the same, but that they would have
    to belong to the vocabulary. Numbers and lengths of gaps are drawn as in T5's code: all rows are equally long, begin
    with text and end with a gap. The last token of a row is the first of another one, and left to that.

    Args:
        end_of_text: the id that closes a gap.
        separator: V.
        sequence_length: T of the longest rows.
        noise_density: share of the tokens that are taken out.
        mean_span: tokens a gap, on the average.
    Raises:
        ConfigError: a row has no room for a gap.
    """

    in_order: ClassVar[bool] = False
    blank: ClassVar[str] = "___"  # a gap in a prompt

    def __init__(
        self,
        end_of_text: int,
        separator: int,
        sequence_length: int,
        *,
        noise_density: Annotated[float, Interval(gt=0, lt=1)],
        mean_span: Annotated[float, Ge(1)],
    ) -> None:
        _refuse_short(sequence_length)
        self.end_of_text, self.separator = end_of_text, separator
        self.noise_density, self.mean_span = noise_density, mean_span
        self.special_ids = 1 + self._sizes(sequence_length)[1]

    def __call__(self, rows: Rows, keys: Keys) -> tuple[Rows, Rows]:
        text = rows[:, :-1]  # (R, T)
        noise, gaps = self._sizes(text.shape[1])
        lengths = [_parted(text.shape[1] - noise, gaps, mixed(keys, 0)), _parted(noise, gaps, mixed(keys, 1))]
        ends = np.stack(lengths, 2).reshape(len(text), -1).cumsum(1)  # (R, 2 G) of text, gap, text, gap ...
        begins, lasts = np.zeros(text.shape, np.bool_), np.zeros(text.shape, np.bool_)
        np.put_along_axis(begins, ends[:, :-1], True, 1)
        np.put_along_axis(lasts, ends[:, 1::2] - 1, True, 1)
        part = begins.cumsum(1)  # (R, T)
        missing = part % 2 == 1
        firsts = begins & missing
        sentinels = self.separator + 1 + part // 2
        source = _chosen([np.where(firsts, sentinels, text)], [~missing | firsts])
        # The separator stands for the first gap's sentinel: it begins the target.
        read = _chosen([np.where(part == 1, self.separator, sentinels), text], [firsts, missing])
        written = _chosen([text, np.full_like(text, self.end_of_text)], [missing, lasts])
        return np.concatenate([source, read], 1), np.concatenate([np.full_like(source, IGNORED), written], 1)

    def targets(self, keys: Keys, length: int) -> int:
        return len(keys) * sum(self._sizes(length))

    def prompt(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """The text with a gap for each `___` in it, or one at its end; the first of them is written.

        Raises:
            UsageError: there are more gaps than sentinels.
        """
        pieces = text.split(self.blank) if self.blank in text else [text, ""]
        if len(pieces) > self.special_ids:
            raise UsageError(
                f"the prompt has {len(pieces) - 1} gaps ({self.blank}), but the run has learned {self.special_ids - 1}"
            )
        source = encode(pieces[0])
        for number, piece in enumerate(pieces[1:]):
            source += [self.separator + 1 + number, *encode(piece)]
        return [*source, self.separator]

    def whole(self, prompt: str, text: str) -> str:
        before, _, behind = prompt.partition(self.blank)
        return before + text + behind

    def _sizes(self, length: int) -> tuple[int, int]:
        """How many of `length` tokens are taken out, in how many gaps; before each of them stands text."""
        noise = min(max(1, round(length * self.noise_density)), length - 1)
        return noise, min(max(1, round(noise / self.mean_span)), noise, length - noise)


class Reversal:
    """The first tokens of a row, any number of them, are to be written in reverse order, then EOT.

    The smallest task that needs an encoder: what is to be written first is read last, and a map of the cross-attention
    shows a falling diagonal where it is learned.

    Args:
        end_of_text: the id that closes the target.
        separator: V.
        sequence_length: T of the longest rows.
    Raises:
        ConfigError: a row has no room for a source.
    """

    in_order: ClassVar[bool] = False
    special_ids = 1

    def __init__(self, end_of_text: int, separator: int, sequence_length: int) -> None:
        _refuse_short(sequence_length)
        self.end_of_text, self.separator = end_of_text, separator

    def __call__(self, rows: Rows, keys: Keys) -> tuple[Rows, Rows]:
        lengths = self._lengths(keys, rows.shape[1] - 1)[:, None]  # (R, 1)
        places = np.arange(2 * lengths.max() + 1)[None]  # (1, P): source, separator, source reversed
        mirrored = np.take_along_axis(rows, np.clip(2 * lengths - places, 0, rows.shape[1] - 1), 1)
        text = np.take_along_axis(rows, np.minimum(places, lengths), 1)
        tokens = np.where(places < lengths, text, np.where(places == lengths, self.separator, mirrored))
        next_mirrored = np.take_along_axis(rows, np.clip(2 * lengths - 1 - places, 0, rows.shape[1] - 1), 1)
        targets = np.where(places < lengths, IGNORED, next_mirrored)
        targets = np.where(places == 2 * lengths, self.end_of_text, targets)
        behind = places > 2 * lengths
        return np.where(behind, self.end_of_text, tokens), np.where(behind, IGNORED, targets)

    def targets(self, keys: Keys, length: int) -> int:
        return int(self._lengths(keys, length).sum()) + len(keys)

    def prompt(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        return [*encode(text), self.separator]

    def whole(self, prompt: str, text: str) -> str:
        return f"{prompt}\n{text}"

    def _lengths(self, keys: Keys, length: int) -> Rows:
        """(R,): source tokens of each row, from 1 to `length` - 1, so that the target fits with its EOT."""
        lengths: Rows = 1 + (mixed(keys, 0) % np.uint64(length - 1)).astype(np.int64)
        return lengths


def _refuse_short(sequence_length: int) -> None:
    if sequence_length < 2:
        raise ConfigError(f"trainer.sequence_length={sequence_length} is too short for a source and a target; try 64")


def _parted(total: int, parts: int, keys: Keys) -> Rows:
    """(R, parts): for each key `total` cut into pieces of at least 1, every way as likely."""
    scores = mixed(keys[:, None], np.arange(total - 1))  # (R, total - 1)
    cuts = np.sort(scores.argsort(1)[:, : parts - 1], 1) + 1
    edges = np.pad(cuts, ((0, 0), (1, 1)), constant_values=((0, 0), (0, total)))
    pieces: Rows = np.diff(edges, axis=1)
    return pieces


def _chosen(values: list[Rows], chosen: list[NDArray[np.bool_]]) -> Rows:
    """(R, P): place after place those of the values (R, T) that are chosen there, P in each row."""
    picked: Rows = np.stack(values, 2)[np.stack(chosen, 2)].reshape(len(values[0]), -1)
    return picked
