"""`inspect attention`: rows that sum to one, a future that is empty, and the weights that the model really used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain import cli, config
from pretrain.errors import ConfigError
from pretrain.inspection.attention import AttentionView, attention_weights, pictures, tables
from pretrain.inspection.view import HeatMap, Page, Subject
from pretrain.models.attending import Attend

TEXT = "The cat sat on the mat."


def view(text: str = TEXT, layer: int | None = None, head: int | None = None, max_tokens: int = 12) -> AttentionView:
    return AttentionView(text=text, max_tokens=max_tokens, layer=layer, head=head)


def test_rows_sum_to_one_and_the_future_is_empty(subjects: dict[str, Subject]) -> None:
    document = view()(subjects["gpt"])
    assert [(one["layer"], one["head"]) for one in document["heads"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for one in document["heads"]:
        weights = np.array(one["weights"])
        assert weights.shape == (12, 12)
        assert np.allclose(weights.sum(1), 1, atol=1e-12)
        assert (weights[np.triu_indices(12, 1)] == 0).all()
        assert (weights[np.tril_indices(12)] > 0).all()


@pytest.mark.parametrize("name", ["gpt_nano", "llama", "modern", "attention"])
def test_the_weights_are_those_that_mix_the_values(name: str) -> None:
    torch.manual_seed(0)
    settings = cli._composed("train", [f"model={name}"])["model"]
    model = config.build(config.Part(settings), vocab_size=30).eval()
    [attend, *others] = [part for part in model.modules() if isinstance(part, Attend)]
    seen: list[Any] = []
    hook = attend.register_forward_hook(lambda _, given, out: seen.append((given[2][0], out[0])))
    found = attention_weights(model, list(range(10)))
    hook.remove()
    assert len(found) == 1 + len(others)
    values, mixed = seen[0]
    heads = found[0][1].shape[0]
    values = values.repeat_interleave(heads // len(values), 0)  # shared by several heads
    expected = torch.from_numpy(found[0][1]).float() @ values
    assert torch.allclose(expected, mixed, atol=1e-5)
    assert all(not part._forward_hooks for part in model.modules())


def test_a_layer_and_a_head_can_be_chosen(subjects: dict[str, Subject]) -> None:
    everything = view()(subjects["gpt"])["heads"]
    assert view(layer=1)(subjects["gpt"])["heads"] == everything[2:]
    assert view(layer=1, head=0)(subjects["gpt"])["heads"] == everything[2:3]
    assert view(head=1)(subjects["gpt"])["heads"] == everything[1::2]


def test_a_head_that_looks_at_the_token_before_shows_it_in_the_figures(subjects: dict[str, Subject]) -> None:
    for one in view()(subjects["gpt"])["heads"]:
        weights = np.array(one["weights"])
        assert one["previous"] == pytest.approx(np.mean([weights[i, i - 1] for i in range(1, len(weights))]))
        assert one["first"] == pytest.approx(weights[1:, 0].mean())
        assert 0 < one["entropy"] < np.log(len(weights))


def test_there_is_a_picture_of_a_head_and_a_page_with_all(subjects: dict[str, Subject]) -> None:
    found = pictures(view()(subjects["gpt"]))
    assert list(found) == ["attention-layer0-head0", "attention-all"]
    one, page = found.values()
    assert isinstance(one, HeatMap)
    assert len(one.rows) == 12
    assert isinstance(page, Page)
    assert (len(page.maps), page.across) == (4, 2)
    assert list(pictures(view(layer=1, head=1)(subjects["gpt"]))) == ["attention-layer1-head1"]


def test_the_terminals_cells_are_blank_in_the_future(subjects: dict[str, Subject]) -> None:
    figures, cells = tables(view()(subjects["gpt"]))
    assert len(figures.rows) == 4
    for query, (label, row) in enumerate(cells.rows):
        assert isinstance(row, str)
        assert row.count("\u2800") == 2 * (11 - query)
        assert label == ("<end of text>" if query == 0 else label)
    many = {"tokens": ["a"], "layers": 2, "heads": view(text="a")(subjects["gpt"])["heads"] * 10}
    assert len(tables(many)[0].rows) == 2  # a row a layer where there are many heads


@pytest.mark.parametrize("text", ["a", "猫", " "])
def test_a_text_of_one_token_or_character_is_shown(text: str, subjects: dict[str, Subject]) -> None:
    document = view(text)(subjects["gpt"])
    assert len(document["tokens"]) >= 2
    assert tables(document)


def test_a_text_longer_than_the_context_is_cut(subjects: dict[str, Subject]) -> None:
    assert len(view("cat " * 100, max_tokens=50)(subjects["gpt"])["tokens"]) == 16


def test_what_is_not_there_is_refused_in_one_line(inspect: Any) -> None:
    code, _, said = inspect("attention", "run=gpt", "view.layer=2")
    assert (code, said) == (2, "error: view.layer=2: the model has layers 0 to 1\n")
    code, _, said = inspect("attention", "run=gpt", "view.head=7")
    assert (code, said) == (2, "error: view.head=7: layer 0 has heads 0 to 1\n")
    code, _, said = inspect("attention", "run=ngram")
    assert (code, said.count("\n")) == (2, 1)
    assert "no" in said
    assert inspect("attention", "run=gpt", "view.layer=-1")[0] == 2
    assert inspect("attention", "run=gpt", "view.max_tokens=1")[0] == 2


def test_the_command_tells_where_the_pictures_are(inspect: Any, runs: Path, tmp_path: Path) -> None:
    code, document, _ = inspect("attention", "run=gpt", f"view.text={TEXT}", "view.max_tokens=8")
    assert code == 0
    paths = [Path(path) for path in document["pictures"]]
    assert {path.name for path in paths} == {
        f"attention-{part}.{kind}" for part in ("all", "layer0-head0") for kind in ("png", "svg")
    }
    assert all(path.is_file() and path.parent == runs / "gpt" / "inspect" for path in paths)
    _, elsewhere, _ = inspect("attention", "run=gpt", "view.layer=0", "view.head=1", f"path={tmp_path}/there")
    assert {Path(path).parent for path in elsewhere["pictures"]} == {tmp_path / "there"}


def test_a_chosen_model_is_looked_at_before_training(inspect: Any) -> None:
    small = ["model.n_embd=8", "model.n_layer=1", "model.n_head=1", "view.max_tokens=6"]
    code, document, _ = inspect("attention", "run=gpt", "model=gpt_nano", *small)
    assert code == 0
    assert len(document["heads"]) == 1
    weights = np.array(document["heads"][0]["weights"])
    assert np.allclose(weights[5], 1 / 6, atol=0.02)  # near to uniform
    assert inspect("attention", "run=gpt", "model=gpt_nano", *small)[1]["heads"] == document["heads"]
    assert inspect("attention", "run=gpt", "model=bigram")[0] == 2


def test_there_must_be_a_text(subjects: dict[str, Subject]) -> None:
    class Nothing:
        def documents(self) -> list[np.ndarray]:
            return []

    empty = Subject(subjects["gpt"].model, subjects["gpt"].tokenizer, Nothing(), Nothing())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"view\.text"):
        view("")(empty)


def test_a_run_that_writes_a_target_for_a_source_reads_no_plain_text(subjects: dict[str, Subject]) -> None:
    with pytest.raises(ConfigError, match="target for a source"):
        view()(replace(subjects["gpt"], in_order=False))
