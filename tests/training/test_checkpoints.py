"""Checkpoints: whole or not there; damage is named, and an older one takes over."""

import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pretrain.errors import CheckpointError, UsageError
from pretrain.training.checkpoints import Checkpoints, TrainingState, read_checkpoint

FILES = ["model.safetensors", "update.safetensors", "state.json", "config.yaml", "tokenizer.json", "manifest.json"]


def save(checkpoints: Checkpoints, step: int, loss: float | None = None) -> None:
    tokenizer = checkpoints.run / "tokenizer.json"
    tokenizer.write_text('{"tokens": "' + "x" * 50 + '"}', "utf-8")
    state = TrainingState("fp32", 1, 2, step=step, validation_loss=loss)
    checkpoints.save(state, {"w": torch.full((3, 4), float(step))}, {"m": torch.ones(2)}, "seed: 1\n" * 10, tokenizer)
    checkpoints.wait()


@pytest.fixture
def two(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 10)
    save(checkpoints, 20)
    return checkpoints


def test_what_is_saved_is_read_back(two: Checkpoints) -> None:
    newest = two.newest(pytest.fail)
    assert newest is not None
    assert newest.state == TrainingState("fp32", 1, 2, step=20)
    assert torch.equal(newest.weights["w"], torch.full((3, 4), 20.0))
    assert torch.equal(newest.update["m"], torch.ones(2))
    assert sorted(file.name for file in newest.folder.iterdir()) == sorted(FILES)
    assert (two.run / "latest").read_text() == "step_00000020\n"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.5, 0.999])
def test_one_flipped_bit_names_the_file_and_the_older_checkpoint_is_used(
    name: str, where: float, two: Checkpoints
) -> None:
    file = two.folder / "step_00000020" / name
    content = bytearray(file.read_bytes())
    content[int(len(content) * where)] ^= 1
    file.write_bytes(content)
    said: list[str] = []
    newest = two.newest(said.append)
    assert newest is not None
    assert newest.state.step == 10
    assert "step_00000020" in said[0]
    assert name in said[0] or name == "manifest.json"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, 40])
def test_a_cut_file_is_damage_too(name: str, keep: int, two: Checkpoints) -> None:
    for step in (10, 20):
        file = two.folder / f"step_{step:08d}" / name
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(CheckpointError, match=r"damaged|format|read"):
            read_checkpoint(file.parent)
    with pytest.raises(CheckpointError, match="step_00000020"):
        two.newest(lambda line: None)


