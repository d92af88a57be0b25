"""`pretrain sample`, from the command line."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain import cli, help_text
from pretrain.commands import sample as command
from pretrain.tokenizers.byte import FIRST_BYTE

TINY = ["tokenizer=byte", "data/recipe=none", "executor=serial", "threads=1", "sample.max_tokens=0"]
TINY += ["model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=16", "trainer.max_steps=2"]
TINY += ["trainer.batch_tokens=32", "name=one"]

STOPS = (b"a", b"\n")
Answer = Callable[..., tuple[int, Any, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: list[str]) -> Iterator[Path]:
    """A folder with a run of a tiny GPT on bytes."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "texts").mkdir()
    for number, text in enumerate(tiny_corpus):
        (folder / "texts" / f"{number}.txt").write_text(text, "utf-8")
    words = ["data=files", f"data.paths=[{folder}/texts]", f"data_dir={folder}/data", f"runs_dir={folder}/runs"]
    assert cli.main(["train", *words, *TINY]) == 0
    yield folder
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def answer(home: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """A function that runs `pretrain sample`: exit code, what stdout holds (as JSON by default), stderr."""

    def run(*words: str, format: str = "json") -> tuple[int, Any, str]:
        capsys.readouterr()
        code = cli.main(["sample", f"runs_dir={home}/runs", "threads=1", "device=cpu", f"format={format}", *words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out and format == "json" else out, err

    return run


@pytest.mark.parametrize("decoding", help_text.options("decoding"))
def test_every_decoding_writes_with_its_log_probabilities(answer: Answer, decoding: str) -> None:
    code, samples, said = answer(f"decoding={decoding}", "prompt=The ", "n=2", "max_tokens=6")
    assert code == 0, said
    assert len(samples) == 2
    for sample in samples:
        ends = sample["ended"] == "end_of_text"
        assert len(sample["tokens"]) + ends == len(sample["logprobs"]) <= 6 + ends
        assert sample["logprob"] == pytest.approx(sum(sample["logprobs"]))
        assert all(logprob <= 0 for logprob in sample["logprobs"])
        assert sample["whole"] == "The " + sample["text"]


def test_truncations_combine_on_the_command_line(answer: Answer) -> None:
    words = ["decoding=top_p", "decoding.k=1", "decoding.min_p=0.1", "decoding.repetition_penalty=1.5", "max_tokens=5"]
    _, [combined], _ = answer(*words, "seed=1")
    _, [other], _ = answer(*words, "seed=2")
    _, [greedy], _ = answer("decoding=greedy", "decoding.repetition_penalty=1.5", "max_tokens=5")
    assert combined["tokens"] == other["tokens"] == greedy["tokens"]


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_prompts_come_from_a_file_and_keep_their_order(answer: Answer, tmp_path: Path, name: str) -> None:
    prompts = ["a longer prompt than the others", "", "吾輩は", 'with "quotes"']
    lines = prompts if name.endswith("txt") else [json.dumps({"prompt": text, "id": 7}) for text in prompts]
    (tmp_path / name).write_text("\n".join(lines) + "\n", "utf-8")
    words = [f"prompts={tmp_path / name}", "n=2", "max_tokens=7", "precision=fp32"]
    _, together, _ = answer(*words)
    _, one_by_one, _ = answer(*words, "batch=1")
    assert [sample["prompt"] for sample in together] == [text for text in prompts for _ in range(2)]
    assert [sample["tokens"] for sample in together] == [sample["tokens"] for sample in one_by_one]
    _, [first], _ = answer(f"prompt={prompts[0]}", "max_tokens=7", "precision=fp32")
    assert first["tokens"] == together[0]["tokens"]


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (None, 2, "cannot be read"),
        (b"", 3, "is empty"),
        (b'{"prompt": "a"}\n{"text": "b"}\n', 3, ":2 has no prompt"),
        (b'{"prompt": "a"}\n{"prompt"', 3, ":2 is not JSON"),
    ],
)
def test_a_file_without_prompts_is_refused(
    answer: Answer, tmp_path: Path, content: bytes | None, code: int, says: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_bytes(content)
    found, _, said = answer(f"prompts={path}")
    assert (found, said.count("\n")) == (code, 1)
    assert says in said


def test_broken_bytes_in_a_file_of_prompts_are_replaced(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"a\xffb\r\nc")
    _, samples, _ = answer(f"prompts={tmp_path}/prompts.txt", "max_tokens=2")
    assert [sample["prompt"] for sample in samples] == ["a\ufffdb", "c"]


def test_a_text_ends_before_a_stop_string(answer: Answer) -> None:
    words = ["decoding=temperature", "n=30", "max_tokens=60"]
    _, plain, _ = answer(*words)
    _, stopped, _ = answer(*words, 'stop=["a","\\n"]')
    assert {sample["ended"] for sample in stopped} >= {"stop"}
    for before, after in zip(plain, stopped, strict=True):
        assert "a" not in after["text"]
        assert "\n" not in after["text"]
        assert before["tokens"][: len(after["tokens"])] == after["tokens"]
        assert (after["ended"] == "stop") == (bytes(token - FIRST_BYTE for token in after["tokens"][-1:]) in STOPS)


def test_half_a_character_at_the_end_is_not_shown(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "吾輩".encode()

    def written(*_: Any, max_tokens: int, **__: Any) -> list[Any]:
        ids = [byte + FIRST_BYTE for byte in whole[:max_tokens]]
        return [command.Continuation(ids, [-1.0] * len(ids), "length")]

    monkeypatch.setattr(command, "generate_all", written)
    for size, text in ((2, ""), (5, "吾"), (6, "吾輩")):
        _, [sample], _ = answer(f"max_tokens={size}")
        assert (sample["text"], len(sample["tokens"])) == (text, size)


def test_a_streamed_text_is_the_same_as_one_shown_at_the_end(answer: Answer) -> None:
    for words in (["prompt=吾輩", 'stop=["e"]'], ["decoding=beam", "prompt=The cat"]):
        _, at_once, _ = answer(*words, "max_tokens=40", "stream=false", format="table")
        _, streamed, _ = answer(*words, "max_tokens=40", "stream=true", format="table")
        assert streamed == at_once


def test_on_a_terminal_one_text_is_streamed(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []
    show = command._show_at_once
    monkeypatch.setattr(command, "_show_at_once", lambda text: (pieces.append(text), show(text)))
    answer("max_tokens=30", format="table")
    assert not pieces
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    answer("max_tokens=30", "n=2", format="table")
    answer("max_tokens=30")
    assert not pieces
    _, shown, _ = answer("max_tokens=30", format="table")
    assert len(pieces) > 5
    assert "".join(pieces) + "\n" == shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prompt=a", "prompts=b.txt"], "set one"),
        (["stop=[a,'']"], "stop has an empty text"),
        (["stream=true", "n=2"], "stream=true"),
        (["stream=true"], "stream=true"),
        (["decoding=beam", "n=5"], "decoding.width=5"),
        (["decoding=beam", "decoding.width=0"], "decoding.width=0"),
        (["decoding.p=1.1"], "decoding.p=1.1"),
        (["decoding.min_p=-1"], "decoding.min_p"),
        (["decoding=greedy", "decoding.k=3"], "decoding.k"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(answer: Answer, words: list[str], says: str) -> None:
    code, _, said = answer(*words)
    assert (code, said.count("\n")) == (2, 1)
    assert says in said
