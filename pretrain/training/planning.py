"""What a training takes, told from shapes before it runs: memory by part, FLOPs, time, tokens, checkpoints.

Shapes: N tokens of a micro-batch, C width, V ids, P parameters, L blocks.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.errors import ConfigError
from pretrain.inspection.parameters import TRAINING, attention_weights_per_token, flops_per_token, saved_per_token
from pretrain.inspection.view import token_tables
from pretrain.models.attending import EXPLICIT_UP_TO
from pretrain.models.language_model import LOGITS_KEPT, LanguageModel, rows_at_once
from pretrain.training.optimizers import Optimizer

FP32 = 4  # bytes of a number

# Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556), the three approaches of table 3: some 20 a parameter.
OPTIMAL_TOKENS_PER_PARAMETER = 20

# What glibc keeps in holes between blocks, and what MKL keeps to pack matrices, measured by scripts/bench_plan.py.
HOLES = 0.24  # of what comes and goes in a step
BUFFERS = 20_000_000  # bytes

Memory = dict[str, dict[str, int]]  # moment to part to bytes
Activations = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class Layout:
    """How ranks share a training; one rank by default.

    Attributes:
        replicas: whole copies of the weights, each of which reads rows of its own.
        shards: ranks that part the weights, gradients and optimizer state of a copy, and read rows of their own.
        tensor: ranks that compute each block together, on the same rows: each has a part of its heads and hidden width,
            and all of what is outside blocks.
        activations: what is computed again in the backward pass: none; selective: all of a block but the results of its
            products; full: blocks, of which only what goes into them is kept.
    """

    replicas: int = 1
    shards: int = 1
    tensor: int = 1
    activations: Activations = "none"

    @property
    def ranks(self) -> int:
        return self.replicas * self.shards * self.tensor

    @property
    def readers(self) -> int:
        """Ranks, or groups of them, that read rows of their own."""
        return self.replicas * self.shards


@dataclass(frozen=True)
class Footprint:
    """What memory follows from.

    Attributes:
        parameters: P.
        head: numbers of the output's matrix, V C.
        vocab_size: V.
        width: of what the output reads, C.
        blocks: L.
        block: parameters of the largest block; of a model without any, all.
        kept: numbers that the layers keep of each token for the backward pass.
        products: those of them, and of what goes into blocks, that are kept where only products are.
        whole: of `kept`, what every rank of a tensor-parallel group holds.
        weights: attention weights that are kept of each token where they are written out, in 16 bits on a CPU.
        widest: the most numbers that a layer makes of a token.
        fused: whether logits are made chunk by chunk (linear_cross_entropy).
        tied: whether the output's matrix is the embedding.
        optimizer: bytes of the optimizer's state.
        scratch: bytes that a step of the optimizer takes for a while.
        averaged: whether gradients are taken at a copy of the weights.
    """

    parameters: int
    head: int
    vocab_size: int
    width: int
    blocks: int
    block: int
    kept: int
    products: int
    whole: int
    weights: int
    widest: int
    fused: bool
    tied: bool
    optimizer: int
    scratch: int
    averaged: bool


def footprint(model: LanguageModel, optimizer: Optimizer, length: int, n_head: int | None) -> Footprint:
    """What memory follows from, of a model and its optimizer, which need no values.

    Args:
        length: tokens of a row.
        n_head: attention heads, where the model has any.

    Raises:
        ConfigError: the model has no parameters that a gradient could change.
    """
    shapes = [parameter.shape for parameter in model.parameters()]
    if not shapes:
        raise ConfigError("a model that counts takes what its n-grams take, which only the text tells; choose another")
    linear = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    output = getattr(model, "output", None)
    tables = token_tables(model)
    head = output.weight if isinstance(output, nn.Linear) else tables[0].weight if tables else None
    blocks = list(getattr(model, "blocks", []))
    norms = [next(part.parameters(recurse=False), None) for name, part in model.named_modules() if "norm" in name]
    whole = sum(part.in_features for name, part in linear if not name.endswith("output"))
    whole += sum(norm.numel() for norm in norms if norm is not None)
    kept = saved_per_token(model, length)
    bytes_of = [tensor.numel() * tensor.element_size() for tensor in optimizer.state().values() if tensor.dim()]
    averaged = optimizer.points() is not None
    total = sum(shape.numel() for shape in shapes)
    return Footprint(
        parameters=total,
        head=head.numel() if head is not None else 0,
        vocab_size=model.vocab_size,
        width=head.shape[1] if head is not None else 0,
        blocks=len(blocks),
        block=max((_count(block) for block in blocks), default=total),
        kept=kept,
        products=sum(part.out_features for name, part in linear if name.startswith("blocks."))
        + sum(part.in_features for name, part in linear if name.endswith("attention.output"))
        + (len(blocks) * head.shape[1] if head is not None else 0),
        whole=min(whole, kept),
        weights=attention_weights_per_token(model, length, n_head) if length <= EXPLICIT_UP_TO else 0,
        widest=max((part.out_features for name, part in linear if name != "output"), default=0),
        fused=type(model).token_losses is not LanguageModel.token_losses,
        tied=not isinstance(output, nn.Linear),
        optimizer=sum(bytes_of),
        scratch=scratch_bytes(optimizer, shapes),
        averaged=averaged,
    )


def memory(
    of: Footprint,
    tokens: int,
    element: int,
    device: str,
    layout: Layout | None = None,
    context: int = 0,
    *,
    accumulates: bool = True,
) -> Memory:
    """Bytes of each part on one rank, at the three moments of a step one of which is its peak.

    They are `loss`: the logits' backward pass, when all activations are there; `backward`: the end of the backward
    pass, when all gradients of the micro-batch are there beside their sum; `update`: the optimizer's step.

    Args:
        tokens: of a micro-batch.
        device: what PyTorch calls its kind: cpu, cuda or mps.
        element: bytes of a number in the products: 4 (fp32), or 2 with weights kept in fp32 beside.
        layout: of the ranks; None: there is one.
        context: bytes that libraries and drivers take.
        accumulates: whether a batch takes several micro-batches, whose gradients are summed.
    """
    layout = layout or Layout()
    own = kept_parameters(of, layout)
    part = own / of.parameters
    # Sharded weights are kept in fp32 alone, and gathered in the type of the products, in which they are copied else.
    copies = (element != FP32 and layout.shards == 1) + of.averaged
    fixed = {
        "weights": FP32 * own + element * own * copies,
        "optimizer": int(of.optimizer * part),
    }
    if device == "cpu":  # checkpoints are written from a copy, which otherwise lies in the machine's memory
        fixed["checkpoint copy"] = int(checkpoint_bytes(of) * part)
    # FSDP gathers a block while the next one computes, and the embedding and the output for all of the pass.
    gathered = element * (2 * of.block // layout.tensor + of.parameters - of.blocks * of.block)
    gathered = gathered if layout.shards > 1 and of.blocks else 0
    each = of.whole + (of.kept - of.whole) // layout.tensor  # numbers of a token
    if device == "cpu" and element != FP32:
        each += of.weights
    last = each // max(1, of.blocks)  # of one block, which is computed again
    recomputed = {"none": each, "selective": of.products // layout.tensor + last, "full": of.blocks * of.width + last}
    kept = tokens * element * min(each, recomputed[layout.activations])
    passing = 2 * tokens * of.widest // layout.tensor * element  # between the matrices of one layer
    lasting = element * of.head * (2 if of.tied else 1)  # the embedding's gradient is made beside the output's
    moments = {
        "loss": {
            "gradients": FP32 * own * accumulates,
            "activations": kept,
            "logits": max(_logits(of, tokens, element, device), element * of.head + passing),
            "gathered weights": gathered,
        },
        "backward": {
            "gradients": (2 * FP32 * own + element * of.block // layout.tensor)
            if layout.shards > 1  # which are summed over the ranks in fp32, a block at a time
            else max(FP32 * own, FP32 * own * accumulates + element * own + lasting),
            "activations": tokens * element * last + passing,
            "logits": 0,
            "gathered weights": gathered,
        },
        "update": {
            "gradients": FP32 * own + int(of.scratch * part),
            "activations": 0,
            "logits": 0,
            "gathered weights": 0,
        },
    }
    found = {}
    for moment, comes in moments.items():
        slack = {"allocator": int(HOLES * sum(comes.values())) + BUFFERS} if device == "cpu" else {}
        found[moment] = fixed | comes | slack | {"context": context}
    return found


def peak(found: Memory) -> tuple[str, int]:
    """The moment when the most is held, and how many bytes that are."""
    totals = {moment: sum(parts.values()) for moment, parts in found.items()}
    moment = max(totals, key=lambda name: totals[name])
    return moment, totals[moment]


def kept_parameters(of: Footprint, layout: Layout) -> int:
    """Parameters whose values, gradients and optimizer state one rank keeps."""
    blocks = of.blocks * of.block
    return -(-(-(-blocks // layout.tensor) + of.parameters - blocks) // layout.shards)


def _logits(of: Footprint, tokens: int, element: int, device: str) -> int:
    """Bytes of logits and of the output's gradients in their backward pass."""
    numbers = tokens * of.vocab_size
    if not of.fused:
        # The logits, their logarithms of probabilities, and the gradients of both.
        return (2 * FP32 + 2 * element if element != FP32 else 3 * FP32) * numbers
    kept = element * numbers if numbers <= LOGITS_KEPT else 0
    copies = element if element != FP32 else 0  # in the type of the products, of what is made in fp32
    chunk = (
        (2 * FP32 + copies) * min(tokens, rows_at_once(device, of.vocab_size)) * of.vocab_size
    )  # logits, and their logarithms of probabilities
    gradients = (FP32 + copies) * of.head + 2 * element * tokens * of.width
    return max(kept + chunk, kept + gradients) if kept else chunk + gradients


