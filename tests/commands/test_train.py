"""`pretrain train` and what follows it, on a tiny corpus, from the command line."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain import cli
from pretrain.data.manifests import checksum

TINY = [
    "data=files",
    "data.shard_bytes=2000",
    "executor=serial",
    "tokenizer.vocab_size=300",
    "threads=1",
    "sample.max_tokens=8",
    "trainer.max_steps=12",
    "trainer.eval_every=5",
    "trainer.eval_tokens=64",
    "trainer.checkpoint_every=4",
    "trainer.batch_tokens=64",
    "trainer.sequence_length=16",
]
GPT = ["model=gpt_nano", "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=16"]
MODELS = {
    "gpt": [*GPT, "model.dropout=0.1"],
    "mlp": ["model=mlp", "model.n_embd=8", "model.n_hidden=8"],
    "bigram": ["model=bigram"],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    words = "the cat sat on a mat while 吾輩 は 猫 である and nobody saw it go home".split()
    numbers = random.Random(0)
    for document in range(40):
        text = " ".join(numbers.choices(words, k=60))
        (folder / f"{document}.txt").write_text(f"{document} {text}.\n", "utf-8")
    return folder


@pytest.fixture
def home(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the data of `corpus` already built there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(corpus: Path, *more: str) -> list[str]:
    return ["train", f"data.paths={corpus}", f"data_dir={corpus.parent / 'built'}", *TINY, *more]


def program(corpus: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pretrain", *arguments(corpus, *more)]


def in_process(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    code = cli.main([*words, "format=json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def weights(run: Path) -> dict[str, str]:
    """Checksums of everything in the last checkpoint that a resume must restore bit for bit."""
    last = run / "checkpoints" / (run / "latest").read_text().strip()
    sums = {name: checksum(last / name) for name in ("model.safetensors", "update.safetensors", "tokenizer.json")}
    state = json.loads((last / "state.json").read_text())
    return sums | {name: str(state[name]) for name in ("step", "tokens", "train_loss", "validation_loss")}


@pytest.mark.parametrize("model", MODELS)
def test_a_run_leaves_everything_behind_and_the_same_command_finds_it_finished(
    model: str, corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result, _ = in_process(capsys, *arguments(corpus, *MODELS[model]))
    assert code == 0
    run = Path(result["run"])
    assert run.parent == home / "runs"
    assert result["steps"] == (1 if model == "bigram" else 12)
    assert result["parameters"] > 0
    assert 0 < result["validation"]["loss"] < result["references"]["uniform"] + 0.2
    for name in ("config.yaml", "environment.json", "data_manifest.json", "tokenizer.json", "references.json"):
        assert (run / name).is_file()
    assert json.loads((run / "result.json").read_text()) == result
    assert (run / "loss_curve.svg").read_text().startswith("<svg")
    assert (run / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert len(list((run / "samples").iterdir())) == (1 if model == "bigram" else 3)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, result["steps"] + 1))
    assert rows[-1]["val/loss"] == result["validation"]["loss"]
    assert {"tokens", "seconds", "lr", "grad_norm", "tokens_per_second", "skipped_steps"} <= rows[0].keys()

    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    code, again, said = in_process(capsys, *arguments(corpus, *MODELS[model]))
    assert (code, again) == (0, result)
    assert "is finished" in said
    assert before == {f: f.stat().st_mtime_ns for f in run.rglob("*") if f.is_file() and f.name != ".lock"}


def test_eval_measures_what_training_measured(corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, trained, _ = in_process(capsys, *arguments(corpus, *GPT, "name=one"))
    code, measured, _ = in_process(capsys, "eval", "threads=1")
    assert code == 0
    assert measured["step"] == 12
    assert measured["loss"] == pytest.approx(trained["validation"]["loss"], abs=1e-9)
    for bits in ("bits_per_byte", "bits_per_character"):
        assert measured[bits] == pytest.approx(trained["validation"][bits], abs=1e-9)
    assert measured["references"] == trained["references"]
    _, both, _ = in_process(capsys, "eval", "run=[one,one]", "step=best")
    assert len(both) == 2


def test_sampling_is_repeatable_and_varies_with_the_seed(
    corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_process(capsys, *arguments(corpus, *GPT))
    words = ["sample", "--decoding=top_p", "prompt=吾輩は", "n=3", "max_tokens=9"]
    _, first, _ = in_process(capsys, *words, "seed=1")
    _, second, _ = in_process(capsys, *words, "seed=1")
    _, other, _ = in_process(capsys, *words, "seed=2")
    assert first == second != other
    assert [len(sample["tokens"]) <= 9 for sample in first] == [True] * 3
    assert {sample["prompt"] for sample in first} == {"吾輩は"}
    for decoding in ("greedy", "temperature", "top_k"):
        code, samples, _ = in_process(capsys, "sample", f"decoding={decoding}", "prompt=def ", "max_tokens=3")
        assert (code, len(samples)) == (0, 1)
        assert samples[0]["logprob"] < 0


def test_a_sweep_is_one_table_and_one_folder_a_run(
    corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(corpus, "-m", "model=bigram,mlp,gpt_nano", "model.context_length=16", "name=ladder")
    words.remove("model.context_length=16")
    code, results, _ = in_process(capsys, *words)
    assert code == 0
    folders = [Path(result["run"]).name for result in results]
    assert folders == ["model=bigram", "model=mlp", "model=gpt_nano"]
    assert {Path(result["run"]).parent for result in results} == {home / "runs" / "ladder"}
    assert json.loads((home / "runs" / "ladder" / "sweep.json").read_text()) == results
    _, rows, _ = in_process(capsys, "runs")
    assert {row["name"] for row in rows} == {f"ladder/{folder}" for folder in folders}
    assert {row["state"] for row in rows} == {"finished"}


def test_an_unsmoothed_bigram_says_inf_and_how_many_targets_are_unseen(
    corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result, _ = in_process(capsys, *arguments(corpus, "model=trigram", "model.smoothing=none"))
    assert code == 0
    assert result["validation"]["loss"] is None
    assert 0 < result["validation"]["unseen"]["targets"] < result["validation"]["unseen"]["of"]
    code, measured, _ = in_process(capsys, "eval")
    assert measured["unseen"] == result["validation"]["unseen"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["optimizer.lr=0.5"], "optimizer.lr was 0.001 and is now 0.5"),
        (["trainer.max_steps=20"], "trainer.max_steps was 12 and is now 20"),
        (["tokenizer.vocab_size=280"], "tokenizer.vocab_size was 300 and is now 280"),
    ],
)
def test_a_run_is_not_gone_on_with_under_other_settings(
    change: list[str], message: str, corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_process(capsys, *arguments(corpus, *MODELS["mlp"], "name=one"))
    code, _, said = in_process(capsys, *arguments(corpus, *MODELS["mlp"], "name=one", *change))
    assert code == 2
    assert message in said


def test_more_steps_on_a_constant_schedule_go_on_and_equal_one_long_run(
    corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*GPT, "schedule=constant"]
    in_process(capsys, *arguments(corpus, *words, "name=grown", "trainer.max_steps=7"))
    _, grown, _ = in_process(capsys, *arguments(corpus, *words, "name=grown"))
    _, whole, _ = in_process(capsys, *arguments(corpus, *words, "name=whole"))
    assert grown["steps"] == whole["steps"] == 12
    assert grown["validation"] == whole["validation"]
    assert checksum_of(home, "grown") == checksum_of(home, "whole")


def checksum_of(home: Path, name: str) -> str:
    return weights(home / "runs" / name)["model.safetensors"]


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused(
    corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = in_process(capsys, *arguments(corpus, *GPT, "model.vocab_size=77"))
    assert code == 2
    assert "model.vocab_size=77, but the tokenizer has 300 ids" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file"),
        ("", "the corpus"),
        ("\0" * 5000, "of 1 records none could be read (not_text 1)"),
        (" \n" * 500, "normalise took 1 of 1 (empty 1)"),
        ("a", "fewer than a row"),
    ],
)
def test_a_corpus_of_nothing_is_refused_with_exit_code_3(
    content: str | None, message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "texts"
    folder.mkdir()
    if content is not None:
        (folder / "a.txt").write_text(content)
    code, _, said = in_process(capsys, "train", "data=files", f"data.paths={folder}", "executor=serial")
    assert code == 3
    assert message in said.splitlines()[-1]


def test_a_run_in_use_is_locked(corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_process(capsys, *arguments(corpus, *MODELS["bigram"], "name=one"))
    holder = "from pretrain.training.runs import locked; from pathlib import Path; import time\n"
    holder += "with locked(Path('runs/one')): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, cwd=home)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        code, _, said = in_process(capsys, *arguments(corpus, *MODELS["bigram"], "name=one"))
        assert code == 1
        assert f"pid {process.pid}" in said
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "tokenizer.json"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_is_used_where_there_is_one(
    name: str, corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_process(capsys, *arguments(corpus, *GPT, "name=one"))
    run = home / "runs" / "one"
    flip_a_bit(run / "checkpoints" / "step_00000012" / name)
    code, measured, said = in_process(capsys, "eval")
    assert (code, measured["step"]) == (0, 8)
    assert name in said
    code, _, said = in_process(capsys, "eval", "step=12")
    assert (code, name in said) == (3, True)
    flip_a_bit(run / "checkpoints" / "step_00000008" / name)
    code, _, said = in_process(capsys, "sample")
    assert code == 3
    assert f"step_00000012/{name} is damaged" in said.splitlines()[-1]


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def test_a_target_inside_a_checkpoint_is_refused(corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_process(capsys, *arguments(corpus, *MODELS["bigram"], "name=one"))
    folder = next((home / "runs" / "one" / "checkpoints").iterdir())
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("pretrain.models.ngram.NGram", "os.system"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checksums"]["config.yaml"] = checksum(config)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, _, said = in_process(capsys, "sample")
    assert code == 3
    assert "_target_=os.system is not allowed" in said


def test_a_damaged_token_shard_is_named(corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in arguments(corpus, *MODELS["mlp"]) if not word.startswith("data_dir")]
    _, result, _ = in_process(capsys, *words)
    [shard] = (home / "data" / "tokens").rglob("validation-*.bin")
    flip_a_bit(shard)
    code, _, said = in_process(capsys, "eval")
    assert (code, shard.name in said) == (3, True)
    shutil.rmtree(result["run"])
    code, _, said = in_process(capsys, *words)
    assert (code, shard.name in said) == (3, True)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def steps_logged(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count("train/loss") if metrics.is_file() else 0


def undisturbed(corpus: Path, home: Path, *more: str) -> dict[str, str]:
    subprocess.run(program(corpus, *more, "name=undisturbed"), check=True, capture_output=True, cwd=home)
    return weights(home / "runs" / "undisturbed")


def test_a_run_killed_again_and_again_ends_with_the_same_bits(corpus: Path, home: Path) -> None:
    more = [*MODELS["gpt"], "trainer.max_steps=40"]
    expected = undisturbed(corpus, home, *more)
    run = home / "runs" / "killed"
    for step in (2, 9, 21, 34):
        process = subprocess.Popen(program(corpus, *more, "name=killed"), stderr=subprocess.DEVNULL, cwd=home)
        wait_for(lambda step=step: steps_logged(run) >= step)  # type: ignore[misc]
        process.kill()
        process.wait()
    subprocess.run(program(corpus, *more, "name=killed"), check=True, capture_output=True, cwd=home)
    assert weights(run) == expected
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 41))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_last_full_step_and_the_same_command_goes_on(
    number: signal.Signals, corpus: Path, home: Path
) -> None:
    more = [*MODELS["gpt"], "trainer.max_steps=60", "trainer.checkpoint_every=1000"]
    expected = undisturbed(corpus, home, *more)
    run = home / "runs" / "stopped"
    process = subprocess.Popen(program(corpus, *more, "name=stopped"), stderr=subprocess.PIPE, text=True, cwd=home)
    wait_for(lambda: steps_logged(run) >= 5)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.splitlines()[-1].startswith(f"error: stopped by {number.name}")
    assert json.loads(next((run / "checkpoints").rglob("state.json")).read_text())["step"] >= 5
    subprocess.run(program(corpus, *more, "name=stopped"), check=True, capture_output=True, cwd=home)
    assert weights(run) == expected


def test_a_second_signal_ends_at_once(corpus: Path, home: Path) -> None:
    holder = "from pretrain.stopping import Stop; import time; Stop().install(); print('up', flush=True)\n"
    holder += "end = time.monotonic() + 60\nwhile time.monotonic() < end: time.sleep(0.05)"
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, cwd=home)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    process.stdout.close()


def test_nothing_of_a_secret_reaches_the_run(corpus: Path, home: Path) -> None:
    secret = "sentinel-5f0c"
    environment = os.environ | {"WANDB_API_KEY": secret, "HF_TOKEN": secret}
    words = program(corpus, *MODELS["mlp"], "tracker=wandb", "name=secret")
    subprocess.run(words, check=True, capture_output=True, cwd=home, env=environment)
    files = [file for file in (home / "runs").rglob("*") if file.is_file()]
    assert any("wandb" in file.parts for file in files)
    assert not [file for file in files if secret.encode() in file.read_bytes()]


def test_a_crash_of_wandb_never_stops_a_run(corpus: Path, home: Path) -> None:
    broken = home / "broken"
    broken.mkdir()
    (broken / "wandb.py").write_text("def init(**settings): raise RuntimeError('no such luck')\nSettings = dict\n")
    environment = os.environ | {"PYTHONPATH": str(broken)}
    words = program(corpus, *MODELS["mlp"], "tracker=wandb", "name=crash", "format=json")
    answer = subprocess.run(words, check=True, capture_output=True, text=True, cwd=home, env=environment)
    assert json.loads(answer.stdout)["steps"] == 12
    assert "wandb stopped working" in answer.stderr
    assert "no such luck" in answer.stderr
