"""`pretrain data`, `data show` and `data clean`, on a tiny corpus, from the command line."""

import copy
import json
import shutil
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from pretrain import cli, config, schema
from pretrain.data.lock import alone
from pretrain.errors import ConfigError

Capture = pytest.CaptureFixture[str]


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


@pytest.mark.parametrize("smallest", [1, 10**9])
def test_a_build_says_beforehand_what_it_will_take(
    smallest: int, words: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.data.estimate.SMALLEST_CORPUS", smallest)
    command = ["data", *words, "executor=serial", "tokenizer.vocab_size=300", f"data_dir={tmp_path / 'data'}"]

    def told(*more: str) -> list[str]:
        assert cli.main([*command, *more]) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "to build" in line]

    first = told()
    assert len(first) == 1
    assert "expect under a minute and about" in first[0]
    assert "of disk" in first[0]
    assert told() == []  # all is built
    later = told("tokenizer.vocab_size=301")
    assert len(later) == 1
    assert "from tokenizer on" in later[0]


def test_a_build_that_the_disk_cannot_hold_is_refused(
    words: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10))
    said = refusal(capsys, "data", *words, "executor=serial", f"data_dir={tmp_path / 'data'}", code=1)
    assert f"data_dir={tmp_path / 'data'}" in said
    assert not list(tmp_path.glob("data/stages/*/manifest.json"))


def test_a_corpus_of_which_nothing_is_left_says_which_rule_took_how_much(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "lines.jsonl"
    good = "The river runs, and the river sings, and the river sleeps in the green valley."
    texts = [" ", "\n", *["spam and spam\n" * 9 + str(n) for n in range(3)], good, good]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, *texts[:1]]), "utf-8")
    command = ["data", "data=files", f"data.paths=[{path}]", "executor=serial", f"data_dir={tmp_path / 'data'}"]
    said = refusal(capsys, *command, "data.stages.gopher_repetition.top_2_gram=0", code=3).splitlines()[-1]
    assert said.startswith("error: nothing is left of the corpus (documents: 8): normalise took 3 of 8 (empty 3); ")
    assert "gopher_repetition took" in said
    assert "of 5 (" in said
    assert "~data.stages." in said


def test_a_corpus_that_cannot_be_read_says_why(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": nu\n[]\n{"text": null}\n', "utf-8")
    command = ["data", "data=files", f"data.paths=[{path}]", "executor=serial", f"data_dir={tmp_path / 'data'}"]
    said = refusal(capsys, *command, code=3).splitlines()[-1]
    assert said.startswith("error: the corpus is empty: of 3 records none could be read (")


def test_missing_validation_texts_are_refused_before_anything_is_built(
    words: list[str], tmp_path: Path, capsys: Capture
) -> None:
    empty, missing, folder = tmp_path / "empty.txt", tmp_path / "none.txt", tmp_path / "data"
    command = ["data", *words, "executor=serial", f"data_dir={folder}"]
    said = refusal(capsys, *command, f"data.validation_paths=[{missing}]", code=2)
    assert said == f"error: data.validation_paths: {missing} does not exist"
    assert not (folder / "stages").exists()
    empty.write_text("")
    said = refusal(capsys, *command, f"data.validation_paths=[{empty}]", code=3).splitlines()[-1]
    assert said == "error: the texts at data.validation_paths are empty: 1 documents without text"


def out_of_range(annotation: Any) -> list[Any]:
    """Values just outside the bounds of a setting, where it has some."""
    members = typing.get_args(annotation) if typing.get_origin(annotation) is types.UnionType else [annotation]
    values: list[Any] = []
    for member in members:
        if typing.get_origin(member) is Annotated:
            kind, *bounds = typing.get_args(member)
            step = 1 if kind is int else 1e-6
            for bound in bounds:
                sides = {name: getattr(bound, name, None) for name in ("ge", "gt", "le", "lt")}
                values += [sides["ge"] - step] if sides["ge"] is not None else []
                values += [sides["gt"]] if sides["gt"] is not None else []
                values += [sides["le"] + step] if sides["le"] is not None else []
                values += [sides["lt"]] if sides["lt"] is not None else []
        elif typing.get_origin(member) is Literal:
            values.append("no such choice")
    return values


@pytest.mark.parametrize(
    "recipe", sorted(path.stem for path in (config.configs_dir() / "data" / "recipe").glob("*.yaml"))
)
def test_every_threshold_of_every_recipe_is_refused_out_of_its_range(recipe: str, tmp_path: Path) -> None:
    words = ["data=files", f"data.paths=[{tmp_path}]", f"data/recipe={recipe}"]
    settings = cli._composed("data", words)
    config.parse(settings, config.DataConfig)
    wrong = [
        (name, key, value)
        for name, part in settings["data"]["stages"].items()
        for key, parameter in schema.signature(part["_target_"]).items()
        for value in out_of_range(parameter.annotation)
    ]
    assert len(wrong) > 5 or recipe == "none"
    for name, key, value in wrong:
        mutated = copy.deepcopy(settings)
        mutated["data"]["stages"][name][key] = value
        with pytest.raises(ConfigError, match=f"data.stages.{name}.{key}") as raised:
            config.parse(mutated, config.DataConfig)
        assert raised.value.exit_code == 2
        assert str(value) in str(raised.value)
    if wrong:
        name, key, value = wrong[-1]
        assert cli.main(["data", *words, f"data.stages.{name}.{key}={value}"]) == 2
    assert not (tmp_path / "data").exists()
