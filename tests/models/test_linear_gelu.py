"""GELU behind a linear layer in one kernel."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretrain.models.linear_gelu import _one_kernel, linear_gelu


def test_one_kernel_gives_what_two_give_and_only_where_no_gradient_is_wanted() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 40), torch.randn(2, 3, 24) * 3
    exact = F.gelu(linear(x), approximate="tanh")
    halved, short = linear.to(torch.bfloat16), x.to(torch.bfloat16)
    assert not _one_kernel(halved, short)
    linear_gelu(halved, short).sum().backward()
    assert halved.weight.grad is not None
    with torch.no_grad():
        if not _one_kernel(halved, short):
            pytest.skip("oneDNN has no bf16 on this CPU")
        torch.testing.assert_close(linear_gelu(halved, short).float(), exact, atol=0.03, rtol=0.02)
