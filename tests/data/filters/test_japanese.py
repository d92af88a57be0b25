import math
import time
import unicodedata
from collections import Counter
from functools import lru_cache
from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.documents import DOCUMENT, StageOutput
from pretrain.data.filters import measures
from pretrain.data.filters.characters import CharacterTable
from pretrain.data.filters.japanese import Japanese
from pretrain.errors import ConfigError

THRESHOLDS = {
    "min_characters": 20,
    "max_characters": None,
    "min_kana": 0.1,
    "max_symbols": 0.4,
    "max_mojibake": 0.01,
    "max_markup": 0.03,
    "max_character_run": 200,
    "max_runs": 0.1,
    "max_sentence": 250,
    "max_short_lines": 0.5,
    "max_ellipsis_lines": 0.3,
    "advertisement_words": "advertisement_ja",
    "max_advertisement": 0.1,
    "header_footer_words": "header_footer_ja",
    "max_header_footer": 0.2,
    "adult_words": "adult_ja",
    "max_adult": 0.03,
    "discrimination_words": None,
    "max_discrimination": None,
    "violence_words": None,
    "max_violence": None,
    "function_words": "function_ja",
    "min_function_words": 0.04,
    "max_impossible_pairs": 0.02,
    "min_compression": 0.25,
    "max_compression": 0.8,
    "max_repetition": 0.33,
    "min_order": 2.5,
}
OFF = dict.fromkeys(THRESHOLDS)
PROSE = (
    "駅前の古い書店は、去年の秋に店を閉めた。店主だった老人は、本を読むことよりも、本を並べることが好きだと言っていた。"
    "棚の前に立って背表紙を眺めていると、知らない町を歩いているような気持ちになるのだという。"
    "私はその話を聞いてから、買う本を決めずに店へ行くようになった。雨の日には客が少なく、奥の椅子で湯をわかす音がした。"
    "今では同じ場所に新しい菓子屋ができて、甘い匂いが通りまで流れてくる。それはそれで悪くないが、ときどき紙の匂いを思い出す。"
)

characters = st.sampled_from("あいのアンー漢字々a1 \n\u3000。．.…・！?<>/p&;縺\ufffdw𠮷😀Ａｱ①")
texts = st.lists(characters, max_size=80).map("".join) | st.text(max_size=40)
batches = st.lists(texts, min_size=1, max_size=6)
literal = settings(deadline=None, max_examples=200)


def judge(*texts: str, **thresholds: float | str | None) -> StageOutput:
    rows = [{"id": str(n), "text": text, "source": "s", "source_id": "r", "meta": "{}"} for n, text in enumerate(texts)]
    return built(tuple(thresholds.items()))(pa.Table.from_pylist(rows, schema=DOCUMENT))


@lru_cache(maxsize=4)
def built(thresholds: tuple) -> Japanese:
    return Japanese(**(THRESHOLDS | dict(thresholds)))


def rule_of(text: str, **thresholds: float | str | None) -> str | None:
    return next((row["rule"] for row in judge(text, **thresholds).dropped.to_pylist()), None)


def shuffled(text: str) -> str:
    return "".join(np.random.default_rng(0).permutation(list(text)).tolist())


def visible(text: str) -> str:
    return "".join(letter for letter in text if not letter.isspace())


def share(part: float, whole: float) -> float:
    return part / max(whole, 1)


def literal_sentence(text: str) -> float:
    japanese_before = [False, *(is_japanese(letter) for letter in text)]
    stops = [letter in "。！？!?｡．" or (letter == "." and japanese_before[i]) for i, letter in enumerate(text)]
    ends = sum(stop and not following for stop, following in pairwise([*stops, False]))
    return len(visible(text)) / max(ends, 1)


def is_japanese(letter: str) -> bool:
    name = unicodedata.name(letter, "")
    kinds = ("HIRAGANA", "KATAKANA", "CJK UNIFIED")
    return (any(kind in name for kind in kinds) and letter not in "゠・･") or letter == "々"


