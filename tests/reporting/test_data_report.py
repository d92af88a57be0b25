"""The report of a data build: true numbers, examples in order, and nothing of a document obeyed."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.executors import Serial
from pretrain.data.running import run_stage
from pretrain.data.stages import Built, Silent, Workspace
from pretrain.data.tokenizing import write_shards
from pretrain.reporting.data_report import write_report
from pretrain.reporting.examples import choose, examples, one_line, visible
from pretrain.reporting.funnel import funnel
from pretrain.reporting.tables import share

HOSTILE = (
    "<script>alert('1')</script> </pre> ` loose ``` | **bold** [link](http://example.com) "
    "\x1b[31m \u202e &lt; ```\n# title"
)
SHARDS = [["keep me", "drop a", "drop b " + HOSTILE], ["drop a 2", "keep you"], [f"drop a {i}" for i in range(9)]]


class DropsByWord:
    """Drops what begins with `drop`; the rule is the second word."""

    version = 1
    libraries = ()

    def __call__(self, documents: pa.Table) -> StageOutput:
        return partition(documents, [self._judge(text) for text in documents["text"].to_pylist()])

    def _judge(self, text: str) -> Drop | None:
        if not text.startswith("drop"):
            return None
        return Drop(text.split()[1], float("nan"), 1.0, f"begins with {text}", "survivor" if "b" in text else None)


@pytest.fixture
def build(shard_documents, tokenizer_file, tmp_path: Path) -> tuple[Path, list[Built]]:
    before = shard_documents(SHARDS, tmp_path)
    at = Workspace(tmp_path, Serial(), Silent())
    after = run_stage("words", {}, DropsByWord(), before, at)
    return write_shards(tokenizer_file, {"train": after, "validation": after}, at), [before, after]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_tells_what_each_stage_took_and_left(build: tuple[Path, list[Built]]) -> None:
    folder, stages = build
    write_report(folder, stages, [])
    report = json.loads((folder / "report.json").read_text("utf-8"), parse_constant=pytest.fail)
    words = report["stages"][1]
    assert (words["documents_in"], words["documents_out"], words["reasons"]) == (14, 2, {"a": 11, "b": 1})
    assert words["documents_kept"] == pytest.approx(2 / 14)
    assert words["bytes_in"] == sum(len(text.encode()) for shard in SHARDS for text in shard)
    assert report["splits"]["train"]["documents"] == 2
    assert report["vocab_size"] == 320


def test_examples_are_the_first_five_of_each_rule_in_the_order_of_the_corpus(build: tuple[Path, list[Built]]) -> None:
    found = examples(build[1][1], 5)
    assert [row["text"] for row in found["a"]] == ["drop a", "drop a 2", "drop a 0", "drop a 1", "drop a 2"]
    assert [row["id"] for row in found["a"]] == ["0001", "0003", "0005", "0006", "0007"]
    assert found["b"][0]["survivor"] == "survivor"


def test_nothing_of_a_dropped_document_is_obeyed_by_a_browser(build: tuple[Path, list[Built]]) -> None:
    page = write_report(*build, []).read_text("utf-8")
    tags = Tags()
    tags.feed(page)
    assert not {"script", "a", "img", "link", "iframe", "strong"} & set(tags.names)
    assert tags.names.count("pre") == 6
    assert "<script>alert('1')</script>" in tags.text
    assert "http" not in page.replace("http-equiv", "").replace("http://example.com", "")
    assert not re.search(r"[\x00-\x08\x1b\u202e]", page)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_whole_page_and_nothing_reaches_beyond_its_sides(
    width: int, build: tuple[Path, list[Built]], browser: Any, overflowing: Callable[[], list[str]]
) -> None:
    path = write_report(*build, [])
    browser.visit(path, width)
    browser.value("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert browser.complaints == []
    assert browser.requests == [path.absolute().as_uri()]
    assert overflowing() == []
    assert browser.value("document.querySelectorAll('.funnel rect').length") == 2 * 2 * 3


def test_documents_stand_in_markdown_as_code_alone(build: tuple[Path, list[Built]]) -> None:
    write_report(*build, [])
    text = (build[0] / "report.md").read_text("utf-8")
    outside = re.sub(r"(?m)^    .*$", "", text)
    outside = re.sub(r"(?s)(?<!`)(`+)(?!`)(.*?[^`])\1(?!`)", "", outside)
    assert "script" not in outside
    assert "bold" not in outside
    assert "loose" not in outside
    assert "example.com" not in outside
    assert "script" in text
    assert "\x1b" not in text


def test_a_report_of_just_this_build_is_not_written_again(build: tuple[Path, list[Built]]) -> None:
    folder, stages = build
    path = write_report(folder, stages, [])
    path.write_text("mine", "utf-8")
    write_report(folder, stages, [])
    assert path.read_text("utf-8") == "mine"
    (folder / "report.json").write_text("{", "utf-8")
    write_report(folder, stages, [])
    assert path.read_text("utf-8") != "mine"


def test_a_report_of_an_earlier_build_is_replaced(build: tuple[Path, list[Built]]) -> None:
    folder, (before, after) = build
    path = write_report(folder, [before], [])
    path.write_text("mine", "utf-8")
    write_report(folder, [before, after], [])
    assert path.read_text("utf-8") != "mine"


def test_chosen_rows_are_the_first_behind_skip_or_by_chance(build: tuple[Path, list[Built]]) -> None:
    files = build[1][1].dropped()
    assert [row["id"] for row in choose(files, 2, only={"rule": "a"}, skip=1)] == ["0003", "0005"]
    by_chance = [row["id"] for row in choose(files, 4, only={"rule": "a"}, seed=3)]
    assert by_chance == [row["id"] for row in choose(files, 4, only={"rule": "a"}, seed=3)]
    assert by_chance == sorted(set(by_chance))
    assert by_chance != [row["id"] for row in choose(files, 4, only={"rule": "a"}, seed=4)]
    assert choose(files, 5, only={"source": "nothing"}) == []


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert visible("a\x1b[31m\tb\n\u202ec\x9b") == "a␛[31m\tb\n\\u202ec\\u009b"
    assert one_line(" 吾輩は\n\n猫 \x00 ") == "吾輩は 猫 ␀"


def test_the_funnel_never_leaves_its_frame() -> None:
    stages = [
        {"name": "<a>", "documents_in": 4, "documents_out": 3, "bytes_in": 1, "bytes_out": 30},
        {"name": "b", "documents_in": 3, "documents_out": 0, "bytes_in": 30, "bytes_out": 40},
    ]
    widths = [float(width) for width in re.findall(r'width="([\d.]+)%"', funnel(stages))]
    assert all(0 <= width <= 100 for width in widths)
    assert "<a>" not in funnel(stages)


@pytest.mark.parametrize(
    ("part", "shown"), [(0, "0.0 %"), (1, "< 0.1 %"), (5000, "50.0 %"), (9999, "> 99.9 %"), (10000, "100.0 %")]
)
def test_a_share_that_is_not_quite_all_or_nothing_says_so(part: int, shown: str) -> None:
    assert share(part, 10_000) == shown
