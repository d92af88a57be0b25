"""Writing with a model, token by token. Every decoding and every model go through the one loop here."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pretrain.models.language_model import LanguageModel
from pretrain.sampling.search import Continuation, Decoding, Task


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
    ends: Callable[[Sequence[int]], bool] | None = None,
    heard: Callable[[int, int], None] | None = None,
) -> list[Continuation]:
    """`n` continuations of one `prompt`; see generate_all."""
    return generate_all(
        model,
        [prompt],
        n=n,
        max_tokens=max_tokens,
        decoding=decoding,
        seed=seed,
        end_of_text=end_of_text,
        device=device,
        rows=1,
        ends=ends,
        heard=heard,
    )


def generate_all(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    *,
    n: int,
    max_tokens: int,
    decoding: Decoding,
    seed: int,
    end_of_text: int,
    device: torch.device,
    rows: int,
    ends: Callable[[Sequence[int]], bool] | None = None,
    heard: Callable[[int, int], None] | None = None,
) -> list[Continuation]:
    """`n` continuations of each prompt, in their order.

    Each continuation has random numbers of its own, so that neither n nor the prompts beside it change it, beyond the
    rounding of the model's products.

    Args:
        prompts: token ids, at least one each; of one that is longer than the model can see it reads the end.
        max_tokens: new tokens at most; a continuation ends with the document.
        rows: prompts that are continued at once, those of like length together.
        ends, heard: see Task; heard is told of one batch of prompts after the other.
    Raises:
        SamplingError: the model gives no usable logits.
        ConfigError: the decoding cannot do this, or not with this model.
    """
    model.eval()
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    found: dict[int, list[Continuation]] = {}
    for start in range(0, len(order), rows):
        numbers = order[start : start + rows]
        task = Task([prompts[number] for number in numbers], numbers, n, max_tokens, seed, end_of_text, ends, heard)
        written = _written(model, task, decoding, device)
        found |= {number: written[place * n : (place + 1) * n] for place, number in enumerate(numbers)}
    return [continuation for number in range(len(prompts)) for continuation in found[number]]


@torch.inference_mode()
def _written(model: LanguageModel, task: Task, decoding: Decoding, device: torch.device) -> list[Continuation]:
    """The loop: read, let the search choose, go on with what it has chosen."""
    search = decoding.begin(task)
    new, lengths = _padded(task.prompts, device)
    ones = torch.ones(0, dtype=torch.int64, device=device)
    state = None
    while not search.over:
        logits, state = model.next_logits(new, lengths, state)
        tokens, parents = search.step(logits, state)
        if parents is not None:
            state = {name: tensor[parents] for name, tensor in state.items()}
        new = tokens.to(device)[:, None]
        if len(ones) != len(new):
            ones = torch.ones(len(new), dtype=torch.int64, device=device)
        lengths = ones
    return search.continuations()


def _padded(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """The prompts as (P, T), padded on the right with 0, and their lengths (P,)."""
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    rows = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.int64)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    return rows.to(device), lengths
