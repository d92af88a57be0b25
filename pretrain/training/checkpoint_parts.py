"""A checkpoint that several ranks write, each its pieces of the tensors, and that any number of them read.

step_00000100/ model-00000-of-00002.safetensors   part 0's pieces of the parameters, and what is whole
               update-00000-of-00002.safetensors  of the update's state, likewise
               pieces-00000-of-00002.json         where its pieces belong, and the checksums of the two files
               ...-00001-of-00002...              part 1's
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pretrain.data.manifests import checksum
from pretrain.training.parallel.pieces import Piece, Share

PIECES = "pieces"
POLL = 0.05  # seconds between two looks whether the other parts are there
KINDS = ("model", "update")


def write_part(folder: Path, share: Share, weights: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> None:
    """Write a rank's part; its list of pieces comes last, so that the part is whole when that is there."""
    content: dict[str, Any] = {"checksums": {}}
    for kind, tensors in zip(KINDS, (weights, update), strict=True):
        own = {name: tensor for name, tensor in tensors.items() if share.part == 0 or share.piece(name, tensor)}
        file = folder / f"{_name(kind, share.part, share.parts)}.safetensors"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in own.items()}, file)
        pieces = {name: piece for name, tensor in own.items() if (piece := share.piece(name, tensor))}
        content[kind] = {name: [piece.shape, piece.dim, piece.spans] for name, piece in pieces.items()}
        content["checksums"][file.name] = checksum(file)
    final = folder / f"{_name(PIECES, share.part, share.parts)}.json"
    temporary = final.with_suffix(".tmp")
    temporary.write_text(json.dumps(content), "utf-8")
    temporary.rename(final)


def wait_for_parts(folder: Path, parts: int, patience: Callable[[], float]) -> None:
    """Until all parts are there.

    Args:
        patience: seconds that are still to be waited.
    Raises:
        OSError: one did not come.
    """
    for part in range(parts):
        file = folder / f"{_name(PIECES, part, parts)}.json"
        while not file.is_file():
            if patience() <= 0:
                raise OSError(f"part {part} of the checkpoint {folder} was not written in time")
            time.sleep(POLL)


def checksums_of_parts(folder: Path) -> dict[str, str]:
    """The checksums of all parts' tensors, as those who wrote them found them."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob(f"{PIECES}-*.json")):
        found |= json.loads(file.read_text("utf-8"))["checksums"]
    return found


class Parts(Mapping[str, Tensor]):
    """The whole tensors of a checkpoint in parts; each is read when it is asked for, so that few are held at once.

    Args:
        folder: of the checkpoint.
        kind: model or update.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._places: dict[str, list[tuple[Path, Piece | None]]] = {}
        for listed in sorted(folder.glob(f"{PIECES}-*.json")):
            pieces = json.loads(listed.read_text("utf-8"))[kind]
            file = folder / f"{listed.stem.replace(PIECES, kind, 1)}.safetensors"
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  it is no mapping
                    piece = _piece(*pieces[name]) if name in pieces else None
                    self._places.setdefault(name, []).append((file, piece))

    def __getitem__(self, name: str) -> Tensor:
        whole: Tensor | None = None
        for file, piece in self._places[name]:
            with safe_open(file, "pt") as tensors:
                tensor: Tensor = tensors.get_tensor(name)
            if piece is None:
                return tensor
            whole = torch.empty(piece.shape, dtype=tensor.dtype) if whole is None else whole
            piece.put(tensor, whole)
        assert whole is not None, "a name has a place"
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _name(kind: str, part: int, parts: int) -> str:
    return f"{kind}-{part:05d}-of-{parts:05d}"


def _piece(shape: list[int], dim: int, spans: list[list[int]]) -> Piece:
    return Piece(tuple(shape), dim, tuple((first, last) for first, last in spans))
