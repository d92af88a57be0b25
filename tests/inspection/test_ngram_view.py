"""`inspect ngram` and `export` on a tiny run, and the view's figures against hand counts."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain import cli
from pretrain.inspection.ngram import NGramView, tables
from pretrain.inspection.view import Subject
from pretrain.models.ngram import NGram


class Letters:
    """A tokenizer of the letters a to d; 0 is the end of text."""

    vocab_size, end_of_text = 5, 0

    def encode(self, text: str) -> list[int]:
        return ["abcd".index(letter) + 1 for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join("abcd"[id - 1] for id in ids)


class Tokens:
    def __init__(self, texts: list[str]) -> None:
        self.ids = np.array([0, *(id for text in texts for id in [*Letters().encode(text), 0])])

    def array(self) -> np.ndarray:
        return self.ids


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    subject = Subject(
        NGram(5, order=1, smoothing="none", k=1.0),
        Letters(),
        Tokens(["abab", "abc"]),
        Tokens(["abd"]),  # type: ignore[arg-type]  # stand-ins
    )
    return NGramView(context="ab", n=3, order=3)(subject)


def test_the_most_frequent_tokens_come_first(document: dict[str, Any]) -> None:
    shown = [(row["token"], row["count"], row["probability"]) for row in document["tokens"]]
    assert shown == [("a", 3, 3 / 9), ("b", 3, 3 / 9), ("<end of text>", 2, 2 / 9)]


def test_what_follows_a_context_is_counted_from_its_longest_end_on(document: dict[str, Any]) -> None:
    longest, last = document["continuations"]
    assert (longest["context"], longest["count"], longest["followers"]) == (["a", "b"], 3, 3)
    assert {row["token"]: row["count"] for row in longest["next"]} == {"a": 1, "c": 1, "<end of text>": 1}
    assert (last["context"], last["count"]) == (["b"], 3)


def test_distinct_ngrams_grow_and_unseen_ones_are_counted(document: dict[str, Any]) -> None:
    growth = document["growth"]
    assert [row["distinct"] for row in growth] == [4, 6, 6]
    # a b d end: d is new; of the pairs b d and d end; of the triples a b d and b d end
    assert [(row["unseen"], row["validation"]) for row in growth] == [(1, 4), (2, 4), (2, 3)]
    assert growth[1]["unseen_share"] == 0.5


def test_the_page_has_a_bar_for_each_token(document: dict[str, Any]) -> None:
    first, second, third = tables(document)
    assert [row[0].count("█") for row in first.rows] == [40, 40, 27]
    assert len(second.rows) == sum(len(found["next"]) for found in document["continuations"])
    assert third.rows[1] == ["2", "6", "2 of 4", "50.00%"]


@pytest.fixture(autouse=True, scope="module")
def _own_signal_handlers() -> Iterator[None]:
    """A command takes over SIGINT and SIGTERM; pytest gets them back."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    texts = [f"the cat number {i} sat on the mat, {'and it sat and ' * (i % 5)}went home." for i in range(30)]
    (folder / "texts").mkdir()
    for i, text in enumerate(texts):
        (folder / "texts" / f"{i}.txt").write_text(text, "utf-8")
    words = [f"data.paths=[{folder}/texts]", f"data_dir={folder}/built", f"runs_dir={folder}/runs"]
    sizes = ["tokenizer.vocab_size=270", "executor=serial", "threads=1", "sample.max_tokens=4", "format=json"]
    for name, model in {
        "five": ["model=ngram"],
        "mixed": ["model=ngram_mixture", "model.order=4", "model.context_length=64"],
    }.items():
        assert cli.main(["train", "data=files", *words, *sizes, *model, f"name={name}"]) == 0
    return folder


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    capsys.readouterr()
    code = cli.main([*words, "format=json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_inspect_takes_the_views_name_as_a_bare_word(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = [f"runs_dir={home}/runs", "run=five"]
    code, found, _ = answer(capsys, "inspect", "ngram", *where, "view.context=the c", "view.n=2", "view.order=4")
    assert code == 0
    assert found == answer(capsys, "inspect", "view=ngram", *where, "view.context=the c", "view.n=2", "view.order=4")[1]
    assert [row["n"] for row in found["growth"]] == [1, 2, 3, 4]
    assert cli.main(["inspect", "ngram", *where]) == 0
    assert "How n-grams thin out" in capsys.readouterr().out
    assert answer(capsys, "inspect", "ngrams", *where)[0] == 2


def test_export_writes_what_a_new_run_reads(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found, _ = answer(capsys, "export", f"runs_dir={home}/runs", "run=five", "to=arpa", f"path={home}/five.arpa")
    assert code == 0
    assert list(found["holds"]) == [f"{n}-grams" for n in range(1, 6)]
    words = [
        f"data.paths=[{home}/texts]",
        f"data_dir={home}/built",
        f"runs_dir={home}/runs",
        "tokenizer.vocab_size=270",
    ]
    model = ["model=arpa", f"model.path={home}/five.arpa", "name=read", "executor=serial", "threads=1"]
    code, result, _ = answer(capsys, "train", "data=files", *words, *model)
    assert code == 0
    five = json.loads((home / "runs" / "five" / "result.json").read_text())
    assert result["validation"]["loss"] == pytest.approx(five["validation"]["loss"], abs=1e-7)
    code, _, said = answer(capsys, "export", f"runs_dir={home}/runs", "run=mixed", "to=arpa")
    assert code == 2
    assert "to=arpa is for n-grams" in said


@pytest.mark.parametrize("to", ["nanogpt", "megatron"])
def test_exported_tokens_are_read_as_the_same_tokens(home: Path, capsys: pytest.CaptureFixture[str], to: str) -> None:
    runs = f"runs_dir={home}/runs"
    code, found, _ = answer(capsys, "export", runs, "run=five", f"to={to}", f"path={home}/{to}")
    assert code == 0
    words = [f"data.paths=[{home}/{to}/train.bin]", f"data.validation_paths=[{home}/{to}/val.bin]", runs]
    words += ["tokenizer=pretrained", f"tokenizer.path={home}/{to}/tokenizer.json", f"data_dir={home}/from_{to}"]
    words += ["model=ngram", "model.order=5", f"name=from_{to}", "executor=serial", "threads=1"]
    code, result, said = answer(capsys, "train", "data=tokens", *words)
    assert code == 0, said
    five = json.loads((home / "runs" / "five" / "result.json").read_text())
    assert found["holds"]["tokens in train.bin"] == result["tokens"]
    assert result["validation"]["loss"] == pytest.approx(five["validation"]["loss"], abs=1e-9)
