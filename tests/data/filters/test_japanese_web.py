"""The recipe japanese_web as a whole: what it drops, and what it keeps, of texts made here and of real ones."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pytest

from pretrain import cli, config
from pretrain.data.documents import DOCUMENT
from pretrain.data.running import CorpusStage

DATA = Path(__file__).parents[4] / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")

SENTENCES = [
    "駅前の古い書店は、去年の秋に店を閉めた。",
    "店主だった老人は、本を読むことよりも、本を並べることが好きだと言っていた。",
    "棚の前に立って背表紙を眺めていると、知らない町を歩いているような気持ちになるのだという。",
    "私はその話を聞いてから、買う本を決めずに店へ行くようになった。",
    "雨の日には客が少なく、奥の部屋で湯をわかす音が聞こえた。",
    "今では同じ場所に新しい菓子屋ができて、甘い匂いが通りまで流れてくる。",
    "この湖は周囲がおよそ十二キロメートルあり、冬になると全面が凍結する。",
    "水深は最も深いところで四十メートルに達し、夏でも底の水温は五度ほどしかない。",
    "江戸時代の記録によれば、氷の上を馬が渡ったこともあったとされている。",
    "現在では観光船が運航されており、秋の紅葉の時期には多くの人が訪れる。",
    "新しい方法では、まず試料を薄く切り、その表面に光を当てて反射を測定する。",
    "測定の結果は温度によって変わるため、部屋の温度を一定に保つ必要がある。",
    "従来の装置に比べると費用は三分の一になり、時間も大幅に短くなった。",
    "ただし、湿度の高い場所では誤差が大きくなることが報告されている。",
    "「明日は早いから、もう寝なさい」と母が言った。",
    "弟は返事をしないで、窓の外の月をいつまでも見ていた。",
    "市議会は二十日、来年度の予算案を賛成多数で可決した。",
    "予算の総額は前の年より二パーセント増え、そのうち道路の修理に最も多くの額が充てられる。",
    "反対した議員からは、説明が十分ではないという意見が出された。",
    "祖父の畑では、毎年五月になると豆の種をまき、七月の終わりに収穫する。",
]
ENGLISH = (
    "The history of the lake goes back further than the first records of the village, and it is told in many ways. "
)
MENU = (
    "ホーム 会社概要 採用情報 お知らせ 製品一覧 よくある質問 サイトマップ アクセス ログイン 利用規約 検索 特集".split()
)
SPAM = [
    "送料無料キャンペーン実施中！！全品激安セール！",
    "今すぐ無料登録！ポイント10倍プレゼント！",
    "在宅ワークで高収入！誰でも簡単に稼げる副業！",
    "人気ランキング第1位！口コミで話題のサプリ！",
    "期間限定の特別価格！お申し込みはこちらをクリック！",
    "最安値保証！返金保証付きでお買い得です！",
]


def prose(r: random.Random) -> str:
    """A document of some paragraphs."""
    some = r.sample(SENTENCES, r.randint(8, 16))
    return "".join(sentence + r.choice(["", "", "\n\n"]) for sentence in some).strip()


def shuffled(text: str, r: random.Random) -> str:
    return "".join(r.sample(text, len(text)))


LOW_QUALITY = {
    "too_short": lambda r: prose(r)[: r.randint(1, 12)],
    "empty": lambda r: r.choice(["", " ", "\n\n", "\u3000\u3000", "\u200b"]),
    "symbols": lambda r: "".join(r.choice("!#$%&*+-/=?@^_|~○●□■△▲▽▼※★→") for _ in range(r.randint(100, 900))),
    "digits": lambda r: "\n".join("\t".join(str(r.randint(1, 99999)) for _ in range(8)) for _ in range(40)),
    "wrong_language": lambda r: ENGLISH * r.randint(2, 8),
    "mojibake": lambda r: prose(r).encode().decode(r.choice(["latin-1", "cp932", "cp1252"]), "replace"),
    "repeat_char": lambda r: prose(r)[: r.randint(10, 80)] + r.choice("あーwｗ!*-=…。■a8") * r.randint(60, 500),
    "repeat_line": lambda r: "\n".join([r.choice(SENTENCES)] * r.randint(5, 50)),
    "repeat_passage": lambda r: "".join([prose(r), *["".join(r.sample(SENTENCES, 2))] * r.randint(6, 12)]),
    "spam": lambda r: "\n".join(r.choice(SPAM) for _ in range(r.randint(6, 30))),
    "spam of unlike lines": lambda r: r.choice("\n ").join(r.sample(SPAM, r.randint(4, 6))),
    "menu": lambda r: "\n".join(r.choice(SENTENCES)[: r.randint(4, 8)] for _ in range(r.randint(20, 100))),
    "menu of a site": lambda r: r.choice(["\n", " | ", " > "]).join(r.sample(MENU, 12)),
    "html": lambda r: f"<html><body><div><a href='/'>a</a></div>{'<p>'.join(prose(r).split('。'))}</body></html>",
    "ellipsis_list": lambda r: "\n".join(f"{line[: r.randint(8, 30)]}{r.choice(['…', '...'])}" for line in SENTENCES),
    "shuffled_chars": lambda r: shuffled("".join(r.sample(SENTENCES, 16)), r),
}


@pytest.fixture(scope="module")
def stages():
    """Of the recipe, those that judge a document by itself."""
    composed = cli._composed("data", ["data=files", "data.paths=[corpus]", "data/recipe=japanese_web"])
    parts = config.parse(composed, config.DataConfig).data.stages
    made = {name: config.build(part) for name, part in parts.items()}
    return {name: stage for name, stage in made.items() if not isinstance(stage, CorpusStage)}


def dropped(texts: list[str], stages: dict) -> dict[int, str]:
    """The number of each text that is dropped, and why."""
    rows = [{"id": str(n), "text": text, "source": "s", "source_id": "r", "meta": "{}"} for n, text in enumerate(texts)]
    documents = pa.Table.from_pylist(rows, schema=DOCUMENT)
    found = {}
    for name, stage in stages.items():
        output = stage(documents)
        found |= {int(row["id"]): f"{name}: {row['reason']}" for row in output.dropped.to_pylist()}
        documents = output.kept
    return found


@pytest.mark.parametrize("kind", LOW_QUALITY)
def test_nearly_all_of_each_kind_of_low_quality_is_dropped(kind, stages):
    r = random.Random(kind)
    texts = [LOW_QUALITY[kind](r) for _ in range(100)]
    gone = dropped(texts, stages)
    kept = [text for n, text in enumerate(texts) if n not in gone]
    assert len(kept) <= 5, kept[:3]


def test_prose_is_kept(stages):
    r = random.Random(1)
    assert dropped([prose(r) for _ in range(200)], stages) == {}


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_bytes().splitlines()]


def kana(text: str) -> float:
    return sum("\u3040" <= letter <= "\u30ff" for letter in text) / max(1, len(text))


@real
def test_of_a_planted_mix_low_quality_goes_and_clean_documents_stay(stages):
    labels = {row["id"]: row["labels"] for row in read("dirty/mixed_ja.truth.jsonl")}
    rows = read("dirty/mixed_ja.jsonl")
    gone = dropped([row["text"] for row in rows], stages)
    bad = [n for n, row in enumerate(rows) if "low_quality" in labels[row["id"]]]
    good = [n for n, row in enumerate(rows) if "clean" in labels[row["id"]]]
    assert len(bad) > 100 < len(good)
    assert sum(n in gone for n in bad) >= 0.95 * len(bad)
    assert sum(n in gone for n in good) <= 0.01 * len(good)


@real
@pytest.mark.parametrize("name", ["jawiki_jaquad", "jawiki_lecture_like", "jawiki_country_plain"])
def test_of_real_prose_at_most_one_document_in_a_hundred_goes(name, stages):
    texts = [row["text"] for row in read(f"ja/{name}.jsonl") if kana(row["text"]) > 0.1]
    gone = dropped(texts, stages)
    assert len(gone) <= 0.01 * len(texts), list(gone.values())[:5]


@real
@pytest.mark.parametrize("lines", [20, 100, 10_000])
def test_a_novel_stays_in_pieces_and_whole(lines, stages):
    novel = (DATA / "ja" / "neko.txt").read_text("utf-8").split("\n")
    texts = ["\n".join(novel[n : n + lines]) for n in range(0, len(novel), lines)]
    gone = dropped(texts, stages)
    assert len(gone) <= 0.01 * len(texts), list(gone.values())[:5]
