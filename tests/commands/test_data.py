"""`pretrain data`, `data show` and `data clean`, on a tiny corpus, from the command line."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain import cli
from pretrain.data.lock import alone

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_signal_handlers() -> Iterator[None]:
    """A command takes over SIGINT and SIGTERM; pytest gets them back."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty documents in lines: each fifth repeats itself, and two are the same."""
    path = tmp_path_factory.mktemp("corpus") / "lines.jsonl"
    texts = [
        "spam and spam\n" * 9 + str(number) if number % 5 == 0 else f"Number {number} is a text about {number**5}."
        for number in range(19)
    ]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, texts[1]]), "utf-8")
    return path


@pytest.fixture(scope="module")
def words(corpus: Path) -> list[str]:
    """What names the data on a command line."""
    return ["data=files", f"data.paths=[{corpus}]"]


@pytest.fixture(scope="module")
def built(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one finished build."""
    folder = tmp_path_factory.mktemp("built") / "data"
    small = ["executor=serial", "tokenizer.vocab_size=300"]
    assert cli.main(["data", *words, *small, f"data_dir={folder}", "format=json"]) == 0
    return folder


@pytest.fixture
def data_dir(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data folder of one's own, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    return shutil.copytree(built, tmp_path / "data")


def answer(capsys: Capture, *words: str) -> Any:
    capsys.readouterr()
    assert cli.main([*words, "format=json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: Capture, *words: str, code: int = 2) -> str:
    capsys.readouterr()
    assert cli.main(list(words)) == code
    return capsys.readouterr().err.strip()


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_data_names_its_report(words: list[str], data_dir: Path, capsys: Capture) -> None:
    small = ["executor=serial", "tokenizer.vocab_size=300"]
    result = answer(capsys, "data", *words, *small)
    assert Path(result["report"]).read_text("utf-8").startswith("<!doctype html>")
    assert cli.main(["data", *words, *small]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == result["report"]


def test_show_gives_kept_documents_of_the_newest_build(data_dir: Path, capsys: Capture) -> None:
    rows = answer(capsys, "data", "show", "n=2")
    assert [row["text"] for row in rows] == ["Number 1 is a text about 1.", "Number 2 is a text about 32."]
    assert answer(capsys, "data", "show", "n=1", "skip=1") == rows[1:]
    assert len(answer(capsys, "data", "show", "stage=collect", "n=99")) == 20


def test_show_gives_dropped_documents_with_their_reasons(data_dir: Path, capsys: Capture) -> None:
    rows = answer(capsys, "data", "show", "dropped=gopher_repetition")
    assert len(rows) == 4
    assert all(row["value"] > row["threshold"] and row["reason"] for row in rows)
    every = answer(capsys, "data", "show", "dropped=all", "n=99")
    assert [row["stage"] for row in every] == ["gopher_repetition"] * 4 + ["exact_duplicates"]
    assert every[4]["survivor"] == answer(capsys, "data", "show", "n=1")[0]["id"]
    assert answer(capsys, "data", "show", "dropped=all", "rule=exact_duplicate") == every[4:]
    assert answer(capsys, "data", "show", "dropped=all", "source=other") == []


def test_show_as_text_holds_the_document(data_dir: Path, capsys: Capture) -> None:
    assert cli.main(["data", "show", "dropped=all", "n=1"]) == 0
    said = capsys.readouterr().out
    assert "spam and spam\nspam and spam" in said
    assert "threshold 0." in said


def test_show_finds_the_build_of_the_settings_that_are_given(words: list[str], data_dir: Path, capsys: Capture) -> None:
    assert answer(capsys, "data", "show", *words, "n=3") == answer(capsys, "data", "show", "n=3")
    assert answer(capsys, "data", "show", *words, "stage=train", "n=1")
    said = refusal(capsys, "data", "show", *words, "data.max_document_bytes=99")
    assert "build it first: pretrain data data=files" in said
    assert "data.max_document_bytes=99" in said


def test_show_builds_nothing(data_dir: Path, words: list[str], capsys: Capture) -> None:
    before = snapshot(data_dir)
    answer(capsys, "data", "show", *words)
    answer(capsys, "data", "show", "sample=10", *words)
    assert snapshot(data_dir) == before


def test_show_without_a_build_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(capsys, "data", "show").endswith("build it first: pretrain data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage=normalize"], "did you mean normalise?"),
        (["dropped=near_duplicate"], "did you mean near_duplicates?"),
        (["dropped=all", "rule=exact_duplicates"], "did you mean exact_duplicate?"),
        (["rule=exact_duplicate"], "add dropped=all"),
        (["stage=collect", "dropped=all"], "set one"),
    ],
)
def test_show_suggests_the_nearest_name(arguments: list[str], message: str, data_dir: Path, capsys: Capture) -> None:
    assert message in refusal(capsys, "data", "show", *arguments)


def test_a_sample_passes_the_recipe_in_memory(tmp_path: Path, words: list[str], capsys: Capture) -> None:
    folder = tmp_path / "data"
    result = answer(capsys, "data", "show", "sample=99", *words, f"data_dir={folder}")
    counts = {stage["name"]: (stage["documents_in"], stage["documents_out"]) for stage in result["stages"]}
    assert counts["collect"] == (20, 20)
    assert counts["near_duplicates"][1] == 15
    assert len(result["examples"]["gopher_repetition"]) >= 1
    assert not folder.exists()
    assert cli.main(["data", "show", "sample=7", *words, f"data_dir={folder}"]) == 0
    assert "A sample of 7 documents" in capsys.readouterr().out


def test_a_sample_is_the_same_for_the_same_seed(words: list[str], capsys: Capture) -> None:
    first, again = (answer(capsys, "data", "show", "sample=9", "seed=2", *words) for _ in range(2))
    assert first["examples"] == again["examples"]


def run_manifest(data_dir: Path, content: str | None = None) -> Path:
    """The manifest of a run that needs all of the build."""
    path = data_dir.parent / "runs" / "one" / "data_manifest.json"
    path.parent.mkdir(parents=True)
    manifest = next(data_dir.glob("tokens/*/manifest.json")).read_text("utf-8")
    path.write_text(manifest if content is None else content, "utf-8")
    return path


def test_clean_removes_only_what_no_run_needs(data_dir: Path, capsys: Capture) -> None:
    run_manifest(data_dir)
    before = snapshot(data_dir)
    for kind in ("stages/normalise-0123456789abcdef", "tokens/0123456789abcdef", "tokenizers/0123456789abcdef"):
        (data_dir / kind).mkdir()
        (data_dir / kind / "file").write_text("12345")
    result = answer(capsys, "data", "clean", "yes=true")
    assert (len(result["folders"]), result["bytes"], result["removed"]) == (3, 15, True)
    assert snapshot(data_dir).keys() == before.keys()
    assert answer(capsys, "data", "clean")["folders"] == []


def test_clean_counts_runs_inside_sweeps(data_dir: Path, capsys: Capture) -> None:
    path = run_manifest(data_dir)
    inner = path.parent.parent / "sweep" / "model=mlp"
    inner.parent.mkdir()
    path.parent.rename(inner)
    assert answer(capsys, "data", "clean", "yes=true")["folders"] == []


def test_clean_without_a_terminal_removes_nothing(data_dir: Path, capsys: Capture) -> None:
    before = snapshot(data_dir).keys()
    assert "add yes=true" in refusal(capsys, "data", "clean")
    assert snapshot(data_dir).keys() == before


@pytest.mark.parametrize(("answered", "removed"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_clean_asks_on_a_terminal(
    answered: str, removed: bool, data_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return answered

    monkeypatch.setattr("sys.stdin", Terminal())
    result = answer(capsys, "data", "clean")
    assert result["removed"] == removed
    assert any(data_dir.glob("stages/*")) != removed


@pytest.mark.parametrize("content", ["{", "[]", '{"key": "0123456789abcdef"}', '{"key": "0123", "made_of": 3}'])
def test_clean_refuses_where_a_run_does_not_say_what_it_needs(content: str, data_dir: Path, capsys: Capture) -> None:
    path = run_manifest(data_dir, content)
    before = snapshot(data_dir).keys()
    said = refusal(capsys, "data", "clean", "yes=true", code=3)
    assert str(path.parent.relative_to(data_dir.parent)) in said
    assert len(said.splitlines()) == 1
    assert snapshot(data_dir).keys() == before


def test_clean_waits_for_a_build(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []

    def stop(line: str) -> None:
        waited.append(line)
        raise KeyboardInterrupt

    monkeypatch.setattr("pretrain.commands.data_clean.say", stop)
    with alone(data_dir, lambda: None, lambda _: None):
        assert cli.main(["data", "clean", "yes=true"]) == 130
    assert "is being built by another process" in waited[0]
    assert any(data_dir.glob("stages/*"))


@pytest.fixture
def _any_corpus_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pretrain.commands.data", "pretrain.data.estimate"):
        monkeypatch.setattr(f"{module}.SMALLEST_CORPUS", 1)


@pytest.mark.usefixtures("_any_corpus_is_large")
def test_a_build_says_beforehand_what_it_will_take(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    command = ["data", *words, "executor=serial", "tokenizer.vocab_size=300", f"data_dir={tmp_path / 'data'}"]
    assert cli.main(command) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "expect about" in line]
    assert len(told) == 1
    assert "of disk" in told[0]
    assert cli.main(command) == 0
    assert "expect about" not in capsys.readouterr().err


@pytest.mark.usefixtures("_any_corpus_is_large")
def test_a_build_that_the_disk_cannot_hold_is_refused(
    words: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10))
    said = refusal(capsys, "data", *words, "executor=serial", f"data_dir={tmp_path / 'data'}", code=1)
    assert f"data_dir={tmp_path / 'data'}" in said
    assert not list(tmp_path.glob("data/stages/*/manifest.json"))
