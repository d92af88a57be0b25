"""GPT's single step by bare functions is the step through its modules."""

from typing import Any

import pytest
import torch

from pretrain.models import gpt
from pretrain.models.gpt import GPT

V, CONTEXT = 13, 100
ONE = torch.ones(3, dtype=torch.int64)


def model(**others: Any) -> GPT:
    torch.manual_seed(0)
    made = GPT(V, context_length=CONTEXT, n_layer=2, n_head=2, n_embd=16, dropout=0.1, **others)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return made.eval()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each step that could be one by bare functions was."""
    taken: list[bool] = []
    real = gpt.one_token

    def counted(*arguments: Any) -> Any:
        found = real(*arguments)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(gpt, "one_token", counted)
    return taken


def rows(length: int) -> torch.Tensor:
    return torch.randint(1, V, (3, length), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_each_step_gives_the_logits_and_the_outputs_of_the_whole_row(steps: list[bool]) -> None:
    made, tokens = model(), rows(CONTEXT)
    whole, hidden = made(tokens), made._hidden(tokens)
    _, state = made.next_logits(tokens[:, :5], 5 * ONE)
    for place in range(5, CONTEXT):
        logits, state = made.next_logits(tokens[:, place : place + 1], ONE, state)
        assert torch.allclose(logits, whole[:, place], atol=1e-4)
        assert torch.allclose(state["outputs"][:, 0], hidden[:, place], atol=1e-4)
        assert state["lengths"].tolist() == [place + 1] * 3
        assert torch.equal(state["tokens"][:, : place + 1], tokens[:, : place + 1])
    assert steps.count(False) == 1  # where the room was full
    assert len(steps) == CONTEXT - 5


@torch.inference_mode()
def test_beyond_the_context_it_goes_on_from_the_last_half(steps: list[bool]) -> None:
    made, tokens = model(), rows(CONTEXT + 30)
    _, state = made.next_logits(tokens[:, :CONTEXT], CONTEXT * ONE)
    for place in range(CONTEXT, CONTEXT + 30):
        logits, state = made.next_logits(tokens[:, place : place + 1], ONE, state)
        begin = CONTEXT + 1 - CONTEXT // 2
        assert torch.allclose(logits, made(tokens[:, begin : place + 1])[:, -1], atol=1e-4)
    assert (len(steps), steps.count(False)) == (30, 2)  # at the context, and where the room of the half was full


@torch.inference_mode()
def test_rows_that_end_at_different_places_go_through_the_modules(steps: list[bool]) -> None:
    made, tokens = model(), rows(8)
    _, state = made.next_logits(tokens[:, :4], torch.tensor([4, 2, 3]))
    made.next_logits(tokens[:, 4:5], ONE, state)
    assert steps == [False]


@torch.inference_mode()
@pytest.mark.parametrize("others", [{"positions": "rotary"}, {"positions": "none"}, {"n_expert": 3}])
def test_other_architectures_go_through_their_modules(others: dict[str, Any], steps: list[bool]) -> None:
    made, tokens = model(**others), rows(8)
    _, state = made.next_logits(tokens[:, :4], 4 * ONE)
    made.next_logits(tokens[:, 4:5], ONE, state)
    assert not steps


@torch.inference_mode()
def test_new_weights_are_seen_by_the_next_text() -> None:
    made, other, tokens = model(), model(), rows(8)
    for parameter in other.parameters():
        parameter.mul_(1.1)
    for weights in (made.state_dict(), other.state_dict()):
        made.load_weights(weights)
        _, state = made.next_logits(tokens[:, :4], 4 * ONE)
        logits, _ = made.next_logits(tokens[:, 4:5], ONE, state)
        assert torch.allclose(logits, made(tokens[:, :5])[:, -1], atol=1e-4)


@torch.inference_mode()
def test_what_other_modules_do_is_done_in_a_single_step_too(steps: list[bool]) -> None:
    """Such as those of tensor parallelism, which add up what other processes computed."""
    made, tokens = model(), rows(9)
    for block in made.blocks:
        block.attention.output = torch.nn.Sequential(block.attention.output, torch.nn.Tanh())  # type: ignore[union-attr]  # modules have any attribute
    _, state = made.next_logits(tokens[:, :8], 8 * ONE)
    logits, _ = made.next_logits(tokens[:, 8:], ONE, state)
    assert torch.allclose(logits, made(tokens)[:, 8], atol=1e-4)
    assert not steps
