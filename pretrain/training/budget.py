"""From a budget of seconds to settings: the size, batch and rate by which a scaling law expects the lowest loss.

The law's constants come from runs on several corpora, whose losses differ by what their text and tokenizer are
like. Two numbers of the corpus at hand, known within seconds, make up for that: the loss of its best n-gram, of which
the law's E is a share, and the loss of a pilot, a small model trained for a moment, which scales the rest.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Interval

from pretrain.errors import ConfigError
from pretrain.training.scaling import effective_tokens


@dataclass(frozen=True)
class Shape:
    """A Transformer's."""

    n_layer: int
    n_head: int
    n_embd: int

    @property
    def parameters(self) -> int:
        """Of its blocks, which is the law's N: 12 C^2 a block (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361)."""
        return 12 * self.n_layer * self.n_embd**2


@dataclass(frozen=True)
class Corpus:
    """What is known of the text before the run.

    Attributes:
        tokens: of training, each counted once.
        best_ngram: its reference loss, in nats per token.
        pilot: the pilot's validation loss, likewise.
        pilot_tokens: that the pilot read.
    """

    tokens: int
    best_ngram: float
    pilot: float
    pilot_tokens: int


@dataclass(frozen=True)
class Choice:
    """Settings, and what they are expected to come to.

    Attributes:
        tokens, steps: that the seconds are expected to suffice for.
        loss: nats per token on the validation set.
        tokens_per_second: as measured.
    """

    shape: Shape
    batch_tokens: int
    lr: float
    tokens: int
    steps: int
    loss: float
    tokens_per_second: float


class Budget:
    """Chooses.

    Args:
        floor: E as a share of the best n-gram's loss.
        size, alpha: A and alpha, of the parameters of blocks in millions.
        text, beta: B and beta, of tokens in millions; only the ratio of A to B counts.
        repeats: R*, by which tokens read again are discounted, as in scaling.Law.
        batch_tokens: tokens a step at which the law holds, the least that are chosen.
        noise: tokens a step that cost as many more tokens as there are in all, after a million tokens; it grows with
            the root of the tokens.
        lr: peak rate for a width of 128 and 1,000 steps.
        lr_by_width, lr_by_steps: powers of both by which it falls.
        head_width: of an attention head.
        widths: the widths that are tried, ascending.
        width_per_layer: a block more for each so many of it.
        pilot_width, pilot_tokens, pilot_lr: of the pilot, which has one block.
        share: of the seconds that may go into measuring.
    Raises:
        ConfigError: a width is not a multiple of the heads' width.
    """

    def __init__(
        self,
        *,
        floor: Annotated[float, Interval(ge=0, lt=1)],
        size: Annotated[float, Gt(0)],
        alpha: Annotated[float, Gt(0)],
        text: Annotated[float, Gt(0)],
        beta: Annotated[float, Gt(0)],
        repeats: Annotated[float, Gt(0)],
        batch_tokens: Annotated[int, Ge(1)],
        noise: Annotated[float, Gt(0)],
        lr: Annotated[float, Gt(0)],
        lr_by_width: float,
        lr_by_steps: float,
        head_width: Annotated[int, Ge(2)],
        widths: list[int],
        width_per_layer: Annotated[int, Ge(1)],
        pilot_width: Annotated[int, Ge(1)],
        pilot_tokens: Annotated[int, Ge(1)],
        pilot_lr: Annotated[float, Gt(0)],
        share: Annotated[float, Interval(gt=0, lt=1)],
    ) -> None:
        if odd := [width for width in [*widths, pilot_width] if width % head_width]:
            raise ConfigError(
                f"the width {odd[0]} is not a multiple of budget.head_width={head_width}; try {head_width}"
            )
        self.floor, self.size, self.alpha, self.text, self.beta = floor, size, alpha, text, beta
        self.repeats, self.batch_tokens, self.noise = repeats, batch_tokens, noise
        self.peak, self.lr_by_width, self.lr_by_steps = lr, lr_by_width, lr_by_steps
        self.head_width, self.widths, self.width_per_layer = head_width, widths, width_per_layer
        self.pilot = Shape(1, pilot_width // head_width, pilot_width)
        self.pilot_tokens, self.pilot_lr, self.share = pilot_tokens, pilot_lr, share

    def shapes(self) -> Iterator[Shape]:
        """The sizes that are tried, ascending."""
        for width in self.widths:
            yield Shape(max(1, round(width / self.width_per_layer)), width // self.head_width, width)

    def lr(self, shape: Shape, steps: float) -> float:
        """The peak rate of a run."""
        by_width, by_steps = (shape.n_embd / 128) ** self.lr_by_width, (max(1.0, steps) / 1000) ** self.lr_by_steps
        return float(self.peak / (by_width * by_steps))

    def loss(self, shape: Shape, tokens: float, batch_tokens: int, corpus: Corpus) -> float:
        """Nats per token that are expected of a run."""
        floor = self.floor * corpus.best_ngram
        scale = (corpus.pilot - floor) / self._above(self.pilot, corpus.pilot_tokens, self.batch_tokens, corpus)
        return floor + max(0.0, scale) * self._above(shape, tokens, batch_tokens, corpus)

    def _above(self, shape: Shape, tokens: float, batch_tokens: int, corpus: Corpus) -> float:
        """What the loss is above its floor, before it is scaled."""
        noise = self.noise * math.sqrt(tokens / 1e6)
        # https://arxiv.org/abs/1812.06162, with a noise scale that grows with the tokens: https://arxiv.org/abs/2410.21676
        wasted = (1 + batch_tokens / noise) / (1 + self.batch_tokens / noise)
        seen = effective_tokens(tokens, corpus.tokens, self.repeats) / wasted
        return float(self.size / (shape.parameters / 1e6) ** self.alpha + self.text / (seen / 1e6) ** self.beta)

    def choose(self, speed: Callable[[Shape, int], float | None], seconds: float, corpus: Corpus) -> Choice:
        """The best choice for `seconds` of training.

        Larger sizes are tried until two in a row are expected to end worse, and with each size larger batches until
        one is; so that few are measured.

        Args:
            speed: tokens a second of a shape with a batch, or None where there is no more time to measure them.
        """
        best: Choice | None = None
        worse = 0
        for shape in self.shapes():
            found = self._with_best_batch(shape, speed, seconds, corpus)
            if found is None:
                break
            if best is None or found.loss < best.loss:
                best, worse = found, 0
            else:
                worse += 1
            if worse == 2:
                break
        assert best is not None, "the first measurement has its time"
        return best

    def _with_best_batch(
        self, shape: Shape, speed: Callable[[Shape, int], float | None], seconds: float, corpus: Corpus
    ) -> Choice | None:
        best: Choice | None = None
        batch_tokens = self.batch_tokens
        while measured := speed(shape, batch_tokens):
            tokens = measured * seconds
            steps = max(1, int(tokens / batch_tokens))
            loss = self.loss(shape, tokens, batch_tokens, corpus)
            if best is not None and loss >= best.loss:
                break
            best = Choice(shape, batch_tokens, self.lr(shape, steps), int(tokens), steps, loss, measured)
            batch_tokens *= 2
        return best