def literal_runs(text: str) -> list[int]:
    return [len(list(run)) for letter, run in groupby(text) if not letter.isspace()]


def lines_of(text: str) -> list[str]:
    return [line for line in map(visible, text.split("\n")) if line]


def literal_ellipses(text: str) -> float:
    lines = lines_of(text)
    return share(sum(line.endswith(("…", "‥", "...", "・・・", "。。。")) for line in lines), len(lines))


def literal_repetition(text: str) -> float:
    counts = Counter(text[i : i + 5] for i in range(len(text) - 4))
    several = sorted((count for count in counts.values() if count > 1), reverse=True)
    return share(sum(several[: math.isqrt(len(counts))]), counts.total())


def literal_order(text: str) -> float:
    seen = visible(text[: measures.ORDERED])
    one, two = Counter(seen), Counter(pairwise(seen))
    coincidences = [sum(n * (n - 1) / 2 for n in counts.values()) for counts in (one, two)]
    pairs = [max(n.total() * (n.total() - 1) / 2, 1) for n in (one, two)]
    chance = (coincidences[0] / pairs[0]) ** 2
    told = len(text) >= measures.SHORTEST_ORDERED and chance * pairs[1] >= measures.COINCIDENCES
    return coincidences[1] / pairs[1] / chance if told else math.nan


LITERAL = {
    "sentence_length": literal_sentence,
    "longest_run": lambda text: max(literal_runs(text), default=0),
    "run_share": lambda text: share(sum(run for run in literal_runs(text) if run >= 10), len(visible(text))),
    "short_line_share": lambda text: share(
        sum(len(line) for line in lines_of(text) if len(line) <= 10), len(visible(text))
    ),
    "ellipsis_line_share": literal_ellipses,
}


@pytest.mark.parametrize("name", LITERAL)
@literal
@given(batch=batches)
def test_a_batch_is_measured_as_each_text_is_by_the_rule_as_it_is_written(name, batch):
    measured = getattr(measures, name)(CharacterTable.of(batch))
    assert measured.tolist() == pytest.approx([LITERAL[name](text) for text in batch])


@literal
@given(st.lists(st.lists(st.sampled_from("あいうえお\n"), max_size=200).map("".join), min_size=1, max_size=5))
def test_repetition_is_measured_as_hojichar_counts_it(batch):
    measured = measures.repetition(batch, CharacterTable.of(batch), most=-1.0)
    assert measured.tolist() == pytest.approx([literal_repetition(text) for text in batch])


@literal
@given(st.lists(st.lists(st.sampled_from("あいうえおかきくけこ"), max_size=300).map("".join), min_size=1, max_size=5))
def test_the_bound_of_repetition_is_never_below_it(batch):
    bound = measures.repetition_bound(CharacterTable.of(batch))
    assert all(bound >= np.array([literal_repetition(text) for text in batch]) - 1e-12)
    some = measures.repetition(batch, CharacterTable.of(batch), most=0.33)
    assert [value for value in some if value > 0.33] == pytest.approx(
        [value for text in batch if (value := literal_repetition(text)) > 0.33]
    )


@pytest.mark.parametrize("times", [2, 3, 4, 20])
@pytest.mark.parametrize("length", [5, 24, 200])
@pytest.mark.parametrize("between", [0, 150])
def test_the_bound_holds_where_all_that_repeats_does_so_equally_often(length, times, between):
    others = iter(map(chr, range(0x5000, 0x9000)))
    block = "".join(map(chr, range(0x4E00, 0x4E00 + length)))
    text = "".join(block + "".join(next(others) for _ in range(between)) for _ in range(times))
    assert measures.repetition_bound(CharacterTable.of([text]))[0] >= literal_repetition(text)


