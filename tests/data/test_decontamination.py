"""Decontamination: every planted item is found, whatever became of its punctuation, and little else is."""

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.commands.data import recipe_of
from pretrain.config import DataSettings
from pretrain.data import decontamination, word_sequences, words
from pretrain.data.decontamination import Decontaminate
from pretrain.data.documents import DOCUMENT, StageOutput
from pretrain.data.evaluation_items import evaluation_files, items_of
from pretrain.data.word_sequences import Words, simplified
from pretrain.errors import ConfigError, DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
VOCABULARY = [f"{first}{last}" for first in ("ka", "lo", "mi", "su") for last in ("ra", "no", "ti", "pel", "zam")]


def stage(*paths: Path | str, **settings: Any) -> Decontaminate:
    chosen = {"fields": None, "ngram": 13, "shortest": 8, "max_ngrams": 0} | settings
    return Decontaminate(paths=[str(path) for path in paths], **chosen)


def table(texts: list[str]) -> pa.Table:
    names = [str(number) for number in range(len(texts))]
    columns = {name: texts if name == "text" else names for name in DOCUMENT.names}
    return pa.table(columns, schema=DOCUMENT)


def dropped(output: StageOutput) -> list[str]:
    return output.dropped["text"].to_pylist()


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def sentence(count: int, seed: int = 1) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=count)


@pytest.mark.parametrize("shared", [12, 13, 20])
def test_thirteen_words_in_a_row_are_too_many(shared: int, tmp_path: Path) -> None:
    item = sentence(30)
    text = " ".join(["before", *item[5 : 5 + shared], "behind"])
    found = stage(lines(tmp_path / "quiz.jsonl", {"id": "q1", "query": " ".join(item)}))(table([text]))
    assert len(dropped(found)) == (shared >= 13)
    if shared >= 13:
        row = found.dropped.to_pylist()[0]
        assert (row["rule"], row["value"], row["threshold"]) == ("contaminated", shared - 12, 0)
        assert "quiz.jsonl q1" in row["reason"]
        assert " ".join(item[5:18]) in row["reason"]


@pytest.mark.parametrize("shared", [25, 26])
def test_a_japanese_character_is_half_a_word(shared: int, tmp_path: Path) -> None:
    item = "この橋を誰が架けたのかを知る者はいないが、それでも村の人はみな毎日それを渡って畑へ出かける。"
    letters = re.sub(r"\W", "", item)
    found = stage(lines(tmp_path / "quiz.jsonl", {"question": item}))(table([f"「{letters[3 : 3 + shared]}」ABC"]))
    assert len(dropped(found)) == (shared == 26)


@pytest.mark.parametrize(("words_of_item", "looked_for"), [(7, False), (8, True), (12, True)])
def test_a_short_item_is_looked_for_whole(words_of_item: int, looked_for: bool, tmp_path: Path) -> None:
    item = sentence(words_of_item)
    judge = stage(lines(tmp_path / "quiz.jsonl", {"a": " ".join(item)}, {"a": " ".join(sentence(20, 2))}))
    texts = [" ".join(["so", *item, "it", "is"]), " ".join(["so", *item[1:], "it", "is"])]
    assert dropped(judge(table(texts))) == texts[:looked_for]


@pytest.mark.parametrize("order", [1, -1])
def test_parts_that_are_too_short_are_looked_for_together(order: int, tmp_path: Path) -> None:
    question, answer, other = sentence(5, 1), sentence(4, 2), sentence(4, 3)
    record = {"choices": [" ".join(answer), " ".join(other)], "query": " ".join(question)}
    planted = " ".join(word for part in [question, answer][::order] for word in part)
    judge = stage(lines(tmp_path / "quiz.jsonl", record))
    alone = " ".join(question)
    assert dropped(judge(table([f"well {planted} then", f"well {alone} then"]))) == [f"well {planted} then"]


