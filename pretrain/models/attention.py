"""One causal attention layer and nothing else: what a Transformer's block adds is to be seen by its absence.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.

Shapes: B rows, T positions, C width, H heads, D = C / H width of a head, V ids, S tokens so far.
"""

from typing import Annotated

from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from pretrain.models.attending import Attend
from pretrain.models.key_value_cache import KeyValueCache, placed, within_context
from pretrain.models.language_model import LanguageModel, Scores, State, linear_cross_entropy, linear_scores


class Attention(LanguageModel):
    """Token and position embeddings, attention, linear to the vocabulary: no residual, no norm, no feed-forward layer.

    Args:
        vocab_size: ids.
        context_length: tokens that it can see, one learned position each.
        n_head: attention heads.
        n_embd: width, a multiple of n_head.
        scaled: whether products of queries and keys are divided by the root of a head's width. Without it the softmax
            is peaked from the beginning, and learns slowly.
    """

    context_length: int

    def __init__(
        self,
        vocab_size: Annotated[int, Ge(1)],
        *,
        context_length: Annotated[int, Ge(1)],
        n_head: Annotated[int, Ge(1)],
        n_embd: Annotated[int, Ge(1), MultipleOf("n_head")],
        scaled: bool,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.n_head = n_head
        self.token_embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(context_length, n_embd)
        self.query_key_value = nn.Linear(n_embd, 3 * n_embd)
        self.attend = Attend(scale=None if scaled else 1.0)
        self.output = nn.Linear(n_embd, vocab_size, bias=False)
        nn.init.normal_(self.output.weight, std=0.02)  # so that an untrained model is near the uniform one

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.output(self._attended(tokens))  # (B, T, V)
        return logits

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, None]:
        return linear_cross_entropy(self._attended(tokens), self.output.weight, targets, z_loss=self.z_loss), None

    def document_losses(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Tensor:
        attended = self._attended(tokens, documents=documents)
        return linear_cross_entropy(attended, self.output.weight, targets, z_loss=self.z_loss)

    def token_scores(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> Scores:
        return linear_scores(self._attended(tokens), self.output.weight, targets)

    def document_scores(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Scores:
        return linear_scores(self._attended(tokens, documents=documents), self.output.weight, targets)

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As LanguageModel.next_logits; the state holds the keys and values, and is used up.

        Where a row outgrows context_length, the last half of it is read again as if the row began there.
        """
        state, tokens, lengths = within_context(state, tokens, lengths, self.context_length)
        cache = KeyValueCache(state, tokens, lengths, 1, self.context_length)
        last = cache.last(self._attended(tokens, cache))  # (B, C)
        return self.output(last), cache.grown()

    def _attended(self, tokens: Tensor, cache: KeyValueCache | None = None, documents: Tensor | None = None) -> Tensor:
        """What each token gathers from those before it, (B, T, C).

        Args:
            cache: what the tokens see besides each other; it grows by them.
            documents: (B, T), which tokens see each other; without a cache only. None: all before them.
        """
        rows, length = tokens.shape
        positions, mask = placed(tokens, self.context_length, cache, documents)  # (1 or B, T)
        x = self.token_embedding(tokens) + self.position_embedding(positions)  # (B, T, C)
        heads = self.query_key_value(x).view(rows, length, 3, self.n_head, x.shape[2] // self.n_head)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if cache is not None:
            key, value = cache.extend(0, key, value)  # (B, H, S, D)
        attended: Tensor = self.attend(query, key, value, mask)
        return attended.transpose(1, 2).flatten(2)
