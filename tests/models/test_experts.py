"""Experts: each token passes the ones it scores highest, and training spreads tokens over all of them."""

import pytest
import torch

from pretrain.models.experts import Experts, balanced
from pretrain.models.gpt import GPT


@pytest.mark.parametrize("gated", [False, True])
def test_a_token_is_the_weighted_sum_of_its_best_experts(gated: bool) -> None:
    torch.manual_seed(0)
    experts = Experts(8, 12, 4, 2, gated=gated)
    torch.nn.init.normal_(experts.input)
    torch.nn.init.normal_(experts.output)
    x = torch.randn(2, 3, 8)
    found = experts(x)
    scores = (x @ experts.router.weight.T).softmax(dim=2)
    for row in range(2):
        for place in range(3):
            best = scores[row, place].topk(2)
            shares = best.values / best.values.sum()
            expected = sum(
                share * experts._expert(expert, x[row, place][None])[0]
                for share, expert in zip(shares, best.indices.tolist(), strict=True)
            )
            assert torch.allclose(found[row, place], torch.as_tensor(expected), atol=1e-5)


@pytest.mark.parametrize("n_active", [1, 2])
def test_the_loss_reaches_the_router(n_active: int) -> None:
    torch.manual_seed(0)
    experts = Experts(8, 12, 4, n_active, gated=False)
    torch.nn.init.normal_(experts.input)
    torch.nn.init.normal_(experts.output)
    experts(torch.randn(2, 3, 8)).square().sum().backward()
    assert experts.router.weight.grad is not None
    assert experts.router.weight.grad.norm() > 1e-3


def test_training_spreads_tokens_that_began_with_one_expert() -> None:
    torch.manual_seed(0)
    model = GPT(16, context_length=8, n_layer=1, n_head=1, n_embd=16, dropout=0.0, n_expert=4, n_active=1)
    experts = model.blocks[0].feed_forward
    assert isinstance(experts, Experts)
    with torch.no_grad():
        experts.router.weight.zero_()
        experts.router.weight[0] = 0.5
        model.blocks[0].feed_forward_norm.bias.fill_(1.0)  # type: ignore[union-attr, operator]  # a norm has one
    rows = torch.randint(0, 16, (8, 9))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    balances = []
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        model.token_losses(rows[:, :-1], rows[:, 1:])[0].mean().backward()
        optimizer.step()
        assert experts.balance is not None
        balances.append(float(experts.balance.detach()))
    assert balances[0] > 3
    assert sum(balances[-5:]) / 5 < 1.5


def test_the_balance_changes_gradients_and_no_loss() -> None:
    torch.manual_seed(0)
    model = GPT(16, context_length=8, n_layer=1, n_head=1, n_embd=16, dropout=0.0, n_expert=3)
    rows = torch.randint(0, 16, (2, 9))
    model.train()
    nats, _ = model.token_losses(rows[:, :-1], rows[:, 1:])
    plain = torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    assert float(nats.detach().mean()) == pytest.approx(float(plain.detach()), abs=1e-5)
    assert balanced(torch.zeros(2), model).requires_grad
    model.eval()
    assert not balanced(torch.zeros(2), model).requires_grad
