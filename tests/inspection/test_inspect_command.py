"""What `inspect` does besides the views."""

from typing import Any

import pytest

from pretrain import cli, help_text
from pretrain.commands import inspect as command


def test_without_matplotlib_the_result_is_shown_and_one_line_says_what_to_install(
    inspect: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(command, "drawable", lambda: False)
    code, document, said = inspect("scaling", "view.max_width=4")
    assert (code, document["pictures"]) == (0, [])
    assert "pip install 'pretrain[plots]'" in said
    code, _, said = inspect("scaling", "view.max_width=4", f"path={tmp_path}/asked")
    assert (code, said.count("\n")) == (2, 1)
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    "view", ["parameters", "attention", "embeddings", "logits", "tokenizer", "ngram", "scaling", "decoding"]
)
def test_every_view_prints_tables(view: str, runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"scaling": ["view.max_width=4"], "attention": ["view.max_tokens=4"], "embeddings": ["view.frequent=5"]}
    words = [f"runs_dir={runs}", "run=gpt", "threads=1", *small.get(view, [])]
    assert cli.main(["inspect", view, *words]) == 0
    out = capsys.readouterr().out
    assert "──" in out
    assert max(map(len, out.splitlines())) <= 140 or "inspect/" in out


def test_a_run_that_is_not_there_is_refused(inspect: Any) -> None:
    for view in ("parameters", "attention", "logits"):
        code, _, said = inspect(view, "run=other")
        assert (code, said.count("\n")) == (2, 1)


@pytest.mark.parametrize("model", help_text.options("model"))
def test_every_model_can_be_chosen(model: str) -> None:
    assert cli._composed("inspect", ["view=parameters", f"model={model}"])["model"]["_target_"]
