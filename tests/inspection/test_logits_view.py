"""`inspect logits`: each token's probability, rank and surprise, of any model."""

import math
from typing import Any

import pytest
import torch
from rich.text import Text

from pretrain.inspection.logits import LogitsView, tables
from pretrain.inspection.tokens import id_texts
from pretrain.inspection.view import Subject
from pretrain.models.ngram import NGram

TEXT = "The cat sat on the mat. 吾輩は猫である。"


def rows_of(subject: Subject, text: str = TEXT, most: int = 100) -> dict[str, Any]:
    return LogitsView(text=text, max_tokens=most)(subject)


@pytest.mark.parametrize("name", ["gpt", "ngram"])
def test_surprise_is_the_loss_of_each_token(name: str, subjects: dict[str, Subject]) -> None:
    subject = subjects[name]
    text = TEXT[:10]
    ids = [subject.tokenizer.end_of_text, *subject.tokenizer.encode(text)]
    assert len(ids) <= subject.sequence_length
    row = torch.tensor([ids])
    with torch.inference_mode():
        nats, _ = subject.model.token_losses(row[:, :-1], row[:, 1:])
    document = rows_of(subject, text)
    assert [one["nats"] for one in document["tokens"]] == pytest.approx(nats[0].tolist(), rel=1e-4)
    assert document["loss"] == pytest.approx(float(nats.mean()), rel=1e-4)
    for one in document["tokens"]:
        assert one["bits"] == pytest.approx(one["nats"] / math.log(2))
        assert one["probability"] == pytest.approx(math.exp(-one["nats"]))


@torch.inference_mode()
def test_the_rank_is_the_place_among_all_tokens_by_probability(subjects: dict[str, Subject]) -> None:
    subject = subjects["gpt"]
    likeliest = int(subject.model(torch.tensor([[subject.tokenizer.end_of_text]]))[0, 0].argmax())
    for text in (subject.text_of(likeliest), TEXT[:10]):
        ids = [subject.tokenizer.end_of_text, *subject.tokenizer.encode(text)]
        logits = subject.model(torch.tensor([ids]))[0]
        document = rows_of(subject, text)
        for place, one in enumerate(document["tokens"]):
            order = logits[place].argsort(descending=True).tolist()
            assert one["rank"] == 1 + order.index(ids[place + 1])
            assert one["best"]["id"] == order[0]
            assert one["best"]["probability"] >= one["probability"]


@torch.inference_mode()
def test_a_text_longer_than_a_row_is_read_in_rows_that_overlap(subjects: dict[str, Subject]) -> None:
    subject = subjects["gpt"]
    assert subject.sequence_length == 16
    document = rows_of(subject)
    ids = [subject.tokenizer.end_of_text, *subject.tokenizer.encode(TEXT)]
    assert [one["id"] for one in document["tokens"]] == ids[1:]
    assert len(ids) > 30
    logits = subject.model(torch.tensor([ids[8:24]]))[0]  # the second row; its first half was judged in the first row
    expected = -logits.double().log_softmax(1)[10, ids[19]]
    assert document["tokens"][18]["nats"] == pytest.approx(float(expected), rel=1e-5)
    first = subject.model(torch.tensor([ids[:16]]))[0]
    assert document["tokens"][10]["nats"] == pytest.approx(float(-first.double().log_softmax(1)[10, ids[11]]), rel=1e-5)


@pytest.mark.parametrize("name", ["gpt", "ngram"])
@pytest.mark.parametrize("text", ["a", " ", "\n", "猫"])
def test_a_text_of_one_token_is_judged(name: str, text: str, subjects: dict[str, Subject]) -> None:
    document = rows_of(subjects[name], text)
    assert len(document["tokens"]) == len(subjects[name].tokenizer.encode(text))
    assert tables(document)


def test_without_a_text_the_first_validation_document_is_read(subjects: dict[str, Subject]) -> None:
    first = next(subjects["gpt"].validation.documents()).tolist()
    assert [one["id"] for one in rows_of(subjects["gpt"], "", 5)["tokens"]] == first[:5]


def test_what_a_model_without_smoothing_never_saw_is_infinitely_surprising(subjects: dict[str, Subject]) -> None:
    subject = subjects["ngram"]
    model = NGram(subject.tokenizer.vocab_size, order=1, smoothing="none", k=1.0)
    model.fit(subject.training.array(), subject.tokenizer.end_of_text)
    unseen = next(text for text in map(chr, range(33, 1000)) if text not in "".join(map(subject.text_of, range(300))))
    blank = Subject(model, subject.tokenizer, subject.training, subject.validation)
    document = rows_of(blank, unseen)
    infinite = [one for one in document["tokens"] if one["nats"] is None]
    assert infinite
    assert infinite[0]["probability"] == 0
    assert document["loss"] is None
    assert "inf" in str(tables(document)[1].rows)


def test_the_text_is_coloured_by_surprise_and_whole(subjects: dict[str, Subject]) -> None:
    document = rows_of(subjects["gpt"])
    coloured, rows = tables(document)
    shown = coloured.rows[1][0]
    assert isinstance(shown, Text)
    assert shown.plain == TEXT
    assert len(shown.spans) == len(document["parts"])
    assert len(rows.rows) == len(document["tokens"])


def test_tokens_that_are_parts_of_characters_are_shown_together(subjects: dict[str, Subject]) -> None:
    tokenizer = subjects["gpt"].tokenizer
    ids = tokenizer.encode("a輩b")
    assert [part for part, _ in id_texts(tokenizer, ids)] == ["a", "輩", "b"]
    assert [token for _, own in id_texts(tokenizer, ids) for token in own] == ids
    parts = id_texts(tokenizer, ids[:2])  # cut inside the character
    assert [token for _, own in parts for token in own] == ids[:2]


def test_the_command_runs_on_every_kind_of_model(inspect: Any) -> None:
    for name in ("gpt", "ngram"):
        code, document, _ = inspect("logits", f"run={name}", f"view.text={TEXT}")
        assert code == 0
        assert document["loss"] > 0
    code, _, said = inspect("logits", "run=gpt", "view.max_tokens=0")
    assert (code, said.count("\n")) == (2, 1)
