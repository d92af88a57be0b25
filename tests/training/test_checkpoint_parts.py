"""Checkpoints in parts: any rank's pieces come from any number of parts, and damage is found as in whole ones."""

import json
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pretrain.errors import CheckpointError
from pretrain.training.checkpoints import Checkpoints, TrainingState, read_checkpoint
from pretrain.training.parallel.pieces import Piece, Share

WEIGHT, NORM = torch.arange(70.0).view(7, 10), torch.arange(5.0)
WEIGHTS = {"layer.weight": WEIGHT, "norm.bias": NORM}
UPDATE = {"mean.layer.weight": -WEIGHT, "mean.norm.bias": -NORM, "steps": torch.tensor(3)}
FILES = [
    *(f"{kind}-{part:05d}-of-00002.safetensors" for kind in ("model", "update") for part in range(2)),
    *(f"pieces-{part:05d}-of-00002.json" for part in range(2)),
]


def rows(part: int, parts: int) -> Share:
    each = -(-len(WEIGHT) // parts)
    span = (min(part * each, len(WEIGHT)), min((part + 1) * each, len(WEIGHT)))
    return Share(part, parts, {"layer.weight": Piece((7, 10), 0, (span,))})


def columns(part: int, parts: int) -> Share:
    """As of a fused layer: a stretch of each half."""
    each = 5 // parts
    spans = tuple((half + part * each, half + (part + 1) * each) for half in (0, 5))
    return Share(part, parts, {"layer.weight": Piece((7, 10), 1, spans)})


def save(run: Path, share: Share, step: int = 10, patience: float = 10.0) -> None:
    checkpoints = Checkpoints(run, keep=2, patience_seconds=patience)
    state = TrainingState("fp32", 1, 1, step=step)
    checkpoints.save(state, share.own(WEIGHTS), share.own(UPDATE), "", run / "tokenizer.json", share=share)
    checkpoints.wait()


def save_all(run: Path, make: Callable[[int, int], Share], parts: int, step: int = 10) -> Path:
    (run / "tokenizer.json").write_text("{}")
    others = [threading.Thread(target=save, args=(run, make(part, parts), step)) for part in range(1, parts)]
    for other in others:
        other.start()
    save(run, make(0, parts), step)
    for other in others:
        other.join()
    return run / "checkpoints" / f"step_{step:08d}"


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("parts", "make"), [(2, rows), (5, rows), (5, columns)])
@pytest.mark.parametrize("readers", [1, 3, 4])
def test_any_number_of_readers_gets_its_pieces(
    readers: int, parts: int, make: Callable[[int, int], Share], tmp_path: Path
) -> None:
    folder = save_all(tmp_path, make, parts)
    found = read_checkpoint(folder)
    assert same(dict(found.weights), WEIGHTS)
    assert same(dict(found.update), UPDATE)
    for reader in range(readers):
        share = rows(reader, readers)
        assert same(share.own(found.update), share.own(UPDATE))
        assert len(share.own(found.weights)["layer.weight"]) == min(7, -(-7 // readers) * (reader + 1)) - min(
            7, -(-7 // readers) * reader
        )


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_part_is_named(name: str, tmp_path: Path) -> None:
    file = save_all(tmp_path, rows, 2) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_part_is_named(name: str, tmp_path: Path) -> None:
    file = save_all(tmp_path, rows, 2) / name
    file.unlink()
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(file.parent)


class _Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch sentinel",)


@pytest.mark.parametrize("name", [*FILES, ".metadata"])
def test_a_pickle_among_the_parts_is_not_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_all(tmp_path, rows, 2)
    (folder / name).write_bytes(pickle.dumps(_Payload()))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checksums"].pop(name, None)  # so that it is not the checksum that refuses it
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if name == ".metadata":
        assert same(dict(read_checkpoint(folder).weights), WEIGHTS)
    else:
        with pytest.raises(CheckpointError):
            dict(read_checkpoint(folder).weights)
    assert not (tmp_path / "sentinel").exists()


def test_a_checkpoint_whose_other_part_never_comes_is_not_there(tmp_path: Path) -> None:
    save_all(tmp_path, rows, 2)
    with pytest.raises(OSError, match="part 1 of the checkpoint"):
        save(tmp_path, rows(0, 2), step=20, patience=0.1)
    newest = Checkpoints(tmp_path).newest(pytest.fail)
    assert newest is not None
    assert newest.state.step == 10
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step_00000010"]


def test_parts_that_a_killed_run_left_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    save(tmp_path, rows(1, 2))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.remove_partial()
    with pytest.raises(OSError, match="part 1"):
        save(tmp_path, rows(0, 2), patience=0.1)


def test_a_failed_run_does_not_wait_long_for_other_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.training.checkpoints.HURRY", 0.1)
    (tmp_path / "tokenizer.json").write_text("{}")
    checkpoints, share = Checkpoints(tmp_path), rows(0, 2)
    state = TrainingState("fp32", 1, 1, step=10)
    checkpoints.save(state, share.own(WEIGHTS), share.own(UPDATE), "", tmp_path / "tokenizer.json", share=share)
    checkpoints.give_up()
    with pytest.raises(OSError, match="part 1"):
        checkpoints.wait()
