"""Which part of a tensor a rank holds."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Some stretches of a tensor along one dimension, joined.

    Attributes:
        shape: of the whole tensor.
        dim: the dimension.
        spans: [first, last) of each stretch, in the order in which they lie in the piece.
    """

    shape: tuple[int, ...]
    dim: int
    spans: tuple[tuple[int, int], ...]

    def of(self, whole: Tensor) -> Tensor:
        """The piece of a `whole` tensor."""
        return torch.cat([whole.narrow(self.dim, first, last - first) for first, last in self.spans], self.dim)

    def put(self, piece: Tensor, whole: Tensor) -> None:
        """Write the piece where it belongs in `whole`."""
        parts = torch.split(piece, [last - first for first, last in self.spans], self.dim)
        for part, (first, last) in zip(parts, self.spans, strict=True):
            whole.narrow(self.dim, first, last - first).copy_(part)


@dataclass(frozen=True)
class Share:
    """What one rank writes of a checkpoint.

    Attributes:
        part, parts: this one, from 0 on, of how many; part 0 has what all ranks hold as well.
        pieces: of the model's parameters, by name; those that are not here every rank holds whole.
        writes: whether this rank does; False where another one holds the same.
    """

    part: int
    parts: int
    pieces: Mapping[str, Piece]
    writes: bool = True

    def piece(self, name: str, tensor: Tensor) -> Piece | None:
        """The piece that a tensor of the model's or of an optimizer's state is; None: it is whole.

        An optimizer's tensors have the name of a parameter behind that of their kind, and its shape.
        """
        found = self.pieces.get(name) or self.pieces.get(name.partition(".")[2])
        return found if found and tensor.dim() == len(found.shape) else None

    def own(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's pieces of `whole` tensors."""
        return {
            name: piece.of(tensor) if (piece := self.piece(name, tensor)) else tensor for name, tensor in whole.items()
        }
