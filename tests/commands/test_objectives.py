"""From the command line: a model that fills gaps, and one that turns texts round."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pretrain import cli
from pretrain.data.manifests import checksum

TINY = [
    "data=files",
    "executor=serial",
    "tokenizer.vocab_size=300",
    "threads=1",
    "sample.max_tokens=4",
    "trainer.max_steps=6",
    "trainer.eval_every=3",
    "trainer.eval_tokens=64",
    "trainer.checkpoint_every=2",
    "trainer.batch_tokens=64",
    "model=encoder_decoder",
    "model.n_layer=1",
    "model.n_embd=16",
    "model.n_head=2",
    "model.context_length=16",
    "model.dropout=0.1",
]
OBJECTIVES = {
    "span_corruption": ["objective=span_corruption", "objective.noise_density=0.4", "objective.mean_span=2"],
    "reversal": ["objective=reversal"],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    numbers = random.Random(0)
    for document in range(30):
        text = " ".join(numbers.choices("the cat sat on a mat while 吾輩 は 猫 である".split(), k=50))
        (folder / f"{document}.txt").write_text(f"{document} {text}.\n", "utf-8")
    return folder


def train(corpus: Path, *more: str) -> list[str]:
    return ["train", f"data.paths={corpus}", f"data_dir={corpus.parent / 'built'}", *TINY, *more]


def in_process(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    code = cli.main([*words, "format=json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_eval_measures_what_training_measured_and_sample_writes(
    objective: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, trained, said = in_process(capsys, *train(corpus, *OBJECTIVES[objective]))
    assert code == 0, said
    # The prompt that stands in the objective's file is too long for so small a model.
    assert (trained["sample"] is None) == ("or a shorter prompt" in said)
    assert list(trained["references"]) == ["uniform"]
    assert trained["validation"]["bits_per_byte"] is None
    assert 0 < trained["validation"]["loss"] < trained["references"]["uniform"] + 0.2
    code, measured, _ = in_process(capsys, "eval", "threads=1")
    assert code == 0
    assert measured["loss"] == pytest.approx(trained["validation"]["loss"], abs=1e-9)
    assert measured["references"] == trained["references"]
    assert measured["bits_per_word"] is None
    code, samples, said = in_process(capsys, "sample", "prompt=the cat ___ a mat", "n=2", "max_tokens=5")
    assert code == 0, said
    for sample in samples:
        assert sample["text"] in sample["whole"]
        assert ("___" in sample["whole"]) == (objective == "reversal")
    assert cli.main(["eval", "threads=1"]) == 0
    assert "on the targets of its objective" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_goes_on_equals_one_that_was_not_stopped(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*OBJECTIVES["span_corruption"], "schedule=constant", "sample.max_tokens=0"]
    sums = []
    for name, limits in {"whole": [5], "parts": [2, 5]}.items():
        for steps in limits:
            code, result, said = in_process(
                capsys, *train(corpus, *words, f"name={name}", f"trainer.max_steps={steps}")
            )
            assert code == 0, said
        run = Path(result["run"])
        last = run / "checkpoints" / (run / "latest").read_text().strip()
        sums.append([checksum(last / file) for file in ("model.safetensors", "update.safetensors")])
    assert sums[0] == sums[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["model=gpt_nano", "objective=reversal"], "try model=encoder_decoder"),
        (["trainer.packing=documents"], "try trainer.packing=stream"),
        (["objective.noise_density=1.5"], "objective.noise_density=1.5"),
        (["objective.mean_spam=2"], "did you mean objective.mean_span"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(
    more: list[str], message: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = in_process(capsys, *train(corpus, *more))
    assert code == 2
    assert message in err