CHANGES = [
    str.upper,
    lambda text: text.replace(" ", "\n\n  "),
    lambda text: text.replace(" ", ", "),
    lambda text: text.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}"),
    lambda text: re.sub(r"[^\w\s]", "", text),
    lambda text: re.sub(r"[^\w\s]", " ", text),
    lambda text: "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in text),  # full width
]


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(8, 40),
    change=st.sampled_from(CHANGES),
    before=st.integers(0, 50),
    behind=st.integers(0, 50),
)
def test_a_planted_item_is_always_found(
    seed: int, count: int, change: Any, before: int, behind: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    random_ = random.Random(seed)
    chosen = [
        word + random_.choice(["", "", "'s", "-lo", ".", " (ka)", "é", "ß"])
        for word in random_.choices(VOCABULARY, k=count)
    ]
    item = " ".join(chosen)
    path = lines(tmp_path_factory.mktemp("quiz") / "quiz.jsonl", {"query": item})
    around = [" ".join(random_.choices(VOCABULARY, k=size)) for size in (before, behind)]
    text = f"{around[0]} {change(item)} {around[1]}"
    assert dropped(stage(path)(table(["nothing", text, "else"]))) == [text]


def test_decomposed_accents_are_the_same_letters() -> None:
    assert simplified("Cafe\u0301 \uff21\uff22\uff11 \uff76\uff9e \u33a1") == simplified("café AB1 ガ m2")
    assert simplified("e\u0301" * 3 + "a" * 200) == "é" * 3 + "a" * 200


def test_what_is_found_does_not_depend_on_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = sentence(20)
    judge = stage(lines(tmp_path / "quiz.jsonl", {"a": " ".join(item)}))
    random_ = random.Random(3)
    texts = []
    for number in range(60):
        filler = [random_.choice(VOCABULARY) for _ in range(random_.randrange(80))]
        at = random_.randrange(len(filler) + 1)
        texts.append(" ".join([*filler[:at], *(item[: random_.randrange(10, 21)] if number % 3 else []), *filler[at:]]))
    whole = judge(table(texts)).dropped.to_pylist()
    assert 5 < len(whole) < 50
    alone = [row for text in texts for row in judge(table([text])).dropped.to_pylist()]
    assert [row["reason"] for row in alone] == [row["reason"] for row in whole]
    monkeypatch.setattr(decontamination, "WORDS_AT_ONCE", 7)
    monkeypatch.setattr(word_sequences, "CHARACTERS_AT_ONCE", 50)
    monkeypatch.setattr(words, "PIECE", 40)
    assert judge(table(texts)).dropped.to_pylist() == whole


def test_equal_hashes_alone_drop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = stage(lines(tmp_path / "quiz.jsonl", {"a": " ".join(sentence(20))}))
    text = " ".join(sentence(20))
    assert dropped(judge(table([text]))) == [text]
    other = " ".join(sentence(20, 9))
    real = Words.of
    monkeypatch.setattr(Words, "of", lambda texts: real([text] * len(texts)))
    assert dropped(judge(table([other]))) == []


def test_more_sequences_may_be_allowed(tmp_path: Path) -> None:
    item = sentence(30)
    path = lines(tmp_path / "quiz.jsonl", {"a": " ".join(item)})
    texts = [" ".join(item[:count]) for count in (12, 14, 16, 17)]  # 0, 2, 4, 5 sequences
    assert dropped(stage(path, max_ngrams=4)(table(texts))) == texts[3:]


def test_only_the_fields_that_are_named_are_looked_for(tmp_path: Path) -> None:
    one, other = " ".join(sentence(15, 1)), " ".join(sentence(15, 2))
    path = lines(tmp_path / "quiz.jsonl", {"question": one, "source": other})
    assert dropped(stage(path, fields=["question"])(table([one, other]))) == [one]
    with pytest.raises(DataError, match="fields answer"):
        stage(path, fields=["answer"])


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "txt", "jsonl.gz", "folder"])
def test_every_format_is_read(kind: str, tmp_path: Path) -> None:
    items = [" ".join(sentence(15, number)) for number in range(3)]
    records = [{"inner": {"text": item}} for item in items]
    path = tmp_path / f"quiz.{kind}"
    if kind.startswith("jsonl") or kind == "folder":
        path = lines(tmp_path / "quiz.jsonl", *records)
        if kind == "jsonl.gz":
            packed = tmp_path / "quiz.jsonl.gz"
            packed.write_bytes(gzip.compress(path.read_bytes()))
            path = packed
        if kind == "folder":
            (tmp_path / "notes.bin").write_bytes(bytes(10))
            path = tmp_path
    elif kind == "json":
        path.write_text(json.dumps(records), "utf-8")
    elif kind == "csv":
        path.write_text("n,text\n" + "".join(f'{n},"{item}"\n' for n, item in enumerate(items)), "utf-8")
    elif kind == "parquet":
        pq.write_table(pa.table({"text": items}), path)
    else:
        path.write_text("\n\n".join(items), "utf-8")
    assert dropped(stage(path)(table([*items, "none"]))) == items


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ConfigError, "does not exist"),
        ("", DataError, "nothing can be looked for"),
        ('{"a": "too short", "n": 3}\n', DataError, "no string in it has 8 words"),
        ('{"a": "fine"}\n{"a": ', DataError, "line 2 is not JSON"),
    ],
)
def test_an_evaluation_file_of_which_nothing_can_be_looked_for_is_refused(
    content: str | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "quiz.jsonl"
    good = lines(tmp_path / "good.jsonl", {"a": " ".join(sentence(15))})
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(error, match=message) as raised:
        stage(good, path)
    assert "quiz.jsonl" in str(raised.value)


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "quiz.jsonl", {"a": " ".join(sentence(15))})
    with pytest.raises(ConfigError, match="try shortest=5"):
        stage(path, ngram=5)
    with pytest.raises(ConfigError, match="paths=null"):
        stage()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds none of"):
        stage(tmp_path / "empty")


