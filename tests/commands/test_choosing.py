"""`pretrain train model=auto` and `law=true` from the command line, on a tiny corpus."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pretrain import cli
from pretrain.commands.sweep_law import keep_law
from pretrain.training.scaling import Law

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


def swept(folder: Path, law: Law) -> None:
    """What a sweep of twelve runs leaves whose losses are those of `law`, but of the largest size 0.2 more."""
    results = []
    model = cli._composed("train", ["model=modern", "model.n_layer=1"])["model"]
    for width in (8, 16, 32, 64):
        for tokens in (100_000, 300_000, 1_000_000):
            run = folder / f"{width},{tokens}"
            run.mkdir(parents=True)
            (run / "config.yaml").write_text(json.dumps({"law": True, "model": model | {"n_embd": width}}))
            manifest = {"vocab_size": 300, "splits": {"train": [{"tokens": 4_000_000}, {"tokens": 6_000_000}]}}
            (run / "data_manifest.json").write_text(json.dumps(manifest))
            loss = law.loss(12 * width**2, tokens, 1e7) + 0.2 * (width == 64)
            results.append({"run": str(run), "tokens": tokens, "validation": {"loss": loss}})
            (run / "result.json").write_text(json.dumps(results[-1]))
    (folder / "sweep.json").write_text(json.dumps(results))


def test_a_law_is_kept_with_what_smaller_sizes_told_of_the_largest(tmp_path: Path) -> None:
    true = Law(E=1.2, A=20.0, alpha=0.5, B=300.0, beta=0.45)
    swept(tmp_path, true)
    keep_law(tmp_path)
    document = json.loads((tmp_path / "law.json").read_text())
    assert {run["unique"] for run in document["runs"]} == {10_000_000}
    assert [told["tokens"] for told in document["next_size"]] == [100_000, 300_000, 1_000_000]
    for told in document["next_size"]:
        assert told["predicted"] == pytest.approx(true.loss(12 * 64**2, told["tokens"], 1e7), abs=0.03)
        assert told["off"] == pytest.approx(-0.2, abs=0.03)
        assert told["low"] <= told["high"]
    low, high = document["between"]["beta"]
    assert low <= document["law"]["beta"] <= high
    picture = (tmp_path / "law.svg").read_text()
    assert picture.startswith("<svg")
    assert picture.count("<circle") == 12


def test_a_sweep_that_is_too_small_for_a_law_says_so(
    corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["model=modern", "model.n_layer=1", "model.n_embd=4,8", "model.context_length=16", "trainer.max_steps=2"]
    code, results, said = ran(capsys, corpus, "-m", "law=true", "trainer.batch_tokens=64", *small)
    assert (code, len(results)) == (0, 2)
    assert "no scaling law" in said
    assert not (home / "runs" / "one" / "law.json").exists()


def test_a_counting_model_reads_everything_whatever_the_seconds(
    corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ["trainer.max_steps=null", "trainer.max_seconds=1e-6"]
    _, whole, _ = ran(capsys, corpus, "model=bigram", "name=whole")
    code, result, _ = ran(capsys, corpus, "model=bigram", *limits)
    assert (code, result["steps"]) == (0, 1)
    assert result["validation"] == whole["validation"]
