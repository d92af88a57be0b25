"""`inspect decoding`: what each decoding leaves of a model's distribution, step by step."""

import math
from typing import Any

import pytest
import torch

from pretrain.errors import SamplingError
from pretrain.inspection.decoding import NAMES, DecodingView, pictures, tables
from pretrain.inspection.view import Subject
from pretrain.models.ngram import NGram
from pretrain.reporting.pictures import draw

SETTINGS: dict[str, Any] = {"text": "The cat", "max_tokens": 4, "n": 5, "temperature": 0.5, "k": 3, "p": 0.8, "seed": 1}


def document_of(subject: Subject, **others: Any) -> dict[str, Any]:
    return DecodingView(**SETTINGS | others)(subject)


@pytest.mark.parametrize("name", ["gpt", "ngram"])
def test_probabilities_are_those_of_each_decoding_worked_out_by_hand(name: str, subjects: dict[str, Subject]) -> None:
    subject = subjects[name]
    document = document_of(subject, n=10**6)
    ids = [subject.tokenizer.end_of_text, *subject.tokenizer.encode("The cat")]
    for step in document["steps"]:
        with torch.inference_mode():
            model = subject.model(torch.tensor([ids]))[0, -1].double().softmax(0)
        order = model.sort(descending=True, stable=True)[1].tolist()
        assert len(step["tokens"]) == subject.tokenizer.vocab_size
        found = {one["id"]: one for one in step["tokens"]}
        before = 0.0
        tempered = model**2 / (model**2).sum()
        for rank, token in enumerate(order):
            one = found[token]
            assert one["model"] == pytest.approx(float(model[token]), rel=1e-4, abs=1e-9)
            assert one["greedy"] == (rank == 0)
            assert one["temperature"] == pytest.approx(float(tempered[token]), rel=1e-4, abs=1e-9)
            assert one["top_k"] == 0 or model[token] >= model[order[2]]
            if abs(before - 0.8) > 1e-4:
                assert (one["top_p"] > 0) == (before < 0.8)
            before += float(model[token])
        assert step["kept"]["top_k"] == 3
        for decoding in NAMES:
            assert sum(one[decoding] for one in step["tokens"]) == pytest.approx(1)
            assert step["kept"][decoding] == sum(one[decoding] > 0 for one in step["tokens"])
        assert step["entropy"] == pytest.approx(-float((model * model.log()).nansum()) / math.log(2), rel=1e-4)
        assert found[step["chosen"]["id"]]["top_p"] > 0
        ids.append(step["chosen"]["id"])


def test_the_text_depends_on_the_seed_and_on_nothing_else(subjects: dict[str, Subject]) -> None:
    chosen = [
        [step["chosen"]["id"] for step in document_of(subjects["gpt"], seed=seed, p=1.0)["steps"]]
        for seed in (1, 1, 2, 3)
    ]
    assert chosen[0] == chosen[1]
    assert len(set(map(tuple, chosen))) > 1


def test_it_is_shown_as_tables_and_as_a_picture(subjects: dict[str, Subject], tmp_path: Any) -> None:
    document = document_of(subjects["gpt"])
    shown = tables(document)
    assert len(shown) == len(document["steps"])
    for table, step in zip(shown, document["steps"], strict=True):
        assert len(table.rows) == len(step["tokens"]) + 1
        assert {len(row) for row in table.rows} == {len(table.columns)} == {6}
    (name, picture), *others = pictures(document).items()
    assert (name, others) == ("decoding", [])
    assert [path.stat().st_size > 1000 for path in draw(picture, tmp_path / name)] == [True, True]


def test_a_model_that_knows_nothing_here_is_refused(subjects: dict[str, Subject]) -> None:
    subject = subjects["ngram"]
    model = NGram(subject.tokenizer.vocab_size, order=3, smoothing="none", k=1.0)
    model.fit(subject.training.array(), subject.tokenizer.end_of_text)
    blank = Subject(model, subject.tokenizer, subject.training, subject.validation)
    with pytest.raises(SamplingError, match="smoothing"):
        document_of(blank, text="zzqq")


def test_the_command_runs_on_every_kind_of_model(inspect: Any) -> None:
    for name in ("gpt", "ngram"):
        code, document, said = inspect("decoding", f"run={name}", "view.text=The cat", "view.max_tokens=2")
        assert code == 0, said
        assert 1 <= len(document["steps"]) <= 2
        assert len(document["pictures"]) == 2
    code, _, said = inspect("decoding", "run=gpt", "view.k=0")
    assert (code, said.count("\n")) == (2, 1)
