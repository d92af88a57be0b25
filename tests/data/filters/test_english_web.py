import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pretrain import cli, config
from pretrain.data.documents import DOCUMENT
from pretrain.data.filters.english import FOLLOWERS, English
from pretrain.errors import ConfigError

DATA = Path(__file__).parents[4] / "shared" / "data" / "dirty"
RULES = {
    "min_letters": 0.65,
    "max_runs": 0.1,
    "max_markup": 0.03,
    "max_ellipsis_lines": 0.3,
    "max_separators": 0.15,
    "function_words": "function_en",
    "min_function_words": 0.17,
    "max_rare_pairs": 0.12,
    "advertisement_words": "advertisement_en",
    "max_advertisement": 0.15,
}
PROSE = (
    "The walk begins at the harbour, where boats of every size lie side by side and gulls quarrel over scraps. Beyond "
    "the last warehouse a narrow path climbs between hedges until the town is out of sight, and those who have come "
    "with a stick will be glad of it. Nobody hurries here; that is what people come for."
)
GOOD = [
    PROSE,
    "Copper is a soft metal with the symbol Cu. It has been used for over ten thousand years, first as it was found "
    "and later smelted from ores such as malachite. It conducts heat and current better than any metal but one.",
    'He put down the letter. "And when did this come?" he asked. "On Tuesday," she said, "with the milk."\n\nNone '
    "of them spoke for some time. The clock on the mantelpiece, a gift from her aunt in Leeds, struck four.",
    "To prune a rose, wait until the last frost has passed. Cut out the dead wood first, then any stem that is thinner "
    "than a pencil, and make each cut just above a bud that faces away from the middle of the bush.",
]
GERMAN = (
    "Der Weg beginnt am Hafen, wo Boote jeder Größe nebeneinander liegen und sich die Möwen um die Reste streiten. "
    "Hinter dem letzten Lagerhaus steigt ein schmaler Pfad zwischen Hecken an, bis die Stadt nicht mehr zu sehen ist."
)
BAD = {
    "shuffled": "".join(random.Random(1).sample(PROSE, len(PROSE))),
    "German": GERMAN,
    "digits": "\n".join("48213\t997\t10234" for _ in range(40)),
    "symbols": "+(-/{};+}`}!`/~]-&^&=&*[[_@#%(@_!>*<#!(&<) " * 9,
    "run": PROSE[:80] + "w" * 300,
    "html": f'<html><body class="page"><div id="main"><p>{PROSE}</p></div><a href="/">Top</a>&nbsp;</body></html>',
    "xml": f'<?xml version="1.0"?><feed><entry><summary><![CDATA[{PROSE}]]></summary></entry></feed>',
    "menu": " | ".join(PROSE.replace(",", "").split()),
    "path": " > ".join(PROSE.replace(", ", " of ").split(" of ")[0].split() * 4),
    "ellipses": "\n".join(PROSE[start : start + 20] + "…" for start in range(0, len(PROSE), 20)),
    "advertisement": "Order now and get free shipping! This offer is for you, at the best price: click here. " * 3,
}


def table(*texts: str) -> pa.Table:
    rows = [{"id": str(n), "text": text, "source": "s", "source_id": "r", "meta": "{}"} for n, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=DOCUMENT)


def dropped(*texts: str, **settings: Any) -> dict[int, dict]:
    rows = English(**(RULES | settings))(table(*texts)).dropped.to_pylist()
    return {int(row["id"]): row for row in rows}


def recipe() -> dict[str, Any]:
    """The stages of english_web that judge a document by itself."""
    words = ["data=files", "data.paths=[a]", "data/recipe=english_web"]
    stages = config.parse(cli._composed("data", words), config.DataConfig).data.stages
    return {name: stage for name, part in stages.items() if callable(stage := config.build(part))}


def test_good_english_is_kept():
    assert not dropped(*GOOD)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("shuffled", "function_words"),
        ("German", "function_words"),
        ("digits", "letters"),
        ("symbols", "letters"),
        ("run", "runs"),
        ("html", "markup"),
        ("xml", "markup"),
        ("menu", "separators"),
        ("path", "separators"),
        ("ellipses", "ellipsis_lines"),
        ("advertisement", "advertisement"),
    ],
)
def test_each_kind_of_bad_text_is_dropped_with_a_reason(kind, rule):
    row = dropped(BAD[kind])[0]
    assert row["rule"] == rule
    assert row["reason"].count("\n") == 0
    assert " must be" in row["reason"] or " may be" in row["reason"]


