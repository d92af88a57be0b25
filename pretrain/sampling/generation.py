"""Writing with a model, token by token. Every decoding and every model go through the one loop here."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.errors import SamplingError
from pretrain.models.language_model import LanguageModel
from pretrain.sampling.decodings import Decoding


@dataclass(frozen=True)
class Continuation:
    """Attributes:
    tokens: the new ids, without the prompt and without the end of text that may follow.
    logprob: natural logarithm of their probability under the model itself, the end of text included.
    """

    tokens: list[int]
    logprob: float


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompt: list[int],
    *,
    n: int,
    max_tokens: int,
    decoding: Decoding,
    seed: int,
    end_of_text: int,
    device: torch.device,
) -> list[Continuation]:
    """`n` continuations of `prompt`, each with random numbers of its own, so that n does not change the first.

    Args:
        prompt: token ids, at least one.
        max_tokens: new tokens at most; a continuation ends with the document.
    Raises:
        SamplingError: the model gives no usable logits.
    """
    model.eval()
    generators = [torch.Generator().manual_seed((seed * 1_000_003 + row) % 2**63) for row in range(n)]
    new = torch.tensor([prompt] * n, device=device)  # (B, T)
    lengths = torch.full((n,), len(prompt), device=device)
    chosen: list[list[int]] = [[] for _ in range(n)]
    logprobs = torch.zeros(n, dtype=torch.float64)
    running = torch.ones(n, dtype=torch.bool)
    state = None
    for _ in range(max_tokens):
        logits, state = model.next_logits(new, lengths, state)
        logits = logits.double().cpu()  # (B, V)
        _refuse_unusable(logits[running])
        tokens = _draw(decoding(logits).softmax(dim=1), generators)
        logprobs += torch.where(running, logits.log_softmax(dim=1).gather(1, tokens[:, None])[:, 0], 0.0)
        running &= tokens != end_of_text
        for row in running.nonzero()[:, 0].tolist():
            chosen[row].append(int(tokens[row]))
        if not running.any():
            break
        new, lengths = tokens[:, None].to(device), torch.ones_like(lengths)
    return [Continuation(ids, logprob) for ids, logprob in zip(chosen, logprobs.tolist(), strict=True)]


def _draw(probabilities: Tensor, generators: list[torch.Generator]) -> Tensor:
    """One id a row (B,), by looking a uniform number up in the cumulated probabilities (B, V)."""
    uniform = torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in generators])
    cumulated = probabilities.nan_to_num().cumsum(dim=1)
    places = torch.searchsorted(cumulated, (uniform * cumulated[:, -1])[:, None], right=True)[:, 0]
    return places.clamp(max=probabilities.shape[1] - 1)


def _refuse_unusable(logits: Tensor) -> None:
    if (logits.isnan() | (logits == torch.inf)).any():
        raise SamplingError("the model's logits are NaN or infinite; its weights are damaged, try an older step=N")
    if (logits == -torch.inf).all(dim=1).any():
        raise SamplingError("the model gives no token any probability here; an n-gram needs model.smoothing for that")
