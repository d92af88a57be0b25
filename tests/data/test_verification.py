"""A start reads only files that are new; what has rotted since is found beside the training, which it ends."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain.data import verification as module
from pretrain.data.shards import ShardWriter, TokenStream, read_manifest, write_manifest
from pretrain.data.verification import verification
from pretrain.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards = []
    for number in range(3):
        writer = ShardWriter(tmp_path, f"train-{number:05d}", vocab_size=50, end_of_text=0)
        writer.write(["a"], [np.arange(1, 20)])
        shards.append(writer.close(last=number == 2))
    splits = {"train": [{name: getattr(shard, name) for name in shard.__slots__} for shard in shards]}
    write_manifest(tmp_path, {"dtype": "uint16", "end_of_text": 0, "splits": splits})
    return tmp_path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    names: list[str] = []
    verify_file = TokenStream.verify_file

    def noted(self: TokenStream, name: str, expected: str, see: Callable[[bytes], None] | None = None) -> None:
        names.append(name)
        verify_file(self, name, expected, see)

    monkeypatch.setattr(TokenStream, "verify_file", noted)
    return names


def stream_of(folder: Path) -> TokenStream:
    return TokenStream(folder, "train", read_manifest(folder))


def start(folder: Path) -> None:
    with verification([stream_of(folder)], beside=False) as verify:
        verify()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def rot(folder: Path, name: str) -> None:
    """A bit flips on the disk, of which neither size nor times tell."""
    flip_a_bit(folder / name)
    stream = stream_of(folder)
    module._keep(stream, {name: module._stamp(folder / name, checksum) for name, checksum in stream.files()})


def test_only_the_first_start_reads_the_files(folder: Path, reads: list[str]) -> None:
    start(folder)
    assert len(reads) == 6
    start(folder)
    assert len(reads) == 6


def test_a_file_that_was_touched_is_read_again_and_no_other(folder: Path, reads: list[str]) -> None:
    start(folder)
    path = folder / "train-00001.bin"
    path.write_bytes(path.read_bytes())
    start(folder)
    assert reads[6:] == ["train-00001.bin"]


def test_a_changed_byte_is_found_at_the_start_at_every_start(folder: Path) -> None:
    start(folder)
    flip_a_bit(folder / "train-00001.bin")
    for _ in range(2):
        with pytest.raises(DataError, match=r"train-00001\.bin is damaged"):
            start(folder)


@pytest.mark.parametrize("content", ["", "[1]", "{broken"])
def test_a_damaged_list_of_stamps_is_as_none(content: str, folder: Path, reads: list[str]) -> None:
    start(folder)
    (folder / ".verified-train.json").write_text(content)
    start(folder)
    assert len(reads) == 12


def test_rot_is_found_beside_the_training_and_at_the_next_start(folder: Path) -> None:
    start(folder)
    rot(folder, "train-00001.idx")
    stream = stream_of(folder)
    with verification([stream], beside=True) as verify:
        verify()
        end = time.monotonic() + 10
        while stream.damage is None:
            assert time.monotonic() < end
            time.sleep(0.001)
        with pytest.raises(DataError, match=r"train-00001\.idx is damaged"):
            stream.read(0, 4)
    with pytest.raises(DataError, match=r"train-00001\.idx is damaged"):
        start(folder)


def test_the_reader_ends_with_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(folder)

    def endless(self: TokenStream, name: str, expected: str, see: Callable[[bytes], None]) -> None:
        while True:
            see(b"")

    monkeypatch.setattr(TokenStream, "verify_file", endless)
    with verification([stream_of(folder)], beside=True) as verify:
        verify()
        assert any(thread.name == "verification" for thread in threading.enumerate())
    assert not any(thread.name == "verification" for thread in threading.enumerate())