def test_shuffled_text_is_known_by_its_pairs_of_letters_too():
    row = dropped(BAD["shuffled"], min_function_words=None)[0]
    assert row["rule"] == "rare_pairs"
    assert row["value"] > 0.15
    assert not dropped("xq zj", min_function_words=None)


def test_a_document_is_judged_alike_alone_and_in_a_batch():
    texts = [*GOOD, *BAD.values(), "", "x", "The."]
    together = {number: row["rule"] for number, row in dropped(*texts).items()}
    assert together == {number: rows[0]["rule"] for number, text in enumerate(texts) if (rows := dropped(text))}


def test_every_letter_has_followers_and_white_space_decides_nothing():
    assert "".join(FOLLOWERS) == "abcdefghijklmnopqrstuvwxyz"
    assert not dropped("\n".join(PROSE.split(". ")))


def test_a_word_that_is_no_tag_is_no_markup():
    assert not dropped(PROSE.replace(" a ", " <unk> ").replace(" and ", " <name> and "))


def test_lists_and_dashes_are_no_menus():
    ingredients = (
        "Mix what follows, and leave it in the sun for a day or two:\n" + "- a pint of milk\n  * two of the eggs\n"
    )
    assert not dropped(ingredients, PROSE.replace(", ", " – "), "It is 3 - 2 of all of the shares that were in it.")


def test_null_switches_off():
    assert not dropped(*BAD.values(), **dict.fromkeys(RULES))


def test_a_missing_or_unnamed_word_list_is_told_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"word list .*none\.txt cannot be read"):
        dropped("x", function_words=str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match=r"max_advertisement=0\.15 needs advertisement_words"):
        dropped("x", advertisement_words=None)


def test_a_list_of_ones_own_is_used(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("harbour\nhedges\n", "utf-8")
    row = dropped(PROSE, function_words=str(file))[0]
    assert row["value"] == pytest.approx(2 / 59)


def test_words_stand_for_their_file(tmp_path):
    contents = []
    for number, words in enumerate(("harbour", "hedges", "harbour")):
        file = tmp_path / f"{number}.txt"
        file.write_text(words, "utf-8")
        contents.append(English(**(RULES | {"function_words": str(file)})).contents)
    assert contents[0] == contents[2] != contents[1]


@pytest.mark.parametrize("text", ["x", "word " * 2_000_000, "a" * 10_000_000, "\n" * 1_000_000, "<!-- " * 1_000_000])
def test_extreme_documents_are_judged(text):
    assert len(dropped(text)) == 1


def test_the_recipe_drops_the_bad_and_keeps_the_good():
    documents = table(*GOOD, *BAD.values(), "Too short.", "\n".join(["Home", "About", "Log in"] * 20), f"{PROSE}\n" * 9)
    for name, stage in recipe().items():
        documents = stage(documents).kept if name != "near_duplicates" else documents
    assert documents["id"].to_pylist() == [str(number) for number in range(len(GOOD))]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} does not exist")
def test_the_recipe_catches_what_people_planted():
    with (DATA / "mixed_en.truth.jsonl").open(encoding="utf-8") as file:
        labels = {row["id"]: set(row["labels"]) for row in map(json.loads, file)}
    with (DATA / "mixed_en.jsonl").open(encoding="utf-8") as file:
        rows = list(map(json.loads, file))
    documents = table(*(row["text"] for row in rows))
    for stage in (stage for name, stage in recipe().items() if "duplicates" not in name):
        documents = stage(documents).kept
    left = {rows[int(number)]["id"] for number in documents["id"].to_pylist()}
    low = {name for name, kinds in labels.items() if "low_quality" in kinds}
    clean = {name for name, kinds in labels.items() if kinds & {"clean", "pii"}}
    assert len(low - left) >= 0.95 * len(low)
    assert len(clean - left) <= 0.01 * len(clean)


@pytest.mark.parametrize("override", ["min_letters=2", "max_advertisement=-0.1", "max_rare_pairs=true"])
def test_settings_out_of_range_are_refused(override):
    words = ["data=files", "data.paths=[a]", "data/recipe=english_web", f"data.stages.english.{override}"]
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        config.check(cli._composed("data", words), config.DataConfig)
