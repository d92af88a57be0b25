"""`pretrain eval`, from the command line."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretrain import cli
from pretrain.data.manifests import checksum

TINY = [
    "executor=serial",
    "data=files",
    "data.sources.files.unit=line",
    "data/recipe=none",
    "threads=1",
    "sample.max_tokens=0",
    "trainer.max_steps=2",
    "trainer.batch_tokens=32",
    "trainer.sequence_length=16",
]
GPT = ["model=gpt_nano", "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=16"]
RUNS = {
    "bigram": ["tokenizer=byte", "model=bigram"],
    "maximum_likelihood": ["tokenizer=byte", "model=bigram", "model.smoothing=none"],
    "gpt": ["tokenizer=byte", *GPT],
    "characters": ["tokenizer=char", "model=bigram"],
    "reversed": ["tokenizer=byte", "model=encoder_decoder", "objective=reversal", *GPT[1:]],
    "apart": ["tokenizer=byte", *GPT, "trainer.packing=documents"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: list[str]) -> Path:
    """A folder with a run of each kind, all on the same forty lines of text from two files."""
    folder = tmp_path_factory.mktemp("trained")
    texts = [" ".join(text.split()) for text in tiny_corpus] * 4
    lines = [f"{number} {text}" for number, text in enumerate(texts)]
    (folder / "corpus.txt").write_text("\n".join(lines), "utf-8")
    (folder / "held_out.txt").write_text("\n".join(f"{text}!" for text in lines[:40]), "utf-8")
    paths = [f"data.paths=[{folder}/corpus.txt]", f"data.validation_paths=[{folder}/held_out.txt]"]
    where = [f"runs_dir={folder}/runs", f"data_dir={folder}/data"]
    for name, words in RUNS.items():
        assert cli.main(["train", *TINY, *paths, *where, *words, f"name={name}", "format=json"]) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs, to be damaged."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert cli.main(["eval", *words, "threads=1", "format=json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = cli.main(["eval", *words, "threads=1"])
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return code, lines[0]


def test_a_counted_run_has_every_figure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(capsys, "run=bigram")
    trained = json.loads((folder / "runs/bigram/result.json").read_text())
    assert result["loss"] == pytest.approx(trained["validation"]["loss"], rel=1e-9)
    assert result["bits_per_byte"] == pytest.approx(trained["validation"]["bits_per_byte"], rel=1e-9)
    assert result["references"] == trained["references"]
    bigram = trained["references"]["bigram"]
    assert result["share_from_bigram_to_zero"] == pytest.approx(1 - result["loss"] / bigram)
    assert 0 < result["accuracy"]["top_1"] < result["accuracy"]["top_5"] < 1
    assert result["standard_error"]["method"] == "between 40 documents"
    assert all(0 < result["standard_error"][name] < 1 for name in ("loss", "top_1", "top_5"))
    [source] = result["by_source"].values()
    assert source["loss"] == pytest.approx(result["loss"])
    assert source["bits_per_byte"] == pytest.approx(result["bits_per_byte"])
    assert source["tokens"] == result["tokens"] > 1000
    assert [(row["from"], row["to"]) for row in result["by_position"]] == [(1, 1)]  # a bigram sees one token


def test_accuracies_are_those_of_the_models_own_logits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pretrain.commands.loading import load_run, run_tokens

    result = evaluated(capsys, "run=bigram")
    loaded = load_run("bigram", "latest", "runs", torch.device("cpu"), "fp32")
    stream = run_tokens(loaded, "validation")
    tokens = torch.from_numpy(stream.read(0, len(stream)))
    logits = loaded.model(tokens[None, :-1])[0]
    best = logits.topk(5).indices
    hits = best == tokens[1:, None]
    assert result["accuracy"]["top_1"] == pytest.approx(float(hits[:, 0].double().mean()), abs=0.003)  # but for ties
    assert result["accuracy"]["top_5"] == pytest.approx(float(hits.any(1).double().mean()), abs=0.005)


@pytest.mark.parametrize("name", ["gpt", "apart"])
def test_a_trained_run_has_a_loss_at_every_position(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    result = evaluated(capsys, f"run={name}")
    trained = json.loads((folder / f"runs/{name}/result.json").read_text())
    assert result["loss"] == pytest.approx(trained["validation"]["loss"], rel=0.01)
    assert [(row["from"], row["to"]) for row in result["by_position"]] == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16)]
    assert result["references"].keys() == {"uniform", "unigram", "bigram", "best_ngram", "best_ngram_order"}


def test_other_texts_are_measured_with_the_runs_tokenizer_and_fresh_references(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = evaluated(capsys, "run=gpt")
    held_out = ["data.unit=line", f"data.paths=[{trained}/held_out.txt]"]
    again = evaluated(capsys, "run=gpt", *held_out)
    assert again["tokens"] == own["tokens"]
    assert again["loss"] == pytest.approx(own["loss"], rel=1e-3)  # the documents stand in another order
    assert again["bits_per_word"] == pytest.approx(own["bits_per_word"], rel=1e-3)
    assert again["references"] == pytest.approx(own["references"], rel=1e-3)
    (folder / "short.txt").write_text("A garden.", "utf-8")
    both = evaluated(capsys, "run=gpt", f"data.paths=[{trained}/held_out.txt,short.txt]")
    assert set(both["by_source"]) == {f"{trained}/held_out.txt", "short.txt"}
    assert both["by_source"]["short.txt"]["tokens"] == len("A garden.") + 1
    assert "blocks" in both["standard_error"]["method"]


def test_other_texts_have_the_uniform_reference_where_the_training_tokens_are_gone(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = folder / "runs/gpt/data_manifest.json"
    written = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**written, "folder": str(folder / "gone")}))
    result = evaluated(capsys, "run=gpt", f"data.paths=[{trained}/held_out.txt]")
    assert result["references"] == {"uniform": pytest.approx(math.log(257))}
    assert result["share_from_bigram_to_zero"] is None
    code, error = refused(capsys, "run=gpt")
    assert (code, "are gone" in error) == (3, True)


@pytest.mark.parametrize("text", ["The cat sat.", "猫 = ${a}, (x)", "It was a bright cold day in April, and more."])
def test_a_text_has_the_log_probability_that_its_tokens_have_one_after_the_other(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    from pretrain.commands.loading import load_run

    result = evaluated(capsys, "run=bigram", f"text={text}")
    loaded = load_run("bigram", "latest", "runs", torch.device("cpu"), "fp32")
    ids = loaded.tokenizer.encode(text)
    log_probs = loaded.model(torch.tensor([[loaded.tokenizer.end_of_text, *ids[:-1]]]))[0]
    expected = [float(row[id]) for row, id in zip(log_probs, ids, strict=True)]
    assert [token["id"] for token in result["tokens"]] == ids
    assert [token["logprob"] for token in result["tokens"]] == pytest.approx(expected)
    assert result["logprob"] == pytest.approx(sum(expected))
    ranks = [int((row > row[id]).sum()) + 1 for row, id in zip(log_probs, ids, strict=True)]
    assert [token["rank"] for token in result["tokens"]] == ranks
    assert result["bits_per_byte"] == pytest.approx(-sum(expected) / math.log(2) / len(text.encode()))


def test_runs_on_the_same_tokens_are_compared_in_nats_document_by_document(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = evaluated(capsys, "run=[bigram,gpt]")
    assert "compared" not in first
    compared = second["compared"]
    assert compared["unit"] == "nats per token"
    assert compared["difference"] == pytest.approx(second["loss"] - first["loss"])
    assert compared["confidence_95"][0] < compared["difference"] < compared["confidence_95"][1]
    assert compared["p_value"] < 0.01  # a GPT after two steps knows nothing
    assert compared["method"] == "paired t-test between 40 documents"


def test_runs_with_different_tokenizers_are_compared_in_bits_per_byte_only(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = evaluated(capsys, "run=[bigram,characters]")
    compared = second["compared"]
    assert compared["unit"] == "bits per byte"
    assert compared["method"] == "paired t-test between 40 documents"
    assert compared["difference"] == pytest.approx(second["bits_per_byte"] - first["bits_per_byte"], rel=1e-6)


def test_one_document_is_compared_without_a_test_and_an_infinite_loss_not_at_all(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "one.txt").write_text("The cat sat on the mat. 猫" * 30, "utf-8")
    first, second = evaluated(capsys, "run=[bigram,characters]", "data.paths=[one.txt]")
    compared = second["compared"]
    assert compared["difference"] == pytest.approx(second["bits_per_byte"] - first["bits_per_byte"])
    assert compared["reason"] == "one document alone has no standard error"
    assert "p_value" not in compared
    _, second = evaluated(capsys, "run=[bigram,maximum_likelihood]")
    assert second["loss"] is None
    assert second["unseen"]["targets"] > 0
    assert second["compared"]["difference"] is None
    assert second["compared"]["reason"] == "a loss is infinite"
    assert cli.main(["eval", "run=[bigram,characters]", "data.paths=[one.txt]", "threads=1"]) == 0
    assert "against bigram: one document alone" in capsys.readouterr().out


def test_the_tables_tell_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "run=[bigram,characters]", "threads=1"]) == 0
    out = capsys.readouterr().out
    assert "standard error between 40 documents" in out
    assert "bits per byte against bigram" in out
    assert cli.main(["eval", "run=bigram", "text=The cat", "threads=1"]) == 0
    assert "log-probability -" in capsys.readouterr().out
    assert cli.main(["eval", "run=reversed", "threads=1"]) == 0
    assert "the loss is on the targets of its objective" in " ".join(capsys.readouterr().out.split())


def test_an_objective_has_its_own_targets_and_no_figures_of_the_text(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(capsys, "run=reversed")
    assert result["bits_per_byte"] is result["share_from_bigram_to_zero"] is None
    assert result["by_source"] == {}
    assert 0 <= result["accuracy"]["top_1"] <= result["accuracy"]["top_5"] <= 1
    assert "rows" in result["standard_error"]["method"]
    _, other = evaluated(capsys, "run=[bigram,reversed]")
    assert "objective" in other["compared"]["reason"]
    code, error = refused(capsys, "run=reversed", "text=no")
    assert (code, "runs that predict the next token" in error) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["text=a", "data.paths=[b.txt]"], "text and data.paths are measured one at a time"),
        (["text="], "text= is empty"),
        (["data.paths=[nowhere.txt]"], "nowhere.txt"),
        (["tasks=[blimp]", "text=a"], "text and tasks are measured one at a time"),
        (["few_shot=-1"], "few_shot=-1"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, error = refused(capsys, "run=gpt", *words)
    assert code == 2
    assert message in error


def test_texts_without_text_are_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.txt").write_text("", "utf-8")
    code, error = refused(capsys, "run=gpt", "data.paths=[empty.txt]")
    assert code == 3
    assert "the texts at data.paths are empty" in error


def step_folder(run: Path) -> Path:
    return run / "checkpoints" / (run / "latest").read_text().strip()


def rewrite(step: Path, name: str) -> None:
    """Give a changed file of a checkpoint its checksum."""
    manifest = json.loads((step / "manifest.json").read_text())
    manifest["checksums"][name] = checksum(step / name)
    (step / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_without_checkpoints_is_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "runs/gpt/checkpoints")
    code, error = refused(capsys, "run=gpt")
    assert (code, "has no checkpoint yet" in error) == (2, True)


def test_a_damaged_checkpoint_is_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = step_folder(folder / "runs/gpt") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, error = refused(capsys, "run=gpt")
    assert (code, "model.safetensors is damaged" in error) == (3, True)


def test_a_tokenizer_that_does_not_match_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = step_folder(folder / "runs/gpt")
    shutil.copy(step_folder(folder / "runs/characters") / "tokenizer.json", step / "tokenizer.json")
    rewrite(step, "tokenizer.json")
    code, error = refused(capsys, "run=gpt")
    assert (code, "is not the tokenizer that" in error) == (3, True)


def test_broken_weights_are_told_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = step_folder(folder / "runs/gpt")
    weights = load_file(step / "model.safetensors")
    weights["token_embedding.weight"][3] = torch.nan
    save_file(weights, step / "model.safetensors")
    rewrite(step, "model.safetensors")
    code, error = refused(capsys, "run=gpt")
    assert (code, "is not a number: its weights are broken" in error) == (3, True)
    code, error = refused(capsys, "run=gpt", "text=cat")
    assert (code, "is not a number" in error) == (3, True)


def test_an_empty_validation_set_is_refused_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pretrain.data.shards import write_manifest

    manifest = folder / "runs/gpt/data_manifest.json"
    written = json.loads(manifest.read_text())
    emptied = folder / "tokens"
    emptied.mkdir()
    known = {name: written[name] for name in written if name not in ("folder", "fingerprint", "version")}
    write_manifest(emptied, {**known, "splits": {"train": [], "validation": []}})
    manifest.write_text(json.dumps({**json.loads((emptied / "manifest.json").read_text()), "folder": str(emptied)}))
    code, error = refused(capsys, "run=gpt")
    assert (code, "the validation split holds no target token" in error) == (3, True)
