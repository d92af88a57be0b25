"""The benchmarks of time to loss run through at a tiny size, and their stand-in for nanoGPT is what it says."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
TEXT = "To be, or not to be, that is the question:\n" * 60


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    return path


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module(name)


def test_the_stand_in_attends_alike_by_both_ways_and_sees_no_future(monkeypatch: pytest.MonkeyPatch) -> None:
    nanogpt = script("nanogpt", monkeypatch)
    recipe = nanogpt.Recipe(2, 2, 16, context=8)
    flash, written = nanogpt.GPT(11, recipe), nanogpt.GPT(11, recipe, flash=False)
    written.load_state_dict(flash.state_dict())
    tokens = torch.randint(11, (3, 8))
    other = tokens.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 11
    torch.testing.assert_close(flash(tokens), written(tokens), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(written(tokens)[:, :5], written(other)[:, :5])
    assert not torch.allclose(written(tokens)[:, 5:], written(other)[:, 5:], atol=1e-3)


def test_the_stand_in_learns_a_short_text_by_nanogpts_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    nanogpt = script("nanogpt", monkeypatch)
    recipe = nanogpt.Recipe(1, 2, 16, context=16, rows=4, steps=60, lr=2e-2, warmup_steps=5, eval_every=30)
    assert [nanogpt.lr_at(step, nanogpt.Recipe()) for step in (99, 100, 2000)] == pytest.approx(
        [1e-3 * 100 / 101, 1e-3, 1e-4]
    )
    characters, *sides = nanogpt.characters_of(TEXT)
    seen = list(nanogpt.train(*sides, len(characters), recipe, seed=1, best=False, device=torch.device("cpu")))
    assert [number for number, _, _ in seen] == [0, 30, 60]
    assert seen[-1][1] < seen[0][1] - 0.5


def test_the_gpu_benchmark_goes_through_on_a_cpu_and_says_that_nothing_was_measured(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = script("bench_gpu", monkeypatch)
    out = tmp_path / "gpu.json"
    parts = ["speed", "memory", "characters"]
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", *[str(text)] * 2, "--tiny", "--out", str(out), "--only", *parts])
    bench.main()
    found = json.loads(out.read_text("utf-8"))
    assert found["measured"] is False
    assert found["speed"]["mfu"]["ours"] is None
    assert found["speed"]["tokens_per_second"]["ours"] > 0
    assert found["memory"]["rows"] == {"ours": 4, "nanogpt": 4}
    assert found["characters"]["ours"]["loss"] > 0


def test_the_gpu_benchmark_says_so_where_there_is_none(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = script("bench_gpu", monkeypatch)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", str(text), str(text), "--out", str(out)])
    bench.main()
    assert "not measured" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.faults
def test_the_cpu_benchmark_goes_through(
    text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = script("bench_cpu", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["bench_cpu.py", str(text), "--tiny"])
    bench.main()
    out = capsys.readouterr().out
    for line in (
        "time of nanoGPT by ours",
        "time of nanoGPT at its best by ours",
        "transformers",
        "start to first step",
    ):
        assert line in out
