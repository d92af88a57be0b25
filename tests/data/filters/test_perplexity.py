import json
import math
import random

import numpy as np
import pyarrow as pa
import pytest

from pretrain.data.documents import DOCUMENT
from pretrain.data.filters.perplexity import Perplexity, perplexities
from pretrain.errors import ConfigError, DataError
from pretrain.models.ngram import NGram
from pretrain.tokenizers.characters import Characters

DEFAULT = {"text_field": "text", "reference_bytes": 10**6, "order": 4, "min_perplexity": None, "max_perplexity": 12.0}


def stage(path, **changes) -> Perplexity:
    return Perplexity(**(DEFAULT | {"paths": [str(path)]} | changes))


def table(texts: list[str]) -> pa.Table:
    rows = [{"id": str(n), "text": text, "source": "s", "source_id": "r", "meta": "{}"} for n, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=DOCUMENT)


@pytest.fixture
def reference(tiny_corpus, tmp_path):
    path = tmp_path / "reference.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny_corpus * 3), "utf-8")
    return path


def test_text_like_the_reference_stays_and_shuffled_letters_go(reference, tiny_corpus):
    chance = random.Random(1)
    shuffled = ["".join(chance.sample(text, len(text))) for text in tiny_corpus[:5]]
    output = stage(reference)(table([*tiny_corpus[:5], *shuffled]))
    assert output.kept["id"].to_pylist() == ["0", "1", "2", "3", "4"]
    rows = output.dropped.to_pylist()
    assert [row["id"] for row in rows] == ["5", "6", "7", "8", "9"]
    assert all(row["rule"] == "max_perplexity" and row["value"] > row["threshold"] == 12.0 for row in rows)


def test_text_that_is_too_easy_goes(reference, tiny_corpus):
    output = stage(reference, min_perplexity=4.0, max_perplexity=None)(table([tiny_corpus[0], "zebras quiz kings"]))
    assert output.kept["id"].to_pylist() == ["1"]
    assert output.dropped["rule"].to_pylist() == ["min_perplexity"]


def test_perplexities_are_those_of_each_text_alone(tiny_corpus):
    tokenizer = Characters(min_count=1, sample_bytes=10**6).train(tiny_corpus)
    model = NGram(tokenizer.vocab_size, order=3, smoothing="kneser_ney", k=1.0)
    ids = [tokenizer.end_of_text]
    for text in tiny_corpus:
        ids += [*tokenizer.encode(text), tokenizer.end_of_text]
    model.fit(np.array(ids), tokenizer.end_of_text)
    texts = [*tiny_corpus[:3], "", "🦀"]
    together = perplexities(texts, tokenizer, model)
    assert together == pytest.approx([perplexities([text], tokenizer, model)[0] for text in texts])
    stream = np.array([tokenizer.end_of_text, *tokenizer.encode(texts[0]), tokenizer.end_of_text])
    nats = model.stream_losses(stream).sum()
    assert together[0] == pytest.approx(math.exp(nats / (len(texts[0]) + 1)))


def test_the_key_follows_what_is_in_the_files_and_not_where_they_lie(reference, tmp_path):
    other = tmp_path / "elsewhere.jsonl"
    other.write_bytes(reference.read_bytes())
    assert stage(other).contents == stage(reference).contents
    other.write_text(other.read_text("utf-8") + json.dumps({"text": "more"}) + "\n", "utf-8")
    assert stage(other).contents != stage(reference).contents


def test_a_missing_or_empty_reference_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        stage(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="holds no text"):
        stage(tmp_path / "empty.txt")


def test_bounds_that_cross_are_refused(reference):
    with pytest.raises(ConfigError, match="is above max_perplexity"):
        stage(reference, min_perplexity=20.0)
