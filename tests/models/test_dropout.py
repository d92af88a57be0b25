"""Dropout."""

import torch

from pretrain.models.dropout import Dropout


def test_dropout_takes_its_share_and_keeps_the_mean_and_the_gradient_has_the_same_gaps() -> None:
    torch.manual_seed(0)
    x = torch.ones(101, 999, requires_grad=True)
    dropped = Dropout(0.2)(x)
    assert abs(float((dropped == 0).float().mean()) - 0.2) < 0.005
    assert set(dropped.unique().tolist()) == {0.0, dropped.max().item()}
    assert abs(float(dropped.mean()) - 1) < 0.01
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())  # type: ignore[arg-type]  # it was made
    neighbours = (dropped[:, 1:] == 0) & (dropped[:, :-1] == 0)
    assert abs(float(neighbours.float().mean()) - 0.04) < 0.003  # elements of one draw are independent


def test_dropout_follows_the_seed_and_rests_outside_training() -> None:
    drop, x = Dropout(0.5), torch.randn(3, 7)
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(drop(x))
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
