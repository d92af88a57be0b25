"""The one interface of all models: tokens in, logits or nats out.

Shapes: B rows, T positions, V ids of the vocabulary, C width.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -1  # a target that is not scored

# Logits that exist at once in linear_cross_entropy: what fits a CPU's cache, or 1 GB of a GPU in fp32.
LOGITS_AT_ONCE = {"cpu": 2**20, "cuda": 2**28}
# But those of so many tokens, for each chunk reads all of the head's weights.
ROWS_AT_LEAST = 128
# Up to so many are kept for the backward pass, chunk by chunk, instead of made again.
LOGITS_KEPT = 2**24
# Logits that exist at once where a model has no shorter way to its scores than forward.
SCORED_AT_ONCE = 2**22

State = dict[str, Tensor]  # batch-first tensors, so that a caller can select and repeat rows


class Scores(NamedTuple):
    """What a model makes of each target, (B, T) each, all 0 where the target is IGNORED.

    Attributes:
        nats: as of token_losses.
        higher: int32, how many ids are more probable than the target.
        equal: int32, how many are as probable, itself included: those share the places behind the higher ones.
        state: carried on, as by token_losses.
    """

    nats: Tensor
    higher: Tensor
    equal: Tensor
    state: State | None = None


class LanguageModel(nn.Module):
    """A distribution over the next token, for every position of a row.

    Attributes:
        vocab_size: ids that the tokenizer knows; padding for speed is never counted, sampled or saved.
        context_length: how many tokens before the target the model can see; None is without bound.
        whole_documents: whether it knows nothing of a row that begins inside a document, so that an evaluation must
            read the stream from its beginning.
        z_loss: weight of the squared logarithm of each target's normaliser Z, which keeps logits near 0 (PaLM,
            https://arxiv.org/abs/2204.02311, section 5). It is in the gradient of the losses, not in their value.
    """

    vocab_size: int
    context_length: int | None
    whole_documents: bool = False
    z_loss: float = 0.0

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T)."""
        raise NotImplementedError

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Cross-entropy of each target in nats (B, T), 0 where the target is IGNORED, and the state carried on.

        Args:
            tokens: (B, T) int64 token ids.
            targets: (B, T) int64 ids of the tokens that come next.
            state: what the last call returned, for models that carry a state from row to row.
        """
        logits = self(tokens).flatten(0, 1).float()  # (B*T, V)
        nats = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none")
        if self.z_loss:
            penalty = self.z_loss * logits.logsumexp(1).square().masked_fill(targets.flatten() == IGNORED, 0.0)
            nats = nats + penalty - penalty.detach()
        return nats.view_as(targets), None

    def document_losses(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Tensor:
        """As the nats (B, T) of token_losses, where no document of a row sees another and each starts at position 0.

        Here every document's part of a row is computed as a row of its own. A model that can mask its attention
        overrides this, and saves the padding of the short ones.

        Args:
            documents: (B, T) int64, as documents_in gives them.
        """
        places, parts, wanted = _apart(tokens, targets, documents)
        nats, _ = self.token_losses(parts, wanted)
        return nats[places].view_as(targets)

    def token_scores(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> Scores:
        """Nats and ranks of each target: what an evaluation asks for, without a gradient.

        A model that makes its logits chunk by chunk overrides this, so that each chunk tells both.

        Args:
            tokens, targets, state: as of token_losses.
        """
        nats, state = self.token_losses(tokens, targets, state)
        rows = max(1, SCORED_AT_ONCE // max(1, tokens.shape[1] * self.vocab_size))
        pairs = zip(torch.split(tokens, rows), torch.split(targets, rows), strict=True)
        ranks = [_ranks(self(some).flatten(0, 1), wanted.flatten()) for some, wanted in pairs]
        higher, equal = (torch.cat(part).view_as(targets) for part in zip(*ranks, strict=True))
        return Scores(nats, higher, equal, state)

    def document_scores(self, tokens: Tensor, targets: Tensor, documents: Tensor) -> Scores:
        """As token_scores, where no document of a row sees another: see document_losses."""
        places, parts, wanted = _apart(tokens, targets, documents)
        found = self.token_scores(parts, wanted)
        nats, higher, equal = (part[places].view_as(targets) for part in (found.nats, found.higher, found.equal))
        return Scores(nats, higher, equal)

    def next_logits(self, tokens: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits (B, V) of the token after each row, and the state that knows all tokens so far.

        Args:
            tokens: (B, T) int64, the tokens since the last call, each row padded on the right.
            lengths: (B,) int64, how many of them are real, at least one a row.
            state: what the last call returned.
        """
        if state is not None:
            tokens, lengths = _appended(state["tokens"], state["lengths"], tokens, lengths)
        if self.context_length is not None:
            tokens, lengths = _last(tokens, lengths, max(1, self.context_length))
        rows = torch.arange(len(tokens), device=tokens.device)
        return self(tokens)[rows, lengths - 1], {"tokens": tokens, "lengths": lengths}

    def parameter_count(self) -> int:
        """Elements of all parameters, a shared one counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over `weights`, whose names and shapes must be this model's."""
        self.load_state_dict(dict(weights))


