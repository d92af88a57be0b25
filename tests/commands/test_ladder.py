"""`pretrain train experiment=ladder`: a sweep over the rungs that a config describes, on a tiny corpus."""

import json
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from pretrain import cli, help_text
from pretrain.tracking.console import ConsoleTracker

RUNGS = ["unigram", "bigram_add_k", "mlp_1", "lstm", "modern"]
TINY = [
    "data=files",
    "data.paths=[pages.jsonl]",
    "executor=serial",
    "threads=1",
    "sample.max_tokens=8",
    "trainer.max_steps=3",
    "trainer.batch_tokens=128",
    "trainer.sequence_length=16",
]
LADDER = ["train", "experiment=ladder", *TINY]
SOME = f"rung={','.join(RUNGS)}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a few pages."""
    numbers = random.Random(0)
    pages = ["".join(numbers.choices("吾輩は猫である。名前はまだ無い。どこで生れたか", k=80)) for _ in range(20)]
    lines = [json.dumps({"text": page}, ensure_ascii=False) for page in pages]
    (tmp_path / "pages.jsonl").write_text("\n".join(lines), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_ladder_goes_on_where_it_was_stopped_and_ends_in_a_table_a_picture_and_a_page(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[int] = []
    log = ConsoleTracker.log

    def stop_in_the_second_rung(self: ConsoleTracker, row: dict[str, Any]) -> None:
        log(self, row)
        if "train/loss" in row:
            logged.append(row["step"])
        elif logged == [1, 1]:  # it has counted and measured; nothing that is left of it looks for signals
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ConsoleTracker, "log", stop_in_the_second_rung)
    sweep = home / "runs" / "ladder"
    assert cli.main([*LADDER, SOME]) == 75
    assert logged == [1, 1]
    table = capsys.readouterr().out
    figures = [line.split()[0] for line in table.splitlines() if re.match(r"\S+ .*\d\.\d{4} *$", line)]
    assert figures == ["unigram", "(uniform)", "(unigram)", "(bigram)", "(best"]
    assert names(json.loads((sweep / "sweep.json").read_text("utf-8"))) == RUNGS[:1]
    data = sorted((home / "data").rglob("*.bin"))
    before = {file: file.stat().st_mtime_ns for file in (*data, *sweep.glob("bigram_add_k/*.json"))}

    assert cli.main([*LADDER, SOME, "format=json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert logged == [1, 1, *[1, 2, 3] * 3]
    assert names(results) == RUNGS
    assert json.loads((sweep / "sweep.json").read_text("utf-8")) == results
    assert before == {file: file.stat().st_mtime_ns for file in before}
    assert sorted((home / "data").rglob("*.bin")) == data  # all read the same tokens
    for result in results:
        validation, ours = result["validation"], Path(result["run"]) / "result.json"
        assert 0 < validation["bits_per_byte"] < validation["bits_per_character"] < 3.01 * validation["bits_per_byte"]
        assert result["greedy_sample"]
        assert json.loads(ours.read_text("utf-8")) == result
    assert len(set(results[0]["greedy_sample"])) == 1  # a unigram's most probable character, again and again

    svg = (sweep / "losses.svg").read_text("utf-8")
    labels = re.findall(r'text-anchor="end">([a-z]\w+)</text>', svg)
    assert labels == RUNGS
    page = (sweep / "report.html").read_text("utf-8").replace("<wbr>", "")
    places = [page.index(f"></i>{name}</th>") for name in RUNGS]
    assert places == sorted(places)
    assert cli.main(["report", "run=ladder", "format=json"]) == 0
    assert [Path(run).name for run in json.loads(capsys.readouterr().out)["runs"]] == RUNGS

    # One rung alone goes on in its place; it is refused where the sweep itself lies.
    assert cli.main([*LADDER, "rung=mlp_1"]) == 0
    assert json.loads((sweep / "sweep.json").read_text("utf-8")) == results
    capsys.readouterr()
    assert cli.main(["train", *TINY, "rung=unigram", "name=ladder"]) == 2
    assert "runs/ladder is a sweep, not a single run" in capsys.readouterr().err


def test_all_rungs_are_in_the_ladder_and_all_are_checked_before_the_first_starts(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [swept] = cli._swept_by_experiment("train", ["experiment=ladder"])
    key, _, rungs = swept.partition("=")
    assert key == "rung"
    assert sorted(rungs.split(",")) == help_text.options("rung")
    assert cli.main([*LADDER, "rung=unigram,gpt", "trainer.sequence_length=null"]) == 2
    assert "trainer.batch_tokens=128" in capsys.readouterr().err
    assert not (home / "runs").exists()


def names(results: list[dict[str, Any]]) -> list[str]:
    return [Path(result["run"]).name for result in results]
