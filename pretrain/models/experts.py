"""A mixture of experts: feed-forward layers of which each token passes a few (https://arxiv.org/abs/2101.03961).

Shapes: B rows, T positions, C width, F hidden width, E experts, K active for a token, N = B T tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BALANCE = 0.01  # weight of the balance loss, Switch Transformer's


class Experts(nn.Module):
    """The K experts whose scores are highest, weighted by the softmax over those K as in Mixtral (2401.04088).

    No token is dropped. In training `balance` holds how unevenly the last tokens were spread, which balanced() makes
    the gradient work against.

    Args:
        n_embd: width of what goes in and out.
        n_hidden: width of the hidden layer of each expert.
        n_expert: experts.
        n_active: of them for each token.
        gated: SwiGLU (https://arxiv.org/abs/2002.05202), else GELU.
    """

    def __init__(self, n_embd: int, n_hidden: int, n_expert: int, n_active: int, *, gated: bool) -> None:
        super().__init__()
        self.n_active = n_active
        self.gated = gated
        self.router = nn.Linear(n_embd, n_expert, bias=False)
        self.input = nn.Parameter(torch.empty(n_expert, n_hidden * (2 if gated else 1), n_embd))
        self.output = nn.Parameter(torch.empty(n_expert, n_embd, n_hidden))
        self.balance: Tensor | None = None
        nn.init.normal_(self.input, std=0.02)
        nn.init.normal_(self.output, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, C)
        n_expert = len(self.input)
        scores = (tokens.float() @ self.router.weight.T.float()).softmax(dim=1)  # (N, E)
        weights, chosen = scores.topk(self.n_active, dim=1)  # (N, K)
        if self.n_active > 1:  # one alone keeps its score, as in Switch, or the loss would not reach the router
            weights = weights / weights.sum(dim=1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)  # (N K,), by expert
        share = torch.bincount(chosen.flatten(), minlength=n_expert)  # (E,)
        if self.training:
            # Switch's: E times the sum of share and mean score, which is 1 where both are even.
            self.balance = n_expert * (share / share.sum() * scores.mean(dim=0)).sum()
        pieces = torch.split(tokens[order // self.n_active], share.tolist())
        found = torch.cat([self._expert(expert, piece) for expert, piece in enumerate(pieces)])  # (N K, C)
        found = found * weights.flatten()[order, None].to(found.dtype)
        return torch.zeros_like(tokens).index_add(0, order // self.n_active, found).view_as(x)

    def _expert(self, expert: int, tokens: Tensor) -> Tensor:
        hidden = tokens @ self.input[expert].T
        if self.gated:
            gate, value = hidden.chunk(2, dim=1)
            return (F.silu(gate) * value) @ self.output[expert].T
        return F.gelu(hidden, approximate="tanh") @ self.output[expert].T


def balanced(nats: Tensor, model: nn.Module) -> Tensor:
    """`nats` (B, T) unchanged, with a gradient that also spreads the tokens evenly over the experts of `model`."""
    parts = [part.balance for part in model.modules() if isinstance(part, Experts) and part.balance is not None]
    if not parts or not model.training:
        return nats
    balance = BALANCE * torch.stack(parts).sum()
    return nats + (balance - balance.detach()).to(nats.dtype)
