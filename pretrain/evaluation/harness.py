"""A model of ours as lm-eval asks it, without transformers or accelerate (https://github.com/EleutherAI/lm-evaluation-harness).

The only module that needs lm-eval, an optional dependency: tasks.py imports it when there are tasks to do.
"""

from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from pretrain.evaluation.loss import device_of
from pretrain.evaluation.scoring import tokens_at_once
from pretrain.models.language_model import IGNORED, LanguageModel, State
from pretrain.stopping import Stop
from pretrain.tokenizers.tokenizer import Tokenizer

Row = tuple[list[int], list[int]]  # the tokens that are read, and the targets

MOST_NEW = 256  # tokens that are written where a task does not say how many


class HarnessModel(TemplateLM):  # type: ignore[misc]  # where lm-eval is not installed, its classes are Any
    """Texts and their tokens are cut as by lm-eval's own class for transformers, so that both give the same numbers.

    Args:
        longest: tokens of a row; a longer context loses its beginning.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, longest: int, stop: Stop) -> None:
        super().__init__()
        self.model = model.eval()
        self.encoder = tokenizer
        self.longest = longest
        self.stop = stop

    @property
    def eot_token_id(self) -> int:
        return self.encoder.end_of_text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text; none are added."""
        return self.encoder.encode(string)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """The log-probability of each text behind its context, and whether it is what greedy decoding writes."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
        return found

    @torch.inference_mode()
    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        pieces = [self._rows(context, continuation) for _, context, continuation in requests]
        found = iter(self._scored([row for rows in pieces for row in rows]))
        parts = [[next(found) for _ in rows] for rows in pieces]
        return [(sum(logprob for logprob, _ in some), all(best for _, best in some)) for some in parts]

    def _scored(self, rows: list[Row]) -> list[tuple[float, bool]]:
        """The log-probability of each row's targets, and whether each of them is the most probable id."""
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        waiting = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
        while waiting:
            self.stop.check()
            at_once = max(1, tokens_at_once(self.model) // max(1, len(rows[waiting[0]][0])))
            some, waiting = waiting[:at_once], waiting[at_once:]
            tokens, targets = (_padded([rows[index][part] for index in some]) for part in (0, 1))
            device = device_of(self.model)
            scores = self.model.token_scores(tokens.to(device).clamp(min=0), targets.to(device))
            sums = scores.nats.cpu().double().sum(1).tolist()
            greedy = ((scores.higher == 0) | (targets.to(device) == IGNORED)).all(1).tolist()
            for index, nats, best in zip(some, sums, greedy, strict=True):
                found[index] = (-nats, best)
        return found

    def _rows(self, context: list[int], continuation: list[int]) -> list[Row]:
        """One row with the continuation as its targets, or several where it is too long for one."""
        if len(continuation) > self.longest:
            size = max(1, self.longest // 2)
            starts = range(0, len(continuation), size)
            pieces = [([*context, *continuation[:start]], continuation[start : start + size]) for start in starts]
            return [row for before, piece in pieces for row in self._rows(before, piece)]
        whole = [*context, *continuation][-self.longest - 1 :]
        return [(whole[:-1], [IGNORED] * (len(whole) - 1 - len(continuation)) + continuation)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """The log-probability of each whole text, read in rows side by side."""
        texts = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.longest, 1)
            texts.append([(None, *make_disjoint_window(window)) for window in windows])
        found = iter(self._loglikelihood_tokens([window for windows in texts for window in windows]))
        return [sum(next(found)[0] for _ in windows) for windows in texts]

    @torch.inference_mode()
    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """What greedy decoding writes behind each context, up to a stop text or as many tokens as the task says."""
        return [self._written(*request.args) for request in requests]

    def _written(self, context: str, settings: dict[str, Any]) -> str:
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        most = settings.get("max_gen_toks", MOST_NEW)
        ids = (self.tok_encode(context) or [self.eot_token_id])[-max(1, self.longest - most) :]
        device, written, text = device_of(self.model), list[int](), ""
        state: State | None = None
        while len(written) < most:
            self.stop.check()
            tokens = torch.tensor([ids], device=device)
            logits, state = self.model.next_logits(tokens, torch.tensor([len(ids)], device=device), state)
            ids = [int(logits[0].argmax())]
            if ids[0] == self.eot_token_id:
                break
            written += ids
            text = self.encoder.decode(written)
            if any(stop in text for stop in stops):
                break
        return min((text.split(stop)[0] for stop in stops), key=len, default=text)


def _padded(rows: list[list[int]]) -> Tensor:
    """(B, T) of rows, with IGNORED behind each."""
    length = max(map(len, rows))
    return torch.tensor([row + [IGNORED] * (length - len(row)) for row in rows])
