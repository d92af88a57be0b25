"""Writing in which each row chooses its next token by itself, by chance or not.

Shapes: R rows of the model's batch, V ids.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pretrain.data.permutation import mixed
from pretrain.models.language_model import State
from pretrain.sampling.search import Continuation, Ended, Task, refuse_unusable, scores_of

AT_ONCE = 64  # random numbers that a row's generator draws at a time
BELOW_ONE = 1 - 1e-9  # so that a number stays below a sum of probabilities, whatever its rounding


class Draws:
    """n rows for each prompt, which is read once for all of them; rows that have ended are left out in time.

    Args:
        change: from logits (R, V), and which ids stand in each row so far (R, V), to those that are chosen from.
        random: whether a token is drawn from the changed logits; else it is the first of the most probable.
        remembers: whether `change` wants the ids so far; else it gets None.
    """

    def __init__(
        self, task: Task, change: Callable[[Tensor, Tensor | None], Tensor], *, random: bool, remembers: bool
    ) -> None:
        self.task, self.change, self.remembers = task, change, remembers
        texts = len(task.prompts) * task.n
        self.over = task.max_tokens == 0
        self.rows = list(range(texts))  # the text that each row of the batch belongs to
        self.tokens: list[list[int]] = [[] for _ in range(texts)]
        self.logprobs: list[list[float]] = [[] for _ in range(texts)]
        self.ended: list[Ended | None] = [None] * texts
        # Where each row's tokens go: to its text, and to no one where that has ended.
        self.into = [(self.tokens[text], self.logprobs[text]) for text in self.rows]
        self.steps = 0
        self.seen: Tensor | None = None
        self.generators = [torch.Generator().manual_seed(seed) for seed in _seeds(task)] if random else []
        self.uniforms = torch.empty(0)  # (AT_ONCE, R, 1)

    def step(self, logits: Tensor, state: State) -> tuple[Tensor, Tensor | None]:
        """See Search."""
        parents = None
        if self.steps == 0 and self.task.n > 1:
            parents = torch.arange(len(logits), device=logits.device).repeat_interleave(self.task.n)
            logits = logits[parents]
        logits = scores_of(logits)
        if self.remembers and self.seen is None:
            self.seen = self._in_prompts(logits)
        chosen = self._chosen(self.change(logits, self.seen))  # (R, 1)
        if self.seen is not None:
            self.seen.scatter_(1, chosen, True)
        logprobs = logits.log_softmax(1).gather(1, chosen)
        tokens = chosen.view(-1)
        ended = self._keep(tokens.tolist(), logprobs.view(-1).tolist(), logits)
        self.steps += 1
        self.over = self.steps == self.task.max_tokens
        if ended:
            left = [place for place, text in enumerate(self.rows) if self.ended[text] is None]
            self.over = self.over or not left
            if len(left) <= len(self.rows) // 2 and not self.over:
                return self._without_ended(left, tokens, parents)
        return tokens, parents

    def continuations(self) -> list[Continuation]:
        """See Search."""
        return [
            Continuation(tokens, logprobs, ended or "length")
            for tokens, logprobs, ended in zip(self.tokens, self.logprobs, self.ended, strict=True)
        ]

    def _chosen(self, logits: Tensor) -> Tensor:
        """One id a row (R, 1)."""
        if not self.generators:
            return logits.argmax(dim=1, keepdim=True)
        place = self.steps % AT_ONCE
        if place == 0:
            drawn = [torch.rand(AT_ONCE, generator=own, dtype=torch.float64) for own in self.generators]
            self.uniforms = torch.stack(drawn, dim=1).mul_(BELOW_ONE)[:, :, None].to(logits.device)
        return drawn_by(self.uniforms[place], logits)

    def _keep(self, tokens: list[int], logprobs: list[float], logits: Tensor) -> bool:
        """Note a token a row; whether a text ends with it."""
        for (own_tokens, own_logprobs), token, logprob in zip(self.into, tokens, logprobs, strict=True):
            own_tokens.append(token)
            own_logprobs.append(logprob)
        # Most steps need no look at single rows. A sum is finite only if all are.
        if not (
            self.task.heard or self.task.ends or self.task.end_of_text in tokens or not math.isfinite(sum(logprobs))
        ):
            return False
        before = self.ended.count(None)
        for row, (text, token, logprob) in enumerate(zip(self.rows, tokens, logprobs, strict=True)):
            if self.ended[text] is not None:
                continue
            if not math.isfinite(logprob):  # as for all ids, if one's logit is NaN or infinite or all are -inf
                refuse_unusable(logits[row, None])
            if token == self.task.end_of_text:
                self.tokens[text].pop()
                self.ended[text] = "end_of_text"
            else:
                if self.task.heard:
                    self.task.heard(text, token)
                if self.task.ends and self.task.ends(self.tokens[text]):
                    self.ended[text] = "stop"
            if self.ended[text] is not None:
                self.into[row] = ([], [])
        return self.ended.count(None) < before

    def _without_ended(self, left: list[int], tokens: Tensor, parents: Tensor | None) -> tuple[Tensor, Tensor]:
        """What step() returns, for the rows that are left alone."""
        self.rows = [self.rows[place] for place in left]
        self.into = [self.into[place] for place in left]
        kept = torch.tensor(left, device=tokens.device)
        if self.generators:
            self.generators = [self.generators[place] for place in left]
            self.uniforms = self.uniforms[:, kept]
        if self.seen is not None:
            self.seen = self.seen[kept]
        return tokens[kept], kept if parents is None else parents[kept]

    def _in_prompts(self, logits: Tensor) -> Tensor:
        """(R, V) bool: the ids that each row's prompt has; those behind the vocabulary are no one's to choose."""
        seen = torch.zeros(logits.shape, dtype=torch.bool)
        for text, row in zip(self.rows, seen, strict=True):
            ids = torch.tensor(self.task.prompts[text // self.task.n])
            row[ids[ids < len(row)]] = True
        return seen.to(logits.device)


def drawn_by(uniforms: Tensor, logits: Tensor) -> Tensor:
    """One id a row (R, 1), by looking `uniforms` (R, 1) up in the cumulated probabilities of `logits` (R, V).

    Args:
        uniforms: float64, from 0 on and not above BELOW_ONE.
    """
    cumulated = logits.softmax(dim=1, dtype=torch.float64).cumsum(dim=1)
    places = torch.searchsorted(cumulated, uniforms, right=True)
    return places.clamp_(max=logits.shape[1] - 1)  # NaN is behind all, and refused by who looks at the logits


def _seeds(task: Task) -> list[int]:
    """One for each text, from the task's own, the prompt's number and the number of the text among its n."""
    of_prompts = mixed(np.full(len(task.numbers), task.seed, np.uint64), np.array(task.numbers))
    return [int(seed) >> 1 for key in of_prompts for seed in mixed(int(key), np.arange(task.n))]
