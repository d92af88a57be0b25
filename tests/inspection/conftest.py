"""A tiny run of each kind of model, which the tests of the views share."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from pretrain import cli
from pretrain.commands.inspect import _subject
from pretrain.commands.loading import load_run
from pretrain.config import InspectConfig, parse
from pretrain.inspection.view import Subject
from pretrain.training.precision import chosen_device

TINY = ["model.n_embd=16", "model.n_layer=2", "model.n_head=2", "model.context_length=16", "trainer.max_steps=4"]
MODELS = {"gpt": ["model=gpt_nano", *TINY, "trainer.batch_tokens=64"], "ngram": ["model=ngram", "model.order=3"]}

Answer = Callable[..., tuple[int, Any, str]]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: list[str]) -> Iterator[Path]:
    """The folder of the runs `gpt` and `ngram`."""
    numbers = (signal.SIGINT, signal.SIGTERM)  # a command takes them over; pytest gets them back
    before = [signal.getsignal(number) for number in numbers]
    home = tmp_path_factory.mktemp("inspected")
    (home / "texts").mkdir()
    for i, text in enumerate(tiny_corpus):
        (home / "texts" / f"{i}.txt").write_text(text, "utf-8")
    words = [f"data.paths=[{home}/texts]", f"data_dir={home}/built", f"runs_dir={home}/runs", "data/recipe=none"]
    words += ["tokenizer.vocab_size=300", "executor=serial", "threads=1", "sample.max_tokens=0", "format=json"]
    for name, model in MODELS.items():
        assert cli.main(["train", "data=files", *words, *model, f"name={name}"]) == 0
    yield home / "runs"
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def inspect(runs: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """A function that runs `pretrain inspect`, and gives the exit code, the JSON document and stderr."""

    def answer(*words: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = cli.main(["inspect", *words, f"runs_dir={runs}", "threads=1", "device=cpu", "format=json"])
        out, err = capsys.readouterr()
        return code, orjson.loads(out) if out else None, err  # orjson takes no NaN

    return answer


@pytest.fixture(scope="session")
def subjects(runs: Path) -> dict[str, Subject]:
    """What a view sees of each run."""
    found = {}
    for name in MODELS:
        loaded = load_run(name, "latest", str(runs), chosen_device("cpu"), "fp32")
        words = [f"runs_dir={runs}", f"run={name}", "device=cpu"]
        found[name] = _subject(parse(cli._composed("inspect", words), InspectConfig), loaded)
    return found
