"""Beam search: not the most probable next token, but the most probable text that can be found.

Shapes: P prompts, W width, V ids; R rows of the model's batch, W a prompt, but for the first step.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from pretrain.errors import ConfigError
from pretrain.models.language_model import State
from pretrain.sampling.search import Continuation, Search, Task, refuse_unusable, scores_of


class BeamSearch:
    """The best texts among those whose every beginning is one of the `width` most probable of its length.

    n of them are given, the best first. A text's score is its log-probability divided by its length, the end of text
    included, to the power of length_penalty (Wu et al. 2016, https://arxiv.org/abs/1609.08144, have (5 + length) / 6
    for the length; this is transformers'). The search ends where nothing can become better than what was found.

    Args:
        width: beginnings that are followed at once.
        length_penalty: 0 compares log-probabilities, which favours short texts; 1 the mean of a token; above 1 favours
            long ones.
    """

    def __init__(
        self, *, width: Annotated[int, Ge(1)], length_penalty: Annotated[float, Interval(ge=-10, le=10)]
    ) -> None:
        self.width = width
        self.length_penalty = length_penalty

    def begin(self, task: Task) -> Search:
        """See Decoding.

        Raises:
            ConfigError: more texts are asked for than are followed.
        """
        if task.n > self.width:
            raise ConfigError(
                f"n={task.n} texts are more than decoding.width={self.width}; try decoding.width={task.n}"
            )
        return _Beams(task, self.width, self.length_penalty)


@dataclass(frozen=True)
class _Found:
    """A text and its score."""

    score: float
    continuation: Continuation


class _Beams:
    def __init__(self, task: Task, width: int, length_penalty: float) -> None:
        self.task, self.width, self.length_penalty = task, width, length_penalty
        prompts = len(task.prompts)
        # Of each beginning: its log-probability, tokens and theirs. At first all but one of a prompt's are none.
        self.sums = [[0.0] + [-math.inf] * (width - 1) for _ in range(prompts)]
        self.tokens: list[list[list[int]]] = [[[] for _ in range(width)] for _ in range(prompts)]
        self.logprobs: list[list[list[float]]] = [[[] for _ in range(width)] for _ in range(prompts)]
        self.found: list[list[_Found]] = [[] for _ in range(prompts)]
        self.active = [task.max_tokens > 0] * prompts
        self.length = 0
        self.over = task.max_tokens == 0

    def step(self, logits: Tensor, state: State) -> tuple[Tensor, Tensor | None]:
        """See Search."""
        prompts, width, ids = len(self.task.prompts), self.width, logits.shape[1]
        first = self.length == 0
        logits = scores_of(logits)
        rows = logits.view(prompts, -1, ids)  # (P, 1 or W, V)
        sums = torch.tensor(self.sums, dtype=torch.float64, device=logits.device)[:, : rows.shape[1], None]
        self._refuse(rows, sums)
        logs = rows.double().log_softmax(dim=2)
        totals = (sums + logs).masked_fill(sums == -torch.inf, -torch.inf)  # (P, 1 or W, V)
        # Of these at most W end, so that as many as can go on are among them.
        best, places = totals.flatten(1).topk(min(2 * width, totals[0].numel()), dim=1)
        own = logs.flatten(1).gather(1, places)
        self.length += 1
        parents, tokens = [], []
        for prompt, candidates in enumerate(
            zip(best.tolist(), own.tolist(), (places // ids).tolist(), (places % ids).tolist(), strict=True)
        ):
            offset = prompt if first else prompt * width
            chosen = self._extended(prompt, list(zip(*candidates, strict=True))) if self.active[prompt] else []
            chosen += [(0, 0)] * (width - len(chosen))  # rows without a beginning read anything
            parents += [offset + parent for parent, _ in chosen]
            tokens += [token for _, token in chosen]
        self.over = not any(self.active)
        return torch.tensor(tokens), torch.tensor(parents, device=logits.device)

    def continuations(self) -> list[Continuation]:
        """See Search."""
        return [one for prompt in range(len(self.task.prompts)) for one in self._best(prompt)]

    def _best(self, prompt: int) -> list[Continuation]:
        if not self.task.max_tokens:
            return [Continuation([], [])] * self.task.n
        best = [found.continuation for found in self.found[prompt][: self.task.n]]
        return best + best[-1:] * (self.task.n - len(best))  # where the model allows fewer texts

    def _extended(self, prompt: int, candidates: list[tuple[float, float, int, int]]) -> list[tuple[int, int]]:
        """Take the best candidates as the prompt's beginnings, those that end as found; parent and token of each.

        Args:
            candidates: log-probability of the whole and of the token, parent and token, the best first.
        """
        sums: list[float] = []
        tokens: list[list[int]] = []
        logprobs: list[list[float]] = []
        chosen: list[tuple[int, int]] = []
        last = self.length == self.task.max_tokens
        for rank, (total, own, parent, token) in enumerate(candidates):
            if total == -math.inf or len(sums) == self.width:
                break
            before = self.tokens[prompt][parent]
            chain = [*self.logprobs[prompt][parent], own]
            if token == self.task.end_of_text:
                if rank < self.width:
                    self._keep(prompt, total, Continuation(before, chain, "end_of_text"))
                continue
            text = [*before, token]
            stopped = self.task.ends is not None and self.task.ends(text)
            if stopped or last:
                if rank < self.width:
                    self._keep(prompt, total, Continuation(text, chain, "stop" if stopped else "length"))
                continue
            sums.append(total)
            tokens.append(text)
            logprobs.append(chain)
            chosen.append((parent, token))
        empty = self.width - len(sums)
        self.tokens[prompt], self.logprobs[prompt] = tokens + [[]] * empty, logprobs + [[]] * empty
        self.sums[prompt] = sums + [-math.inf] * empty
        found = self.found[prompt]
        enough = len(found) >= self.task.n and self._most(self.sums[prompt][0]) <= found[self.task.n - 1].score
        if enough or not sums:
            self.active[prompt] = False
            self.sums[prompt] = [-math.inf] * self.width
            self._tell(prompt)
        return chosen

    def _keep(self, prompt: int, total: float, continuation: Continuation) -> None:
        """Put a text that has ended among those found, the best n of which are kept."""
        found = [*self.found[prompt], _Found(self._score(total, self.length), continuation)]
        self.found[prompt] = sorted(found, key=lambda one: -one.score)[: self.task.n]

    def _tell(self, prompt: int) -> None:
        for number, continuation in enumerate(self._best(prompt)):
            for token in continuation.tokens if self.task.heard else ():
                assert self.task.heard
                self.task.heard(prompt * self.task.n + number, token)

    def _score(self, total: float, length: int) -> float:
        return total / math.pow(length, self.length_penalty)

    def _most(self, total: float) -> float:
        """What the score of a beginning with this log-probability can become: it falls or stays, the text grows."""
        return max(self._score(total, length) for length in (self.length + 1, self.task.max_tokens))

    def _refuse(self, rows: Tensor, sums: Tensor) -> None:
        """Refuse rows with a beginning whose logits (P, 1 or W, V) are unusable; sums: (P, 1 or W, 1)."""
        followed = sums[:, :, 0] > -torch.inf
        wrong = followed & ~rows.logsumexp(dim=2).isfinite()
        if bool(wrong.any()):
            refuse_unusable(rows[wrong])