def checkpoint_bytes(of: Footprint) -> int:
    """Bytes of one checkpoint's tensors: fp32 weights and the optimizer's state."""
    return FP32 * of.parameters + of.optimizer


def training_flops(model: nn.Module, length: int) -> int:
    """FLOPs of the forward and the backward pass for one token of a row of `length`."""
    return TRAINING * flops_per_token(model, length)["forward"]


def step_seconds(
    of: Footprint, flops: float, speed: float, bandwidth: float, layout: Layout | None = None
) -> tuple[float, float]:
    """Seconds of the products of a step, and of the update that follows, which memory bounds.

    Args:
        flops: of a step, on all ranks together.
        speed: FLOP/s that a rank reaches, its peak times the share of it.
        bandwidth: bytes a second of a rank's memory.
    """
    layout = layout or Layout()
    # The gradients are read; weights and optimizer state are read and written.
    moved = FP32 * of.parameters + 2 * checkpoint_bytes(of)
    return flops / (layout.ranks * speed), moved * kept_parameters(of, layout) / of.parameters / bandwidth


def largest_micro_batch(rows: int, fits: Callable[[int], bool]) -> int | None:
    """The largest divisor of `rows` that fits, or None where not even one row does."""
    divisors = (size for size in range(rows, 0, -1) if not rows % size)
    return next((size for size in divisors if fits(size)), None)


def checkpoints_at_once(keep: int) -> int:
    """Checkpoints on the disk while another is written: the newest ones, the best, and the new one."""
    return keep + 2


def scratch_bytes(optimizer: Optimizer, shapes: Iterable[torch.Size]) -> int:
    """The most bytes that tensors take which come and go in a step of `optimizer`, whose parameters have no values."""
    gradients = [torch.empty(shape, device="meta") for shape in shapes]
    with Passing() as passing:
        optimizer.step(gradients, 0.0)
        optimizer.points()
    return int(passing.most)


class Passing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Counts the bytes of tensors that are made inside, and the most of them that were there at once.

    Attributes:
        now, most: bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.now = self.most = 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        given = {_place(tensor) for tensor in _tensors(args)}
        for tensor in _tensors(found):
            place = _place(tensor)
            if place not in self.known and place not in given:
                storage = tensor.untyped_storage()
                self.known[place] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, place)
        return found

    def _gone(self, place: int) -> None:
        self.now -= self.known.pop(place)


def _place(tensor: Tensor) -> int:
    place: int = tensor.untyped_storage()._cdata
    return place


def _tensors(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    return [tensor for item in found for tensor in _tensors(item)] if isinstance(found, (tuple, list)) else []


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())
