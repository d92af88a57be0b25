"""`inspect embeddings`: neighbours and analogies on vectors made by hand, and the plane against numpy."""

from typing import Any

import numpy as np
import pytest
import torch

from pretrain.errors import ConfigError
from pretrain.inspection.embeddings import EmbeddingsView, pictures, plane, tables
from pretrain.inspection.view import Points, Subject


def view(tokens: list[str] | None = None, analogies: list[str] | None = None, frequent: int = 20) -> EmbeddingsView:
    return EmbeddingsView(tokens=tokens or [], analogies=analogies or [], n=3, frequent=frequent)


@pytest.fixture
def made_by_hand(subjects: dict[str, Subject]) -> Subject:
    """a, b and c, d differ by the same vector; e points where a does."""
    subject = subjects["gpt"]
    torch.manual_seed(0)
    weight = torch.nn.functional.normalize(torch.randn(subject.tokenizer.vocab_size, 16), dim=1)
    a, b, c, d, e = (subject.tokenizer.encode(letter)[0] for letter in "abcde")
    unit = torch.eye(16)
    weight[a], weight[b] = unit[0] + unit[1], unit[0] - unit[1]
    weight[c], weight[d] = unit[2] + unit[1], unit[2] - unit[1]
    weight[e] = 3 * weight[a]
    model = torch.nn.Module()
    model.token_embedding = torch.nn.Embedding(*weight.shape, _weight=weight)
    return Subject(model, subject.tokenizer, subject.training, subject.validation)  # type: ignore[arg-type]  # enough of one


def test_the_nearest_embedding_is_the_one_of_the_same_direction(made_by_hand: Subject) -> None:
    [found] = view(["a"])(made_by_hand)["neighbours"]
    assert found["token"] == "a"
    assert found["nearest"][0]["token"] == "e"
    assert found["nearest"][0]["cosine"] == pytest.approx(1)
    cosines = [row["cosine"] for row in found["nearest"]]
    assert cosines == sorted(cosines, reverse=True)
    assert len(cosines) == 3


def test_an_analogy_completes_the_parallelogram(made_by_hand: Subject) -> None:
    [found] = view(analogies=["a - b + d"])(made_by_hand)["analogies"]
    assert found["nearest"][0]["token"] == "c"
    assert found["nearest"][0]["cosine"] == pytest.approx(1)
    assert {row["token"] for row in found["nearest"]}.isdisjoint("abd")


def test_the_plane_has_the_largest_variance_and_always_the_same_signs() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 5)) * [5, 1, 3, 1, 1])
    places, shares = plane(rows)
    centred = (rows - rows.mean(0)).numpy()
    values = np.linalg.eigvalsh(centred.T @ centred)[::-1]
    assert places.square().sum(0).numpy() == pytest.approx(values[:2])
    assert shares == pytest.approx(values[:2] / values.sum())
    assert torch.allclose(plane(rows[torch.randperm(30).argsort()])[0].abs().sum(0), places.abs().sum(0))
    again, _ = plane(rows.clone())
    assert torch.equal(again, places)


@pytest.mark.parametrize("rows", [torch.ones(3, 4), torch.arange(3.0)[:, None], torch.ones(1, 4)])
def test_points_without_any_spread_have_a_plane_too(rows: torch.Tensor) -> None:
    places, shares = plane(rows)
    assert places.shape == (len(rows), 2)
    assert places.isfinite().all()
    assert all(0 <= share <= 1 for share in shares)


def test_the_plane_shows_the_most_frequent_tokens(subjects: dict[str, Subject]) -> None:
    document = view()(subjects["gpt"])
    counts = np.bincount(subjects["gpt"].training.array())
    assert [counts[row["id"]] for row in document["plane"]] == sorted(counts, reverse=True)[:20]
    [picture] = pictures(document).values()
    assert isinstance(picture, Points)
    assert picture.places.shape == (20, 2)
    assert len(picture.labels) == 20
    assert len(tables(document)) == 1
    assert len(tables(view(analogies=["a - b + c"])(subjects["gpt"]))) == 2


def test_what_is_not_one_token_is_refused_with_its_parts(inspect: Any) -> None:
    code, _, said = inspect("embeddings", "run=gpt", "view.tokens=[zqj]")
    assert (code, said.count("\n")) == (2, 1)
    assert "'z', 'q', 'j'" in said
    code, _, said = inspect("embeddings", "run=gpt", "view.analogies=[a + b]")
    assert (code, said.count("\n")) == (2, 1)
    assert "a - b + c" in said
    code, _, said = inspect("embeddings", "run=ngram")
    assert (code, said.count("\n")) == (2, 1)
    assert "view=ngram" in said


def test_a_token_behind_a_space_is_found_by_its_word(subjects: dict[str, Subject]) -> None:
    behind = next(
        subjects["gpt"].text_of(token)[1:]
        for token in range(300)
        if subjects["gpt"].text_of(token).startswith(" ")
        and len(subjects["gpt"].tokenizer.encode(subjects["gpt"].text_of(token)[1:])) > 1
    )
    [found] = view([behind])(subjects["gpt"])["neighbours"]
    assert found["token"] == f" {behind}"


def test_the_command_draws_the_plane(inspect: Any) -> None:
    code, document, _ = inspect("embeddings", "run=gpt", "view.tokens=[a,b]", "view.analogies=[a - b + c]")
    assert code == 0
    assert [row["token"] for row in document["neighbours"]] == ["a", "b"]
    assert len(document["analogies"]) == 1
    assert len(document["pictures"]) == 2


def test_a_model_without_embeddings_is_refused(subjects: dict[str, Subject]) -> None:
    with pytest.raises(ConfigError, match="ngram"):
        view()(subjects["ngram"])
