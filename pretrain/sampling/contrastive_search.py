"""Contrastive search (Su et al. 2022, https://arxiv.org/abs/2202.06417): probable, but unlike what was said before.

Shapes: P texts, K candidates each, V ids, S tokens so far, C width of the model's outputs, T tokens of a step.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor

from pretrain.errors import ConfigError
from pretrain.models.language_model import State
from pretrain.sampling.search import Continuation, Ended, Search, Task, refuse_unusable, scores_of


class ContrastiveSearch:
    """Of the k most probable tokens the one with the greatest (1 - alpha) probability - alpha likeness.

    The likeness is the greatest cosine of the model's output at the token with those at the tokens before it that the
    model sees, the prompt included. Nothing is drawn: all n texts of a prompt are the same.

    It needs a model that tells its outputs: Transformers and recurrent networks.

    Args:
        k: candidates, each of which the model reads.
        alpha: 0 is greedy.
    """

    def __init__(self, *, k: Annotated[int, Ge(1)], alpha: Annotated[float, Interval(ge=0, le=1)]) -> None:
        self.k = k
        self.alpha = alpha

    def begin(self, task: Task) -> Search:
        """See Decoding."""
        return _Contrast(task, self.k, self.alpha)


class _Contrast:
    def __init__(self, task: Task, k: int, alpha: float) -> None:
        self.task, self.k, self.alpha = task, k, alpha
        texts = len(task.prompts)
        self.tokens: list[list[int]] = [[] for _ in range(texts)]
        self.logprobs: list[list[float]] = [[] for _ in range(texts)]
        self.ended: list[Ended | None] = [None] * texts
        self.over = task.max_tokens == 0
        self.logs: Tensor | None = None  # (P, K) of the candidates that the model has just read
        self.candidates = torch.empty(0, dtype=torch.int64)  # (P, K)
        self.before = torch.empty(0)  # (P, S, C), outputs of length 1 at the tokens so far
        self.seen = torch.empty(0, dtype=torch.bool)  # (P, S), which of these are no padding

    def step(self, logits: Tensor, state: State) -> tuple[Tensor, Tensor | None]:
        """See Search."""
        if "outputs" not in state:
            raise ConfigError("decoding=contrastive compares a model's outputs, and this model has none; try top_p")
        logits = scores_of(logits)
        outputs = F.normalize(state["outputs"].float(), dim=2).to(logits.device)  # (P or P K, T, C)
        texts = len(self.task.prompts)
        rows = torch.arange(texts, device=logits.device)  # of the batch, that the texts go on from
        if self.logs is not None:
            rows = rows * self.k + self._choose(outputs, state)
        else:
            self._read(outputs, self._lengths(state, outputs))
        logits = logits[rows]
        self._refuse(logits)
        logs, self.candidates = logits.log_softmax(dim=1).topk(min(self.k, logits.shape[1]), dim=1)
        self.k = self.candidates.shape[1]
        self.logs = logs
        return self.candidates.flatten(), rows.repeat_interleave(self.k)

    def continuations(self) -> list[Continuation]:
        """See Search."""
        written = zip(self.tokens, self.logprobs, self.ended, strict=True)
        return [
            Continuation(tokens, logprobs, ended or "length")
            for tokens, logprobs, ended in written
            for _ in range(self.task.n)
        ]

    def _choose(self, outputs: Tensor, state: State) -> Tensor:
        """The number (P,) of each text's best candidate, after what the model made of them: outputs (P K, T, C)."""
        assert self.logs is not None
        texts, width = len(self.task.prompts), outputs.shape[2]
        if outputs.shape[1] > 1:  # the texts have outgrown the context and are read again, with each candidate
            self._read(outputs[:: self.k], self._lengths(state, outputs)[:: self.k] - 1)
        new = self._last(outputs, state).view(texts, self.k, width)
        likeness = (new @ self.before.transpose(1, 2)).masked_fill(~self.seen[:, None], -torch.inf)  # (P, K, S)
        closest = likeness.amax(dim=2).nan_to_num(neginf=0.0)
        scores = (1 - self.alpha) * self.logs.exp() - self.alpha * closest
        best = scores.masked_fill(self.logs == -torch.inf, -torch.inf).argmax(dim=1)  # (P,)
        rows = torch.arange(texts, device=best.device)
        self.before = torch.cat([self.before, new[rows, best][:, None]], dim=1)
        self.seen = F.pad(self.seen, (0, 1), value=True)
        self._keep(self.candidates[rows, best].tolist(), self.logs[rows, best].tolist())
        return best

    def _read(self, outputs: Tensor, lengths: Tensor) -> None:
        """Begin with the outputs (P, T, C) at the first `lengths` (P,) tokens."""
        self.before = outputs
        self.seen = torch.arange(outputs.shape[1], device=outputs.device) < lengths[:, None]

    def _lengths(self, state: State, outputs: Tensor) -> Tensor:
        """(R,): how many tokens of each row were read, where the model has read more than one."""
        if "lengths" in state:
            return state["lengths"].to(outputs.device)
        return torch.tensor([len(prompt) for prompt in self.task.prompts], device=outputs.device)

    def _last(self, outputs: Tensor, state: State) -> Tensor:
        """(R, C): the output at each row's last token."""
        if outputs.shape[1] == 1:
            return outputs[:, 0]
        return outputs[torch.arange(len(outputs), device=outputs.device), self._lengths(state, outputs) - 1]

    def _keep(self, tokens: list[int], logprobs: list[float]) -> None:
        """Note the token that each text goes on with, and which texts end with it."""
        for text, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            if self.ended[text] is not None:
                continue
            self.logprobs[text].append(logprob)
            if token == self.task.end_of_text:
                self.ended[text] = "end_of_text"
                continue
            self.tokens[text].append(token)
            for number in range(self.task.n) if self.task.heard else ():
                assert self.task.heard
                self.task.heard(text * self.task.n + number, token)
            if self.task.ends and self.task.ends(self.tokens[text]):
                self.ended[text] = "stop"
            elif len(self.tokens[text]) == self.task.max_tokens:
                self.ended[text] = "length"
        self.over = all(self.ended)

    def _refuse(self, logits: Tensor) -> None:
        """Refuse unusable logits (P, V) of texts that go on."""
        wrong = ~logits.logsumexp(dim=1).isfinite()
        going = torch.tensor([ended is None for ended in self.ended], device=wrong.device)
        if bool((wrong & going).any()):
            refuse_unusable(logits[wrong & going])
