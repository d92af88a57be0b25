"""Runs that earlier commits wrote (tests/fixtures) are evaluated, sampled and resumed by this one.

first_format_1 is of commit 4daa76c, the first one; format_1 and format_2 (two ranks, fsdp) are of 113e93e. Each is a
GPT of 1,312 parameters, trained by WORDS on TEXT to step 3; the first one with one head and to step 6.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pretrain import cli
from pretrain.training.checkpoints import read_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures"
LINE = "the cat sat on the mat and the dog sat on the log.\n"
TEXT, HELD_OUT = 60 * LINE, 6 * LINE
WORDS = [
    *(
        "data=files",
        "data.paths=[text.txt]",
        "data/recipe=none",
        "tokenizer=byte",
        "executor=serial",
        "schedule=constant",
    ),
    *("model=gpt", "model.n_layer=1", "model.n_head=2", "model.n_embd=4", "model.context_length=8", "precision=fp32"),
    *("trainer.checkpoint_every=3", "trainer.keep_checkpoints=1", "trainer.eval_every=100", "trainer.eval_tokens=64"),
    *("trainer.batch_tokens=64", "schedule.warmup_steps=2", "sample.max_tokens=0", "threads=1", "format=json"),
]
# What the commit that trained a run found on the held-out text.
LOSSES = {"first_format_1": 5.540254, "format_1": 5.541465, "format_2": 5.541465}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FIXTURES, tmp_path / "runs")
    for run in (tmp_path / "runs").iterdir():
        shutil.copyfile(next(run.glob("checkpoints/*/tokenizer.json")), run / "tokenizer.json")
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "held_out.txt").write_text(HELD_OUT)
    monkeypatch.chdir(tmp_path)


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main(list(words)) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_an_older_run_is_evaluated_and_sampled(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "eval", f"run=[{','.join(LOSSES)}]", "data.paths=[held_out.txt]", "threads=1", "format=json")
    assert {Path(result["run"]).name: result["loss"] for result in found} == pytest.approx(LOSSES, abs=1e-4)
    [sample] = answer(capsys, "sample", "run=first_format_1", "max_tokens=5", "prompt=the", "threads=1", "format=json")
    assert len(sample["tokens"]) <= 5


def test_an_older_run_goes_on_as_if_it_were_of_today(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "train", *WORDS, "name=today", "trainer.max_steps=5")
    expected = load_file(Path("runs/today/checkpoints/step_00000005/model.safetensors"))
    for run in ("format_1", "format_2"):
        assert answer(capsys, "train", *WORDS, f"name={run}", "trainer.max_steps=5")["steps"] == 5
        assert Path(f"runs/{run}/metrics.jsonl").read_text().startswith('{"step": 4,'), (
            "it began where the older one ended"
        )
        for name, weight in load_file(Path(f"runs/{run}/checkpoints/step_00000005/model.safetensors")).items():
            assert torch.allclose(weight, expected[name], atol=1e-5)


def test_the_first_format_is_read_with_what_has_come_since_at_its_default() -> None:
    checkpoint = read_checkpoint(Path("runs/first_format_1/checkpoints/step_00000006"))
    assert (checkpoint.state.step, checkpoint.state.tokens, checkpoint.state.skipped_windows) == (6, 384, [])
    assert int(checkpoint.update["steps"]) == 6
    names = {name.partition(".")[2] for name in checkpoint.update if name.startswith("mean.")}
    assert names == set(checkpoint.weights)