@literal
@given(
    st.lists(st.lists(st.sampled_from("あいうえおかきくけこ 。\n"), max_size=300).map("".join), min_size=1, max_size=5)
)
def test_order_is_measured_as_friedman_counts_it(batch):
    expected = [literal_order(text) for text in batch]
    assert measures.order(batch).tolist() == pytest.approx(expected, rel=0.01, nan_ok=True)


@literal
@given(batches)
def test_shares_of_characters_are_counted_over_the_whole_text(batch):
    table = CharacterTable.of(batch)
    assert table.visible.tolist() == [len(visible(text)) for text in batch]
    for rule, kind in (
        ("min_kana", is_kana),
        ("max_symbols", is_symbol),
        ("max_mojibake", "縺繧繝\ufffd".__contains__),
    ):
        threshold = 1.0 if rule.startswith("min") else 0.0
        found = judge(*batch, **(OFF | {rule: threshold})).dropped.to_pylist()
        expected = [share(sum(map(kind, visible(text))), len(visible(text))) for text in batch]
        assert [row["value"] for row in found] == pytest.approx([value for value in expected if value != threshold])


def is_kana(letter: str) -> bool:
    return (
        ("\u3041" <= letter <= "\u30ff" and letter not in "゠・\u3097\u3098")
        or "ｦ" <= letter <= "ﾝ"
        or "ㇰ" <= letter <= "ㇿ"
    )


def is_symbol(letter: str) -> bool:
    if letter >= "\U00020000":  # all Han, whether this Python knows it yet or not
        return letter > "\U0003ffff"
    return (unicodedata.category(letter)[0] in "PSC" and letter not in "〆゛゜") or letter in "\u3097\u3098"


@literal
@given(batches)
def test_compression_is_that_of_zstd(batch):
    expected = [len(zstd.compress(text.encode(), 1)) / max(1, len(text.encode())) for text in batch]
    assert measures.compression(batch).tolist() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>あ</p>", 7 / 8),
        ("a < b, c > d", 0.0),
        ("&lt;p&gt;", 8 / 9),
        ("A&B; 1 <2> <>", 0.0),
        ("<!DOCTYPE html>", 1.0),
        ("", 0.0),
    ],
)
def test_markup_is_tags_and_character_references(text, expected):
    assert measures.markup_share([text]).tolist() == [expected]


def test_good_prose_is_kept():
    assert rule_of(PROSE) is None


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("characters", "短い。"),
        ("kana", "太平洋戦争終結後占領下日本国憲法制定過程研究会報告書"),
        ("symbols", "あ☆★○●！" * 30),
        ("mojibake", PROSE.encode().decode("cp932", "replace")),
        ("markup", f"<div class='a'><p>{PROSE}</p></div>"),
        ("character_run", PROSE * 10 + "ー" * 201),
        ("runs", PROSE + "ー" * 60),
        ("sentence", PROSE.replace("。", "、") * 2),
        ("short_lines", "\n".join(PROSE[i : i + 8] for i in range(0, len(PROSE), 8))),
        ("ellipsis_lines", "\n".join(PROSE[i : i + 30] + "…" for i in range(0, len(PROSE), 30))),
        ("advertisement", "送料無料で激安のセール商品がお買い得です。今すぐクリックしてお申し込みください。"),
        ("header_footer", "ホーム 会社概要 採用情報 サイトマップ よくある質問 プライバシーポリシー。"),
        ("adult", "巨乳の人妻動画が無修正で見られるアダルトサイトはここです。"),
        ("function_words", PROSE[::-1]),
        ("impossible_pairs", PROSE + "三ヲ一ァ山ーをの。、んっむゃ"),
        ("compression", PROSE[:100] * 6),
    ],
)
def test_each_rule_drops_what_it_is_for(rule, text):
    assert rule_of(text) == rule


