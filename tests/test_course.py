"""The course: its pages have the same commands in both languages, and each runs at tiny size."""

import contextlib
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from pretrain import cli, help_text

COURSE = Path(__file__).parent.parent / "docs" / "course"
PAGES = {language: sorted((COURSE / language).glob("*.md")) for language in ("en", "ja")}
FENCE = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)
CORPUS = "jawiki_lecture_like.jsonl"
SHORT = ["trainer.max_steps=2", "trainer.batch_tokens=256", "trainer.micro_batch=null", "sample.max_tokens=2"]
TINY = {
    "train": [*SHORT, "trainer.eval_tokens=64", "executor=serial", "threads=1", "device=cpu"],
    "data": ["executor=serial"],
    "data_show": [],
    "eval": ["threads=1", "device=cpu"],
    "sample": ["threads=1", "device=cpu", "max_tokens=2"],
    "inspect": ["threads=1", "device=cpu"],
    "plan": [],
    "report": [],
}
WHOLE_LADDER = "rung=unigram,mlp_1"  # of the sweep, which the other pages do rung by rung


def named(page: Path) -> str:
    """Language and name of a page."""
    return f"{page.parent.name}-{page.stem}"


def commands(page: Path) -> list[str]:
    """The lines of the page's fences."""
    return [line for block in FENCE.findall(page.read_text("utf-8")) for line in block.splitlines() if line]


EVERY = [line for page in [COURSE / "README.md", *PAGES["en"]] for line in commands(page)]
QUICK = 3  # pages whose commands take no more than seconds; the others have what they need without them


@pytest.fixture(scope="module")
def folder(tiny_corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder with a corpus of the pages' name, which has every character of their commands."""
    numbers = (signal.SIGINT, signal.SIGTERM)  # a command takes them over; pytest gets them back
    before = [signal.getsignal(number) for number in numbers]
    home = tmp_path_factory.mktemp("course")
    texts = tiny_corpus + [f"日本の首都は、{place}番目の町である。" for place in range(9)]
    texts += [f"{place} {line}" for place in range(2) for line in EVERY]
    (home / CORPUS).write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts))
    with contextlib.chdir(home):
        yield home
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def run(line: str) -> int:
    """The exit code of a command of the pages, at tiny size."""
    words = shlex.split(line)
    assert words[0] == "pretrain", line
    command, _ = cli._command(words[1:])
    ladder = [WHOLE_LADDER] if "experiment=ladder" in words else []
    return cli.main([*words[1:], *ladder, *TINY[command]])


RUN = [pytest.param(page, marks=[] if n < QUICK else [pytest.mark.faults]) for n, page in enumerate(PAGES["en"])]


@pytest.mark.parametrize("page", [*RUN, pytest.param(COURSE / "README.md", marks=pytest.mark.faults)], ids=named)
def test_every_command_of_a_page_runs(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands(page):
        code = run(line)
        assert code == 0, f"{line}: {capsys.readouterr().err}"
        for name in re.findall(r" name=(\w+)", line):
            assert (folder / "runs" / name / "report.html").is_file()


def test_the_course_trains_every_rung_once() -> None:
    rungs = [
        match
        for line in dict.fromkeys(EVERY)
        for match in re.findall(r"\brung=(\w+)", line)
        if "name=guarded" not in line
    ]
    assert sorted(rungs) == sorted(help_text.options("rung"))


def test_both_languages_have_the_same_pages_with_the_same_commands() -> None:
    english, japanese = ({page.name: commands(page) for page in pages} for pages in PAGES.values())
    assert english == japanese
    assert len(EVERY) >= 40


@pytest.mark.parametrize("page", [COURSE / "README.md", *PAGES["en"], *PAGES["ja"]], ids=named)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(text.splitlines()) <= 90
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, heading = target.partition("#")
        there = (page.parent / path).resolve()
        assert there.exists(), target
        assert not heading or f"## {heading.replace('-', ' ')}" in there.read_text("utf-8").lower(), target


@pytest.mark.parametrize("picture", sorted((COURSE / "pictures").glob("*.svg")), ids=lambda picture: picture.stem)
def test_a_picture_is_small_and_on_a_page_of_each_language(picture: Path) -> None:
    assert picture.stat().st_size < 150_000
    for pages in PAGES.values():
        assert any(f"pictures/{picture.name})" in page.read_text("utf-8") for page in pages)