def documents_in(tokens: Tensor, end_of_text: int) -> Tensor:
    """(B, T) int64: which document of its row each of `tokens` (B, T) belongs to, ascending; an EOT begins one."""
    return (tokens == end_of_text).cumsum(1)


def positions_in(documents: Tensor) -> Tensor:
    """(B, T) int64: the position of each token in its document's part of the row, from `documents` (B, T)."""
    places = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return places - torch.where(begins, places, 0).cummax(1).values


def _apart(tokens: Tensor, targets: Tensor, documents: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Every document's part of a row as a row: where each token went, 2 x (B*T,), and tokens and targets (P, L)."""
    positions = positions_in(documents).flatten()  # (B*T,)
    part = (positions == 0).cumsum(0) - 1  # (B*T,) from 0 to P - 1
    shape = (int(part[-1]) + 1, int(positions.max()) + 1)  # (P, L)
    parts = tokens.new_zeros(shape).index_put((part, positions), tokens.flatten())
    wanted = targets.new_full(shape, IGNORED).index_put((part, positions), targets.flatten())
    return (part, positions), parts, wanted


def _appended(tokens: Tensor, lengths: Tensor, new: Tensor, new_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `tokens` (B, S) with those of `new` (B, T) put behind each row's own end."""
    joined = torch.cat([tokens, new.new_zeros(new.shape)], dim=1)
    places = lengths[:, None] + torch.arange(new.shape[1], device=new.device)  # (B, T)
    return joined.scatter(1, places, new), lengths + new_lengths


def _last(tokens: Tensor, lengths: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The last `most` real tokens of each row, padded on the right to the longest."""
    kept = lengths.clamp(max=most)
    places = (lengths - kept)[:, None] + torch.arange(int(kept.max()), device=tokens.device)  # (B, S)
    return tokens.gather(1, places.clamp(max=tokens.shape[1] - 1)), kept


def capped(logits: Tensor, soft_cap: float | None) -> Tensor:
    """Logits of any shape pressed into (-soft_cap, soft_cap) by tanh, as in Gemma 2 (https://arxiv.org/abs/2408.00118).

    Args:
        soft_cap: None leaves them as they are.
    """
    return logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, soft_cap: float | None = None, z_loss: float = 0.0
) -> Tensor:
    """Cross-entropy of `targets` (B, T) in nats under the logits hidden @ weight.T, 0 where a target is IGNORED.

    The logits are made chunk by chunk. Where there are many, they are made again in the backward pass, so that (B, T,
    V) never exists; where there are few, keeping them is faster.

    Args:
        hidden: (B, T, C).
        weight: (V, C).
        soft_cap: the logits are capped().
        z_loss: as of LanguageModel.
    """
    nats: Tensor = _LinearCrossEntropy.apply(hidden.flatten(0, 1), weight, targets.flatten(), soft_cap, z_loss)  # type: ignore[no-untyped-call]  # torch's own is untyped
    return nats.view(targets.shape)


def linear_scores(
    hidden: Tensor, weight: Tensor, targets: Tensor, soft_cap: float | None = None, bias: Tensor | None = None
) -> Scores:
    """As linear_cross_entropy, with the ranks of the targets from the same logits; an IGNORED target costs nothing.

    Args:
        bias: (V,), added to the logits.
    """
    scored = (targets.flatten() != IGNORED).nonzero()[:, 0]  # (S,)
    wanted, rows = targets.flatten()[scored], rows_at_once(weight.device.type, len(weight))
    exact = torch.promote_types(hidden.dtype, torch.float32)
    nats = hidden.new_zeros(targets.numel(), dtype=exact)
    higher, equal = (hidden.new_zeros(targets.numel(), dtype=torch.int32) for _ in range(2))
    for chunk, target, places in zip(
        *(torch.split(part, rows) for part in (hidden.flatten(0, 1)[scored], wanted, scored)), strict=True
    ):
        logits = capped(F.linear(chunk, weight, bias).to(exact), soft_cap)  # (rows, V)
        nats[places] = logits.log_softmax(1).gather(1, target[:, None])[:, 0].neg()
        # The sign of what is above the target's is 1 where it is higher, 0 where equal: on a CPU a third of the time of
        # two comparisons.
        signs = logits.sub_(logits.gather(1, target[:, None])).sign_()
        balance, different = signs.sum(1), signs.abs_().sum(1)
        higher[places], equal[places] = ((balance + different) / 2).int(), (len(weight) - different).int()
    return Scores(nats.view(targets.shape), higher.view(targets.shape), equal.view(targets.shape))


def _ranks(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (R, V): how many are higher than that of the target (R,), and how many equal it; 0 where IGNORED."""
    own = logits.gather(1, targets.clamp(min=0)[:, None])
    counts = ((logits > own).sum(1, dtype=torch.int32), (logits == own).sum(1, dtype=torch.int32))
    higher, equal = (count.masked_fill(targets == IGNORED, 0) for count in counts)
    return higher, equal


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, hidden: Tensor, weight: Tensor, targets: Tensor, soft_cap: float | None, z_loss: float
    ) -> Tensor:
        rows = rows_at_once(weight.device.type, len(weight))
        real = targets.clamp(min=0)[:, None]
        nats, kept = [], []
        keep = any(context.needs_input_grad) and targets.numel() * len(weight) <= LOGITS_KEPT
        for chunk, target in zip(torch.split(hidden, rows), torch.split(real, rows), strict=True):
            log_probs, logits = _log_probs(chunk, weight, soft_cap)
            nats.append(log_probs.gather(1, target)[:, 0].neg())
            if keep:
                kept.append(_of_logits(log_probs, logits, target, soft_cap, z_loss).to(hidden.dtype))
        context.save_for_backward(hidden, weight, targets, *kept)
        context.soft_cap, context.z_loss = soft_cap, z_loss
        return torch.cat(nats).masked_fill_(targets == IGNORED, 0.0)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, targets, *kept = context.saved_tensors
        rows = rows_at_once(weight.device.type, len(weight))
        # What a row's nats weigh is put on the narrow factor of each product, not on the logits.
        weights = gradients[0].masked_fill(targets == IGNORED, 0.0)[:, None]  # (B*T, 1)
        weighed = (hidden * weights).to(hidden.dtype)
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, len(hidden), rows):
            here = slice(start, start + rows)
            if kept:
                of_logits = kept[start // rows]
            else:
                target = targets[here, None].clamp(min=0)
                probs = _log_probs(hidden[here], weight, context.soft_cap)
                of_logits = _of_logits(*probs, target, context.soft_cap, context.z_loss).to(hidden.dtype)
            torch.mm(of_logits, weight, out=of_hidden[here])
            if hidden.dtype == torch.float32:
                of_weight.addmm_(of_logits.T, weighed[here])
            else:
                of_weight += of_logits.T @ weighed[here]
        return of_hidden.mul_(weights), of_weight.to(weight.dtype), None, None, None


def _log_probs(hidden: Tensor, weight: Tensor, soft_cap: float | None) -> tuple[Tensor, Tensor]:
    """Of `hidden` (R, C): the logarithms (R, V) of the probabilities in fp32, and the logits that they come from."""
    logits = capped((hidden @ weight.T).float(), soft_cap)
    return logits.log_softmax(1), logits


def _of_logits(log_probs: Tensor, logits: Tensor, targets: Tensor, soft_cap: float | None, z_loss: float) -> Tensor:
    """The gradient (R, V) of the nats of `targets` (R, 1) by the products that were capped; log_probs are used up."""
    # d nats / d logits = softmax - one-hot, d log^2 Z / d logits = 2 log Z softmax, and
    # d cap tanh(x / cap) / d x = 1 - tanh(x / cap)^2
    log_z = logits.gather(1, targets) - log_probs.gather(1, targets) if z_loss else None  # (R, 1)
    of_logits = log_probs.exp_() if log_z is None else log_probs.exp_().mul_(1 + 2 * z_loss * log_z)
    of_logits.scatter_add_(1, targets, torch.full_like(targets, -1.0, dtype=log_probs.dtype))
    return of_logits if soft_cap is None else of_logits.mul_(1 - (logits / soft_cap).square_())


def rows_at_once(device: str, vocab_size: int) -> int:
    """Tokens of which the logits exist at once in linear_cross_entropy, on a `device` of this type."""
    return max(ROWS_AT_LEAST, LOGITS_AT_ONCE.get(device, 2**24) // vocab_size)