def test_without_evaluation_files_everything_is_kept() -> None:
    judge = Decontaminate(paths=None, fields=None, ngram=13, shortest=8, max_ngrams=0)
    assert dropped(judge(table(["one", ""]))) == []


def test_the_key_depends_on_what_the_files_hold_and_not_on_where_they_lie(tmp_path: Path) -> None:
    def key(path: Path) -> Any:
        part = {
            "_target_": "pretrain.data.decontamination.Decontaminate",
            "paths": [str(path)],
            "fields": None,
            "ngram": 13,
            "shortest": 8,
            "max_ngrams": 0,
        }
        data = DataSettings([], {}, 0.1, [], None, {"decontaminate": part})  # type: ignore[dict-item]
        return recipe_of(data)["decontaminate"][0]

    first = lines(tmp_path / "quiz.jsonl", {"a": " ".join(sentence(15))})
    (tmp_path / "elsewhere").mkdir()
    same = lines(tmp_path / "elsewhere" / "quiz.jsonl", {"a": " ".join(sentence(15))})
    before = key(first)
    assert key(same) == before
    assert str(tmp_path) not in str(before)
    lines(first, {"a": " ".join(sentence(15, 2))})
    assert key(first) != before


def test_a_file_that_changes_during_the_build_is_told(tmp_path: Path) -> None:
    path = lines(tmp_path / "quiz.jsonl", {"a": " ".join(sentence(15))})
    judge = stage(path)
    decontamination._index.cache_clear()
    lines(path, {"a": " ".join(sentence(15, 2))})
    with pytest.raises(DataError, match="changed during the build"):
        judge(table(["text"]))


@pytest.mark.parametrize(
    "text",
    ["", "a", "。", "word " * 5000, "あ" * 5000, "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")],
)
def test_strange_documents_are_kept(text: str, tmp_path: Path) -> None:
    path = lines(
        tmp_path / "quiz.jsonl",
        {"a": " ".join(sentence(15))},
        {"b": "吾輩は猫である。名前はまだ無い。どこで生れたか。"},
    )
    assert dropped(stage(path)(table([text]))) == []


@pytest.mark.skipif(not (SHARED / "eval").is_dir(), reason=f"{SHARED} is not there")
def test_real_items_planted_in_real_documents_are_all_found() -> None:
    random_ = random.Random(7)
    with (SHARED / "en" / "wiki_vital_summaries.jsonl").open(encoding="utf-8") as file:
        hosts = [json.loads(line)["text"] for line in file]
    judge = stage(SHARED / "eval")
    planted: list[str] = []
    for found in evaluation_files([str(SHARED / "eval")]):
        for item in items_of(found, Path(found.path).read_bytes(), None):
            long = [string for string in item.strings if _units(string) >= 16]
            if long and random_.random() < 0.1:
                host, string = random_.choice(hosts), random_.choice(CHANGES)(random_.choice(long))
                at = random_.randrange(len(host) + 1)
                planted.append(f"{host[:at]} {string} {host[at:]}")
    assert len(planted) > 500
    assert len(dropped(judge(table(planted)))) == len(planted)


def _units(text: str) -> int:
    return int(Words.of([text]).lengths(1)[0])
