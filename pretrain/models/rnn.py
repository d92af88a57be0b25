"""Recurrent networks: Elman's (1990), the GRU (Cho et al. 2014) and the LSTM (Hochreiter & Schmidhuber 1997).

https://doi.org/10.1207/s15516709cog1402_1, https://arxiv.org/abs/1406.1078, https://doi.org/10.1162/neco.1997.9.8.1735

Shapes: B rows, T positions, V ids, L layers, E width of an embedding, H width of a layer.
"""

import math
from typing import Annotated, Literal

from annotated_types import Ge, Interval
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pretrain.models.dropout import Dropout
from pretrain.models.language_model import LanguageModel, Scores, State, linear_cross_entropy, linear_scores

CELLS: dict[str, type[nn.RNN | nn.GRU | nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
STATES = {"rnn": ("hidden",), "gru": ("hidden",), "lstm": ("hidden", "cell")}


class RNN(LanguageModel):
    """Embeddings, layers that each hand a state from token to token, and a linear map to the vocabulary.

    Each layer is torch's own, which is cuDNN's on a GPU; on a CPU, cells with a backward pass of our own were hardly
    faster, unless rows were few and long. An EOT does not reset the state, as in the literature on streams of text
    (Zaremba et al. 2014): the network reads it, and learns to forget. Where no document shall see another, there is
    `trainer.packing=documents`, which carries nothing.

    Args:
        vocab_size: ids.
        cell: rnn: Elman's, with tanh; gru; lstm.
        n_layer: layers on top of each other.
        n_embd: width of a token's embedding.
        n_hidden: width of a layer.
        dropout: share of activations dropped in training, before, between and behind the layers, never from token to
            token (Zaremba et al. 2014, https://arxiv.org/abs/1409.2329).
        tied: whether the output shares the embedding's weights, behind a linear map from a layer's width to theirs
            (Press & Wolf 2017, https://arxiv.org/abs/1608.05859).
    """

    context_length = None

    def __init__(
        self,
        vocab_size: Annotated[int, Ge(1)],
        *,
        cell: Literal["rnn", "gru", "lstm"],
        n_layer: Annotated[int, Ge(1)],
        n_embd: Annotated[int, Ge(1)],
        n_hidden: Annotated[int, Ge(1)],
        dropout: Annotated[float, Interval(ge=0, lt=1)],
        tied: bool,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.states = STATES[cell]
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.recurrence = CELLS[cell](
            n_embd, n_hidden, n_layer, batch_first=True, dropout=dropout if n_layer > 1 else 0.0
        )
        self.dropout = Dropout(dropout)
        self.projection = nn.Linear(n_hidden, n_embd, bias=False) if tied else None
        self.output = None if tied else nn.Linear(n_hidden, vocab_size, bias=False)
        # Shared weights begin small, so that an untrained model is near the uniform one. What the layers read begins at
        # about 1 all the same (Vaswani et al. 2017, 3.4, https://arxiv.org/abs/1706.03762), or they learn late.
        self.scale = math.sqrt(n_embd) if tied else 1.0
        nn.init.normal_(self.embedding.weight, std=1 / self.scale)
        if self.output is not None:
            nn.init.normal_(self.output.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return self._hidden(tokens, None)[0] @ self._weight.T  # (B, T, V)

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As LanguageModel.token_losses; the state is each layer's after the last token of each row, (B, L, H).

        No gradient flows into the state that is given: backpropagation is truncated to the row (Williams & Peng 1990).
        """
        hidden, state = self._hidden(tokens, state)
        return linear_cross_entropy(hidden, self._weight, targets, z_loss=self.z_loss), state

    def token_scores(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> Scores:
        hidden, state = self._hidden(tokens, state)
        return linear_scores(hidden, self._weight, targets)._replace(state=state)

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        embedded = self._embedded(tokens)  # (B, T, E)
        rows: Tensor | PackedSequence = embedded
        if not bool((lengths == tokens.shape[1]).all()):
            rows = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, last = self.recurrence(rows, self._layers_first(state or self._start(len(tokens))))
        state = self._rows_first(last)
        if isinstance(output, PackedSequence):
            output = pad_packed_sequence(output, batch_first=True)[0]
        # The last layer's state is its output behind each row's last real token.
        logits = self._narrowed(state["hidden"][:, -1]) @ self._weight.T
        return logits, state | {"outputs": output}  # (B, T, H), for who compares the outputs of the new tokens

    @property
    def _weight(self) -> Tensor:
        """The output's (V, E or H)."""
        return self.embedding.weight if self.output is None else self.output.weight

    def _hidden(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        """What the output reads at each token (B, T, E or H), and the state behind the last one."""
        state = {name: tensor.detach() for name, tensor in (state or self._start(len(tokens))).items()}
        embedded = self._embedded(tokens)
        if not tokens.shape[1]:  # which torch's layers refuse
            return self._narrowed(embedded.new_zeros(*tokens.shape, self.recurrence.hidden_size)), state
        output, last = self.recurrence(embedded, self._layers_first(state))  # (B, T, H)
        return self._narrowed(output), self._rows_first(last)

    def _embedded(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.embedding(tokens) * self.scale)
        return embedded

    def _narrowed(self, output: Tensor) -> Tensor:
        """The last layer's output (..., H), and where weights are shared a linear map of it to their width (..., E)."""
        dropped: Tensor = self.dropout(output)
        return dropped if self.projection is None else self.projection(dropped)

    def _start(self, rows: int) -> State:
        """The state before the first token: zeros."""
        shape = (rows, self.recurrence.num_layers, self.recurrence.hidden_size)
        return {name: self.embedding.weight.new_zeros(shape) for name in self.states}

    def _layers_first(self, state: State) -> Tensor | tuple[Tensor, ...]:
        """The state as torch's layers want it: (L, B, H), and for an LSTM two of them."""
        tensors = tuple(state[name].transpose(0, 1).contiguous() for name in self.states)
        return tensors if len(tensors) > 1 else tensors[0]

    def _rows_first(self, last: Tensor | tuple[Tensor, ...]) -> State:
        tensors = (last,) if isinstance(last, Tensor) else last
        return {name: tensor.transpose(0, 1) for name, tensor in zip(self.states, tensors, strict=True)}