@pytest.mark.parametrize(
    ("rule", "text", "thresholds"),
    [
        ("compression", PROSE * 2, {"max_compression": 0.3}),
        ("repetition", "".join(f"その{letter}はだめです。" for letter in PROSE), {"min_compression": None}),
        ("order", shuffled(PROSE + PROSE), {"min_function_words": None, "max_impossible_pairs": None}),
    ],
)
def test_a_rule_catches_what_the_rules_before_it_let_pass(rule, text, thresholds):
    assert rule_of(text, **thresholds) == rule


def test_the_first_broken_rule_is_told_with_value_threshold_and_reason():
    row = judge("<p>" * 10).dropped.to_pylist()[0]
    assert (row["rule"], row["value"], row["threshold"]) == ("kana", 0.0, 0.1)
    assert row["reason"] == "0.00% of the characters are kana; at least 10% must be"
    row = judge("短い。").dropped.to_pylist()[0]
    assert row["reason"] == "3 characters are visible; at least 20 must be"


@settings(deadline=None)
@given(st.lists(texts, max_size=8))
def test_a_document_is_judged_alike_alone_and_in_any_batch(documents):
    together = judge(*documents)
    alone = [judge(text).dropped["reason"].to_pylist() for text in documents]
    assert together.dropped["reason"].to_pylist() == [reason for found in alone for reason in found]
    assert together.kept["text"].to_pylist() == [
        text for text, found in zip(documents, alone, strict=True) if not found
    ]


def test_with_every_rule_off_everything_is_kept():
    assert len(judge("", "a", " \n", PROSE, "<p>", **OFF).kept) == 5


def test_a_word_list_that_is_missing_empty_or_no_text_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"the word list .*gone\.txt cannot be read \(No such file or directory\)"):
        judge("あ", violence_words=str(tmp_path / "gone.txt"), max_violence=0.1)
    (tmp_path / "empty.txt").write_text("# only a comment\n\n", "utf-8")
    with pytest.raises(ConfigError, match=r"empty\.txt holds no word"):
        judge("あ", violence_words=str(tmp_path / "empty.txt"), max_violence=0.1)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.txt cannot be read \(it is not UTF-8\)"):
        judge("あ", violence_words=str(tmp_path / "binary.txt"), max_violence=0.1)
    with pytest.raises(ConfigError, match=r"max_violence=.* needs violence_words"):
        judge("あ", max_violence=0.1)


def test_the_key_depends_on_what_is_in_a_word_list_and_not_where_it_lies(tmp_path):
    contents = []
    for number, words in enumerate(["猫", "犬", "猫\n"]):
        (tmp_path / f"{number}.txt").write_text(words, "utf-8")
        contents.append(built((("violence_words", str(tmp_path / f"{number}.txt")), ("max_violence", 0.1))).contents)
    assert contents[0] == contents[2] != contents[1]
    assert set(contents[0]) == {name for name, value in THRESHOLDS.items() if isinstance(value, str)} | {
        "violence_words"
    }


@pytest.mark.parametrize("text", ["", "あ", "a", "\n", "。", "\U0010ffff"])
def test_a_document_of_one_character_is_judged(text):
    assert rule_of(text) == "characters"


def test_a_word_that_is_repeated_is_dropped():
    assert rule_of("あ" * 1000) == "character_run"
    assert rule_of("にゃあ。" * 1000) == "function_words"
    assert rule_of("これはだめです。" * 1000) in ("compression", "repetition")


@pytest.mark.parametrize("piece", [PROSE, "あ", "<p", "縺", "…\n", "送料無料", "\n", "&a"])
def test_ten_million_characters_take_seconds(piece):
    text = piece * (10_000_000 // len(piece))
    started = time.perf_counter()
    judge(text, **(dict.fromkeys(THRESHOLDS) | {"max_repetition": 1.0, "min_order": 0.0}))
    judge(text)
    assert time.perf_counter() - started < 30


def test_bounds_that_cross_are_refused():
    with pytest.raises(ConfigError, match="min_characters=9 is above max_characters=8"):
        judge("あ", min_characters=9, max_characters=8)
