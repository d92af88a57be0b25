"""`pretrain train model=auto` and `law=true` from the command line, on a tiny corpus."""

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain import cli

SMALL = [
    "data=files",
    "executor=serial",
    "data/recipe=none",
    "tokenizer=char",
    "threads=1",
    "sample.max_tokens=0",
    "trainer.sequence_length=16",
    "name=one",
    "format=json",
]
AUTO = ["model=auto", "model.context_length=16", "budget.widths=[8,16]", "budget.head_width=8", "budget.pilot_width=8"]
AUTO += ["budget.batch_tokens=64", "budget.width_per_layer=8", "trainer.max_seconds=2"]


@pytest.fixture(autouse=True)
def _own_signal_handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    numbers = random.Random(0)
    file.write_text("\n".join(" ".join(numbers.choices("a cat sat on the mat".split(), k=9)) for _ in range(300)))
    return file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(capsys: pytest.CaptureFixture[str], corpus: Path, *words: str) -> tuple[int, Any, str]:
    code = cli.main(["train", f"data.paths={corpus}", f"data_dir={corpus.parent / 'built'}", *SMALL, *words])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_a_budget_of_seconds_is_all_that_a_run_needs_and_its_choice_is_kept(
    corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result, said = ran(capsys, corpus, *AUTO)
    assert code == 0
    choice = result["choice"]
    assert "expected: validation loss" in said
    assert choice["model"]["n_embd"] in (8, 16)
    assert 0 < choice["seconds"] < 2 <= result["seconds"] < 6
    assert result["steps"] > 0
    rows = [json.loads(row) for row in (home / "runs" / "one" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["lr"] for row in rows if row.get("lr")]
    assert rates[-1] < rates[0] <= choice["optimizer"]["lr"]  # it falls with the seconds
    last = home / "runs" / "one" / "checkpoints" / (home / "runs" / "one" / "latest").read_text().strip()
    assert json.loads((last / "state.json").read_text())["choice"] == choice

    # As after a kill: no result, and half of the seconds still to go.
    (home / "runs" / "one" / "result.json").unlink()
    state = json.loads((last / "state.json").read_text())
    (last / "manifest.json").write_text(json.dumps({"format": 1, "checksums": {}}))
    (last / "state.json").write_text(json.dumps(state | {"seconds": 1.5}))
    code, again, said = ran(capsys, corpus, *AUTO)
    assert code == 0
    assert again["choice"] == choice
    assert again["steps"] > result["steps"]
    assert "expected: validation loss" not in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["trainer.max_seconds=null"], "trainer.max_seconds"),
        (["parallel=ddp"], "parallel="),
        (["budget.widths=[8,12]"], "budget.head_width"),
    ],
)
def test_what_a_budget_cannot_be_kept_with_is_refused_in_one_line(
    words: list[str], named: str, corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = ran(capsys, corpus, *AUTO, *words)
    assert code == 2
    assert named in said.splitlines()[-1]


def test_a_sweep_ends_in_its_law_with_what_smaller_sizes_told_of_the_largest(
    corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["model.n_embd=4,8,16", "trainer.max_tokens=256,512,1024", "trainer.batch_tokens=64"]
    small = ["model.n_layer=1", "model.context_length=16"]
    code, results, _ = ran(capsys, corpus, "experiment=scaling_law", *sizes, *small)
    assert (code, len(results)) == (0, 9)
    document = json.loads((home / "runs" / "one" / "law.json").read_text())
    assert [run["parameters"] for run in document["runs"]] == [12 * width**2 for width in (4, 8, 16) for _ in range(3)]
    for told, result in zip(document["next_size"], results[6:], strict=True):
        assert told["measured"] == result["validation"]["loss"]
        assert told["off"] == pytest.approx(told["predicted"] - told["measured"])
        assert told["low"] <= told["high"]
    picture = (home / "runs" / "one" / "law.svg").read_text()
    assert picture.startswith("<svg")
    assert picture.count("<circle") == 9


def test_a_counting_model_reads_everything_whatever_the_seconds(
    corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ["trainer.max_steps=null", "trainer.max_seconds=1e-6"]
    _, whole, _ = ran(capsys, corpus, "model=bigram", "name=whole")
    code, result, _ = ran(capsys, corpus, "model=bigram", *limits)
    assert (code, result["steps"]) == (0, 1)
    assert result["validation"] == whole["validation"]
