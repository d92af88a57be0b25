"""`inspect tokenizer` on a tiny run of two sources."""

import json

import pytest

from pretrain import cli
from pretrain.inspection.tokenizer import tables
from pretrain.tokenizers.bpe import BytePairEncoding

ENGLISH = "The cat sat on the mat, and the dog slept by the door of the old house."
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"


@pytest.fixture(scope="module")
def document(tmp_path_factory, tiny_corpus):
    at = tmp_path_factory.mktemp("view")
    (at / "en").mkdir()
    (at / "ja").mkdir()
    for number in range(12):
        (at / "en" / f"{number}.txt").write_text(f"{ENGLISH} {number}", "utf-8")
        (at / "ja" / f"{number}.txt").write_text(f"{JAPANESE}{number}", "utf-8")
    BytePairEncoding(vocab_size=300, splitting="gpt4", sample_bytes=10**6).train(tiny_corpus).save(
        at / "tokenizer.json"
    )
    common = [f"data_dir={at}/data", f"runs_dir={at}/runs"]
    words = [f"data.paths=[{at}/en,{at}/ja]", "data=files", "data/recipe=none", "data.validation_fraction=0.4"]
    train = ["train", *words, *common, "tokenizer=char", "model=bigram", "executor=serial"]
    assert cli.main(train) == 0
    return at, common[1]


def inspected(capsys, at, runs, *words: str):
    capsys.readouterr()
    assert cli.main(["inspect", "tokenizer", runs, *words, "format=json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_bytes_a_token_are_told_by_source_and_language(document, capsys):
    at, runs = document
    found = inspected(capsys, at, runs)
    groups = {row["group"]: row for row in found["groups"]}
    assert groups["all"] == groups["source files"] | {"group": "all"}
    assert groups["language ja"]["bytes_per_token"] > 2.5
    assert groups["language en"]["bytes_per_token"] < 1.5
    assert groups["all"]["tokens"] == groups["language ja"]["tokens"] + groups["language en"]["tokens"]


def test_a_text_is_cut_by_several_tokenizers(document, capsys):
    at, runs = document
    found = inspected(capsys, at, runs, "view.text=the 猫 [bold]x", f"view.compare=[{at}/tokenizer.json]")
    assert [cut["tokenizer"] for cut in found["cuts"]] == ["this run", f"{at}/tokenizer.json"]
    for cut in found["cuts"]:
        assert "".join(part["text"] for part in cut["parts"]) == found["text"] == "the 猫 [bold]x"
    text = tables(found)[2].rows[1][2]
    assert "the 猫×3 [bold]x" in text.plain.replace("×2", "")
    assert len({span.style for span in text.spans}) == 3


def test_people_see_tables(document, capsys):
    _, runs = document
    assert cli.main(["inspect", "tokenizer", runs]) == 0
    out = capsys.readouterr().out
    assert "bytes a token" in out
    assert "language ja" in out
