"""`pretrain train data=tokens` and trainer.packing, from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain import cli
from pretrain.data.manifests import checksum
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.data.token_files import write_megatron, write_nanogpt
from pretrain.tokenizers.loading import load

TINY = [
    "executor=serial",
    "threads=1",
    "sample.max_tokens=0",
    "trainer.max_steps=6",
    "trainer.eval_every=3",
    "trainer.eval_tokens=64",
    "trainer.checkpoint_every=2",
    "trainer.batch_tokens=64",
    "trainer.sequence_length=16",
    "model=gpt_nano",
    "model.n_layer=1",
    "model.n_embd=16",
    "model.n_head=2",
    "model.context_length=16",
]


@pytest.fixture
def files(tokenizer_file: Path, tiny_corpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with nanoGPT's train.bin and val.bin of the tiny corpus."""
    monkeypatch.chdir(tmp_path)
    tokenizer = load(tokenizer_file)
    for name, texts in (("train", tiny_corpus[3:]), ("val", tiny_corpus[:3])):
        ids = [id_ for text in texts for id_ in (*tokenizer.encode(text), tokenizer.end_of_text)]
        np.array(ids, "<u2").tofile(tmp_path / f"{name}.bin")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    code = cli.main([*words, "format=json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def tokens(files: Path, tokenizer_file: Path) -> list[str]:
    return ["data=tokens", f"data.paths=[{files}]", "tokenizer=pretrained", f"tokenizer.path={tokenizer_file}"]


def weights(result: dict[str, Any]) -> str:
    run_folder = Path(result["run"])
    return checksum(run_folder / "checkpoints" / (run_folder / "latest").read_text().strip() / "model.safetensors")


def test_ready_tokens_are_trained_on_and_every_format_gives_the_same_run(
    files: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tokens(files, tokenizer_file)
    code, built, _ = run(capsys, "data", *words, "executor=serial")
    assert code == 0
    assert built["stages"] == []
    assert built["report"] is None
    folder = Path(built["manifest"]).parent
    manifest = read_manifest(folder)
    other = files / "megatron"
    other.mkdir()
    for name in ("train", "validation"):
        write_megatron(TokenStream(folder, name, manifest), other / f"{name}.bin")
    write_nanogpt(TokenStream(folder, "train", manifest), other / "again")
    assert (other / "again").read_bytes() == (files / "train.bin").read_bytes()

    code, one, _ = run(capsys, "train", *words, *TINY, "name=one")
    assert code == 0
    assert one["validation"]["bits_per_byte"] > 0
    megatron = [f"data.paths=[{other}/train.bin]", f"data.validation_paths=[{other}/validation.bin]"]
    code, two, _ = run(capsys, "train", "data=tokens", *megatron, *words[2:], *TINY, "name=two")
    assert code == 0
    assert weights(one) == weights(two)
    assert one["validation"] == two["validation"]


@pytest.mark.parametrize("packing", ["stream", "documents", "contiguous"])
def test_every_packing_trains_is_evaluated_alike_and_knows_no_loader_workers(
    files: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str], packing: str
) -> None:
    words = ["train", *tokens(files, tokenizer_file), *TINY, f"trainer.packing={packing}"]
    code, alone, _ = run(capsys, *words, "name=alone")
    assert code == 0
    code, helped, _ = run(capsys, *words, "name=helped", "trainer.loader_workers=2")
    assert code == 0
    assert weights(alone) == weights(helped)
    _, evaluated, _ = run(capsys, "eval", "run=alone")
    assert evaluated["loss"] == pytest.approx(alone["validation"]["loss"], rel=1e-6)


def test_packings_learn_differently(files: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *tokens(files, tokenizer_file), *TINY]
    results = [
        run(capsys, *words, f"trainer.packing={packing}", f"name={packing}")[1]
        for packing in ("stream", "documents", "contiguous")
    ]
    assert len({weights(result) for result in results}) == 3


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["tokenizer=bpe"], 2, "data=tokens has no text to train a tokenizer on"),
        (["tokenizer=byte"], 3, "is outside 257 ids"),
        (["data.paths=[nothing.bin]"], 2, "nothing.bin does not exist"),
        (["trainer.packing=pages"], 2, "trainer.packing=pages is not one of stream, documents, contiguous"),
        (["trainer.packing=contiguous", "data.sources.tokens.max_epochs=1"], 2, "packing=contiguous reads all sources"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    files: Path,
    tokenizer_file: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    code: int,
    message: str,
) -> None:
    words = tokens(files, tokenizer_file)
    if change[0].startswith("tokenizer="):
        words = words[:2]
    found, _, said = run(capsys, "train", *words, *TINY, *change)
    assert found == code
    assert message in said.splitlines()[-1]


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00000.idx", "validation-00000.bin"])
def test_a_damaged_file_of_the_shards_stops_a_run_and_is_named(
    files: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = tokens(files, tokenizer_file)
    _, built, _ = run(capsys, "data", *words, "executor=serial")
    path = Path(built["manifest"]).parent / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, _, said = run(capsys, "train", *words, *TINY)
    assert code == 3
    assert f"{name} is damaged (checksum)" in said.splitlines()[-1]
    path.rename(path.with_name("train-00009.bin"))
    code, _, said = run(capsys, "train", *words, *TINY)
    assert code == 3
    assert f"{name} is missing or cut" in said.splitlines()[-1] or "train-00009.bin" in said.splitlines()[-1]