def test_a_missing_file_is_named(two: Checkpoints) -> None:
    (two.folder / "step_00000020" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_checkpoint(two.folder / "step_00000020")


class _Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch sentinel",)


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_is_refused_and_nothing_in_it_runs(
    name: str, two: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (two.folder / "step_00000020" / name).write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(CheckpointError):
        read_checkpoint(two.folder / "step_00000020")
    assert not (tmp_path / "sentinel").exists()


def test_a_newer_format_is_named(two: Checkpoints) -> None:
    manifest = two.folder / "step_00000020" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(CheckpointError, match="format 99"):
        read_checkpoint(two.folder / "step_00000020")


@pytest.mark.parametrize("operation", ["fsync", "rename", "write"])
def test_a_save_that_fails_at_any_operation_leaves_the_older_checkpoint_in_place(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(number: int) -> Callable[..., object]:
        target = {"fsync": os.fsync, "rename": Path.rename, "write": Path.write_text}[operation]
        calls = 0

        def call(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number:
                raise OSError(28, "No space left on device", "x")
            return target(*arguments, **named)  # type: ignore[operator]  # one of three

        return call

    places = {"fsync": (os, "fsync"), "rename": (Path, "rename"), "write": (Path, "write_text")}
    failed = 0
    for number in range(1, 20):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run").mkdir()
        checkpoints = Checkpoints(tmp_path / "run", keep=2)
        save(checkpoints, 10)
        with monkeypatch.context() as patched:
            patched.setattr(*places[operation], failing(number))
            try:
                save(checkpoints, 20)
            except OSError:
                failed += 1
        newest = checkpoints.newest(pytest.fail)
        assert newest is not None
        assert newest.state.step in (10, 20)
        save(checkpoints, 30)
        assert sorted(folder.name for folder in checkpoints.folder.iterdir())[-1] == "step_00000030"
        assert not list(checkpoints.folder.glob(".*"))
    assert failed > 0


def test_the_newest_ones_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 2.5)):
        save(checkpoints, step, loss)
    assert [folder.name[-1] for folder in sorted(checkpoints.folder.iterdir())] == ["2", "4", "5"]
    assert checkpoints.find("best").name.endswith("2")
    assert checkpoints.find("latest").name.endswith("5")
    assert checkpoints.find(4).name.endswith("4")
    with pytest.raises(UsageError, match="step=3; it has 2, 4, 5, latest and best"):
        checkpoints.find(3)


def test_checkpoints_at_a_multiple_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1, keep_every=3)
    for step in range(1, 9):
        save(checkpoints, step, float(step))  # the first is the best
    assert [folder.name[-1] for folder in sorted(checkpoints.folder.iterdir())] == ["1", "3", "6", "8"]


@pytest.fixture
def slow_writer(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Tensors are written only when the event is set."""
    allowed = threading.Event()

    def waiting(tensors: dict[str, torch.Tensor], path: Path) -> None:
        assert allowed.wait(60)
        safetensors.torch.save_file(tensors, path)

    monkeypatch.setattr("pretrain.training.checkpoints.save_file", waiting)
    return allowed


def test_training_goes_on_while_a_checkpoint_of_what_was_is_written(
    tmp_path: Path, slow_writer: threading.Event
) -> None:
    checkpoints, weight = Checkpoints(tmp_path), torch.ones(3)
    (tmp_path / "tokenizer.json").write_text("{}")
    checkpoints.save(TrainingState("fp32", 1, 1, step=1), {"w": weight}, {}, "", tmp_path / "tokenizer.json")
    weight += 1
    assert not list(tmp_path.glob("checkpoints/step_*"))
    slow_writer.set()
    checkpoints.wait()
    newest = checkpoints.newest(pytest.fail)
    assert newest is not None
    assert torch.equal(newest.weights["w"], torch.ones(3))


def test_the_last_durable_checkpoint_stays_while_the_next_is_written(
    tmp_path: Path, slow_writer: threading.Event
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    first, second = (TrainingState("fp32", 1, 1, step=step, validation_loss=3.0 - step) for step in (1, 2))
    (tmp_path / "tokenizer.json").write_text("{}")
    slow_writer.set()
    checkpoints.save(first, {"w": torch.ones(3)}, {}, "", tmp_path / "tokenizer.json")
    checkpoints.wait()
    slow_writer.clear()
    checkpoints.save(second, {"w": torch.ones(3)}, {}, "", tmp_path / "tokenizer.json")
    assert [folder.name for folder in tmp_path.glob("checkpoints/step_*")] == ["step_00000001"]
    slow_writer.set()
    checkpoints.wait()
    assert [folder.name for folder in tmp_path.glob("checkpoints/step_*")] == ["step_00000002"]


def test_a_checkpoint_that_could_not_be_written_is_told_at_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("pretrain.training.checkpoints.save_file", full)
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    state = TrainingState("fp32", 1, 1, step=1)
    checkpoints.save(state, {"w": torch.ones(3)}, {}, "", tmp_path / "tokenizer.json")
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(state, {"w": torch.ones(3)}, {}, "", tmp_path / "tokenizer.json")
    assert not list(checkpoints.folder.iterdir())


def test_the_last_checkpoint_needs_no_copy_of_the_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_foreach_copy_", pytest.fail)
    (tmp_path / "tokenizer.json").write_text("{}")
    checkpoints = Checkpoints(tmp_path)
    state = TrainingState("fp32", 1, 1, step=1)
    checkpoints.save(state, {"w": torch.ones(3)}, {}, "", tmp_path / "tokenizer.json", last=True)
    assert checkpoints.find("latest").name == "step_00000001"


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).newest(pytest.fail) is None
    with pytest.raises(UsageError, match="no checkpoint yet"):
        Checkpoints(tmp_path).find("latest")
