"""A multi-layer perceptron over the last tokens (Bengio et al. 2003, https://www.jmlr.org/papers/v3/bengio03a.html).

Shapes: B rows, T positions, V ids, K tokens seen, C width of an embedding.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from pretrain.models.language_model import LanguageModel, Scores, State, linear_scores


class MLP(LanguageModel):
    """Embeddings of the last tokens side by side, linear, ReLU or tanh, linear to the vocabulary.

    Unlike the paper's it has no direct connections from the embeddings to the output.

    Args:
        vocab_size: ids.
        context_length: tokens that it sees; with one it can learn what a bigram counts.
        n_embd: width of a token's embedding.
        n_hidden: width of the hidden layer.
        activation: behind the hidden layer: relu, or the paper's tanh.
    """

    context_length: int

    def __init__(
        self,
        vocab_size: Annotated[int, Ge(1)],
        *,
        context_length: Annotated[int, Ge(1)],
        n_embd: Annotated[int, Ge(1)],
        n_hidden: Annotated[int, Ge(1)],
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.activation = {"relu": torch.relu, "tanh": torch.tanh}[activation]
        self.embedding = nn.Embedding(vocab_size + 1, n_embd)  # the last one stands before the row's start
        self.hidden = nn.Linear(context_length * n_embd, n_hidden)
        self.output = nn.Linear(n_hidden, vocab_size)
        nn.init.normal_(self.output.weight, std=0.02)  # so that an untrained model is near the uniform one
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.output(self._hidden(tokens))
        return logits

    def token_scores(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> Scores:
        return linear_scores(self._hidden(tokens), self.output.weight, targets, bias=self.output.bias)

    def _hidden(self, tokens: Tensor) -> Tensor:
        """(B, T, H) of the layer before the output."""
        padded = F.pad(tokens, (self.context_length, 0), value=self.vocab_size)
        windows = padded.unfold(1, self.context_length, 1)[:, 1:]  # (B, T, K); what is before the row alone is no input
        embedded = self.embedding(windows).flatten(2)  # (B, T, K C)
        hidden: Tensor = self.activation(self.hidden(embedded))
        return hidden
