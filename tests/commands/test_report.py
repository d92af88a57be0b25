"""`pretrain report`, and the page and the samples that training keeps."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain import cli
from pretrain.commands import run_report
from pretrain.data.manifests import checksum
from pretrain.training.runs import locked

TINY = ["data/recipe=none", "tokenizer.vocab_size=300", "executor=serial", "threads=1", "device=cpu", "format=json"]
GPT = ["model=gpt_nano", "model.n_embd=16", "model.n_layer=2", "model.n_head=2", "model.context_length=16"]
GPT += ["trainer.max_steps=8", "trainer.batch_tokens=64", "trainer.eval_every=3", "sample.max_tokens=12"]
RUNS = {
    "gpt": [*GPT, "sample.eval_tokens=5"],
    "silent": [*GPT, "sample.max_tokens=0"],
    "bigram": ["model=bigram"],
}

Answer = Callable[..., tuple[int, Any, str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: list[str]) -> Iterator[Path]:
    """The folder of the runs in RUNS."""
    numbers = (signal.SIGINT, signal.SIGTERM)  # a command takes them over; pytest gets them back
    before = [signal.getsignal(number) for number in numbers]
    home = tmp_path_factory.mktemp("reported")
    (home / "texts").mkdir()
    for i, text in enumerate(tiny_corpus):
        (home / "texts" / f"{i}.txt").write_text(text, "utf-8")
    words = ["data=files", f"data.paths=[{home}/texts]", f"data_dir={home}/built", f"runs_dir={home}/runs", *TINY]
    for name, own in RUNS.items():
        assert cli.main(["train", *words, *own, f"name={name}"]) == 0
    yield home / "runs"
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def report(runs: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """A function that runs `pretrain report`, and gives the exit code, the JSON document and stderr."""

    def answer(*words: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = cli.main(["report", *words, f"runs_dir={runs}", "format=json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return answer


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_has_its_page_with_what_only_the_model_can_tell(name: str, runs: Path) -> None:
    page = (runs / name / "report.html").read_text("utf-8")
    result = json.loads((runs / name / "result.json").read_text())
    assert f"{result['validation']['loss']:.4f}" in page
    assert "finished" in page
    assert ("<h2>Attention</h2>" in page) == (name != "bigram")
    assert ("2-grams" in page) == (name == "bigram")
    assert "What each stage kept" in page


def test_the_model_writes_at_each_evaluation_and_longer_at_the_end(runs: Path) -> None:
    written = sorted((runs / "gpt" / "samples").iterdir())
    assert [file.name for file in written] == [f"step_0000000{step}.txt" for step in (3, 6, 8)]
    assert written[-1].read_text("utf-8") == json.loads((runs / "gpt" / "result.json").read_text())["sample"]
    assert not (runs / "silent" / "samples").exists()


def test_a_run_that_fails_leaves_a_page_that_shows_how_far_it_came(runs: Path, tiny_corpus: list[str]) -> None:
    home = runs.parent
    words = ["data=files", f"data.paths=[{home}/texts]", f"data_dir={home}/built", f"runs_dir={home}/failed", *TINY]
    assert cli.main(["train", *words, *GPT, "optimizer.lr=1e30", "trainer.max_steps=60", "name=wild"]) == 1
    page = (home / "failed" / "wild" / "report.html").read_text("utf-8")
    assert "stopped" in page
    assert "steps skipped, because" in page


def test_samples_do_not_change_what_is_learned(runs: Path) -> None:
    weights = "checkpoints/step_00000008/model.safetensors"
    assert checksum(runs / "gpt" / weights) == checksum(runs / "silent" / weights)


@pytest.mark.parametrize("name", ["gpt", "bigram"])
def test_the_command_writes_the_page_that_training_wrote(name: str, runs: Path, report: Answer) -> None:
    file = runs / name / "report.html"
    before = file.read_text("utf-8")
    file.unlink()
    code, document, _ = report(f"run={name}")
    assert (code, document) == (0, {"path": str(file), "runs": [str(runs / name)]})
    assert file.read_text("utf-8") == before


def test_several_runs_are_compared_on_one_page(runs: Path, report: Answer, tmp_path: Path) -> None:
    code, document, _ = report("run=[gpt,silent,bigram]")
    assert code == 0
    assert document["path"] == str(runs / "report.html")
    text = Path(document["path"]).read_text("utf-8").replace("<wbr>", "")
    assert "3 runs compared" in text
    assert "sample.max_tokens" in text
    assert "bigram · " in text  # it has no curve, so it is a line across
    code, document, _ = report("run=[gpt,bigram]", f"path={tmp_path}/deep/page.html")
    assert (code, Path(document["path"]).is_file()) == (0, True)


def test_the_runs_of_a_sweep_are_compared_in_its_folder(runs: Path, report: Answer) -> None:
    sweep = runs / "many"
    for name in ("gpt", "bigram"):
        shutil.copytree(runs / name, sweep / f"model={name},seed=1")
    (sweep / "sweep.json").write_text("[]")
    code, document, _ = report("run=many")
    assert (code, document["path"]) == (0, str(sweep / "report.html"))
    assert [Path(run).name for run in document["runs"]] == ["model=bigram,seed=1", "model=gpt,seed=1"]


def test_a_run_that_goes_on_and_one_without_a_checkpoint_are_shown_as_they_are(runs: Path, report: Answer) -> None:
    folder = runs / "young"
    folder.mkdir()
    for name in ("config.yaml", "data_manifest.json"):
        (folder / name).write_bytes((runs / "gpt" / name).read_bytes())
    assert report("run=young")[0] == 0
    assert "has not made its first step" in (folder / "report.html").read_text("utf-8")
    rows = (runs / "gpt" / "metrics.jsonl").read_text().splitlines(keepends=True)[:5]
    (folder / "metrics.jsonl").write_text("".join(rows) + '{"step": 5, "tok')  # a line that is being written
    with locked(folder):
        assert report("run=young")[0] == 0
    assert "It was at step 4 of at most 8" in (folder / "report.html").read_text("utf-8")


def test_a_run_whose_tokens_are_gone_has_a_page_without_attention(runs: Path, report: Answer) -> None:
    file = runs / "silent" / "data_manifest.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"folder": "/nowhere"}))
    code, _, err = report("run=silent")
    file.write_text(before)
    page = (runs / "silent" / "report.html").read_text("utf-8")
    assert (code, "no attention maps" in err) == (0, True)
    assert "<h2>Attention</h2>" not in page
    assert "feed forward" in page


def test_a_damaged_checkpoint_costs_only_what_it_would_have_told(runs: Path, report: Answer) -> None:
    file = runs / "silent" / "checkpoints" / "step_00000008" / "tokenizer.json"
    before = file.read_text("utf-8")
    file.write_text(before + " ", "utf-8")
    code, _, err = report("run=silent")
    file.write_text(before, "utf-8")
    assert (code, "neither parameters nor attention maps" in err) == (0, True)
    assert "Nats per token" in (runs / "silent" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=nothing"], "no run nothing"),
        (["run=[]"], "try run=latest"),
        (["run=[gpt,gpt]"], "names a run twice"),
        (["run=gpt", "path=."], "is a folder"),
        (["run=gpt", "steps=3"], "unknown setting steps"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(words: list[str], said: str, report: Answer) -> None:
    code, document, err = report(*words)
    assert (code, document) == (2, None)
    assert said in err
    assert err.count("\n") == 1


def test_the_page_is_not_written_where_it_would_cost_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    written: list[float] = []

    def write(records: Any, path: Path) -> None:
        written.append(now[0])
        now[0] += 2.0

    monkeypatch.setattr(run_report, "write_report", write)
    monkeypatch.setattr(run_report.time, "perf_counter", lambda: now[0])
    keep = run_report.page_keeper(tmp_path, {})
    while now[0] < 1000:
        keep("running")
        now[0] += 10
    assert written[0] == 0.0
    assert len(written) <= 1 + 1000 * run_report.SHARE / 2
    assert len(written) >= 4
    before = len(written)
    keep("stopped")
    assert len(written) == before + 1
