"""`pretrain export`, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pretrain import cli

TINY = [
    "executor=serial",
    "tokenizer=byte",
    "data=files",
    "data/recipe=none",
    "threads=1",
    "sample.max_tokens=0",
    "trainer.max_steps=2",
    "trainer.batch_tokens=32",
    "trainer.sequence_length=16",
    "model.n_layer=1",
    "model.n_embd=16",
    "model.n_head=2",
    "model.context_length=16",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_corpus: list[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(tiny_corpus):
        (tmp_path / f"{number}.txt").write_text(text, "utf-8")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    code = cli.main([*words, "format=json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def train(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> dict[str, Any]:
    code, result, err = run(capsys, "train", f"data.paths=[{folder}]", *TINY, *words)
    assert code == 0, err
    return dict(result)


def test_a_run_in_bf16_is_exported_with_its_weights_in_fp32(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = train(capsys, folder, "model=llama", "model.n_kv_head=1", "model.n_hidden=24", "precision=bf16")
    code, result, _ = run(capsys, "export", "to=huggingface", "path=out")
    assert code == 0
    assert result["holds"]["parameters"] == trained["parameters"]
    weights = load_file(folder / "out" / "model.safetensors")
    run_folder = Path(trained["run"])
    saved = load_file(run_folder / "checkpoints" / (run_folder / "latest").read_text().strip() / "model.safetensors")
    assert torch.equal(weights["model.embed_tokens.weight"], saved["token_embedding.weight"])
    assert json.loads((folder / "out" / "config.json").read_text())["dtype"] == "float32"


def test_what_has_no_such_form_is_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(capsys, folder, "model=gpt_nano", "model.positions=rotary", "name=gpt")
    for to, message in (("huggingface", "transformers has no class for this GPT"), ("arpa", "to=arpa is for n-grams")):
        code, result, err = run(capsys, "export", f"to={to}", "path=out")
        assert code == 2
        assert result is None
        assert message in err.splitlines()[-1]
    assert not (folder / "out").exists()
