"""Wikipedia's dumps: which pages are read, what is left of their markup, and what hostile ones cost."""

import bz2
import gzip
import io
import json
import time
from xml.sax.saxutils import escape

import pytest

from pretrain.data.sources.mediawiki import MARKUP_BYTES, WikipediaDump, read_dump
from pretrain.data.sources.reading import Limits, Record, Refused, Unreadable
from pretrain.data.sources.wikitext import plain_text
from pretrain.errors import UsageError

LIMITS = Limits(document_bytes=1_000_000, expansion=1000.0, replaced=0.1)
HEAD = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="ja"><siteinfo/>'
TAIL = "</mediawiki>"


def page(number, text, namespace=0, title="猫", inside="", revisions=""):
    return (
        f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>{number}</id>{inside}{revisions}"
        f"<revision><id>{number + 1000}</id><timestamp>2024-01-02T03:04:05Z</timestamp>"
        f"<contributor><username>someone</username><id>7</id></contributor>"
        f'<text bytes="9" xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def dump(*pages):
    return (HEAD + "".join(pages) + TAIL).encode()


def read(raw, **keywords):
    return list(read_dump(io.BufferedReader(io.BytesIO(raw)), "a.xml", LIMITS, **keywords))


def read_until_damage(raw):
    """The records before the fault, and the fault."""
    records = []
    with pytest.raises(Unreadable) as caught:
        records.extend(read_dump(io.BufferedReader(io.BytesIO(raw)), "a.xml", LIMITS))  # extend keeps what came before
    return records, caught.value


def test_a_page_is_a_document_with_its_title_revision_and_time():
    (record,) = read(dump(page(12, "'''猫'''は[[動物]]である。", title="猫 & 犬")))
    assert record == Record(0, "12", "猫は動物である。", record.meta)
    meta = {"title": "猫 & 犬", "page": "12", "revision": "1012", "timestamp": "2024-01-02T03:04:05Z"}
    assert json.loads(record.meta) == meta


def test_talk_pages_and_redirects_are_passed_over_and_positions_count_every_page():
    redirect = page(3, "#REDIRECT [[b]]", inside='<redirect title="b" />')
    pages = [page(1, "a"), page(2, "talk", namespace=1), redirect, page(4, "#転送 [[b]]"), page(5, "b")]
    assert [(record.position, record.name) for record in read(dump(*pages))] == [(0, "1"), (4, "5")]
    assert [record.text for record in read(dump(*pages), namespaces=[1])] == ["talk"]


def test_of_a_page_with_its_history_the_last_revision_counts():
    old = "<revision><id>1</id><timestamp>2001</timestamp><text>old text</text></revision>"
    (record,) = read(dump(page(1, "new", revisions=old)))
    assert (record.text, json.loads(record.meta)["revision"]) == ("new", "1001")


def test_a_page_that_is_too_large_or_without_text_is_refused_and_those_behind_it_are_read():
    large, empty, good = read(dump(page(1, "x" * 1_000_001), page(2, "{{stub}}\n[[Category:a]]"), page(3, "good")))
    assert isinstance(large, Refused)
    assert isinstance(empty, Refused)
    assert (large.position, large.rule, empty.position, empty.rule) == (0, "too_large", 1, "no_text")
    assert "1,000,001" in large.reason
    assert (good.position, good.text) == (2, "good")


def test_a_page_is_the_same_wherever_the_chunks_of_the_file_end(monkeypatch):
    raw = dump(page(1, "吾輩は猫である。" * 50), page(2, "名前は & まだ無い。"))
    whole = read(raw)
    for size in (1, 2, 3, 7, 1000):
        monkeypatch.setattr("pretrain.data.sources.mediawiki.CHUNK", size)
        assert read(raw) == whole


def test_a_dump_cut_anywhere_gives_the_pages_before_the_cut():
    raw = dump(*(page(number, f"text {number}") for number in range(20)))
    for end in range(len(HEAD), len(raw) - 1, 97):
        records, fault = read_until_damage(raw[:end])
        assert len(records) == raw[:end].count(b"</page>")
        assert fault.rule == "truncated"


def test_damage_gives_the_pages_before_it():
    records, fault = read_until_damage(dump(page(1, "a"), page(2, "b"), "<page><</page>", page(3, "c")))
    assert [record.text for record in records] == ["a", "b"]
    assert fault.rule == "damaged"


@pytest.mark.parametrize("compress", [bz2.compress, gzip.compress])
def test_a_compressed_dump_of_several_streams_is_read_and_a_cut_one_as_far_as_it_goes(tmp_path, compress):
    pages = [page(number, f"text {number} " + "猫" * 40_000) for number in range(40)]
    streams = [compress((HEAD + "".join(pages[:20])).encode()), compress(("".join(pages[20:]) + TAIL).encode())]
    (tmp_path / "jawiki-pages-articles1.xml-p1p40.bz2").write_bytes(b"".join(streams))
    source = WikipediaDump(paths=[str(tmp_path)], namespaces=[0])
    (file,) = source.files()
    assert [record.name for record in source.read(file, LIMITS)] == [str(number) for number in range(40)]
    (tmp_path / "jawiki-pages-articles1.xml-p1p40.bz2").write_bytes(b"".join(streams)[:-20])
    (file,) = source.files()
    names = []
    with pytest.raises(Unreadable):
        names.extend(record.name for record in source.read(file, LIMITS))
    assert names[:20] == [str(number) for number in range(20)]


def test_only_dumps_are_looked_for_in_a_folder(tmp_path):
    for name in ("a.xml", "a.xml.bz2", "a1.xml-p1p9.bz2", "a-index.txt.bz2", "a.txt", "xml", "a.xml.md5"):
        (tmp_path / name).write_bytes(dump())
    found = WikipediaDump(paths=[str(tmp_path)], namespaces=[0]).files()
    assert sorted(file.name for file in found) == ["a.xml", "a.xml.bz2", "a1.xml-p1p9.bz2"]


def test_no_paths_are_an_error_that_says_what_to_type():
    with pytest.raises(UsageError, match=r"data=wikipedia_dump reads data.paths.*try data.paths=\[jawiki"):
        WikipediaDump(paths=[], namespaces=[0]).files()


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "billion laughs": (f'<!DOCTYPE m [<!ENTITY l0 "ha">{LAUGHS}]>{HEAD}&l9;{TAIL}', "doctype"),
    "external entity": (f'<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]>{HEAD}&x;{TAIL}', "doctype"),
    "undefined entity": (HEAD + "&x;" + TAIL, "damaged"),
    "endless comment": (HEAD + "<!--" + "x" * 3 * MARKUP_BYTES, "damaged"),
    "endless tag": (HEAD + '<a b="' + "x" * 3 * MARKUP_BYTES, "damaged"),
    "deep": (HEAD + "<a>" * 100_000, "damaged"),
    "other XML": ("<html></html>", "not_a_dump"),
    "no XML": ("plain words", "damaged"),
    "empty": ("", "truncated"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_dump_or_attacks_the_parser_is_refused_at_once(name):
    raw, rule = HOSTILE[name]
    began = time.perf_counter()
    records, fault = read_until_damage(raw.encode())
    assert records == []
    assert fault.rule == rule
    assert "\n" not in str(fault)
    assert time.perf_counter() - began < 2


def test_a_page_without_end_is_not_kept_in_memory():
    text = page(1, "x").replace(">x<", ">" + "x" * 5_000_000 + "<").replace("猫", "t" * 100_000)
    (refused,) = read(dump(text))
    assert len(refused.head) <= 1000
    assert len(refused.reason) < 20_000


MARKUP = {
    "bold and italic": ("'''猫'''と''犬''と'''''鳥'''''", "猫と犬と鳥"),
    "links": ("[[猫]]と[[犬 (動物)|犬]]、[[cat]]s, [[:Category:x|c]]", "猫と犬、cats, c"),
    "external links": ("see [http://a.b/c the page], [https://a.b] or http://a.b", "see the page, or http://a.b"),
    "pictures": ("a[[File:x.jpg|thumb|the [[cat]] [[a|b]]]]b[[ファイル:y.png|左]]c", "abc"),
    "categories": ("a\n[[Category:猫]]\n[[カテゴリ:犬|よ]]\n[[de:Katze]]", "a"),
    "templates": ("a{{b|c={{d|[[e]]}}|{{{1|f}}}}}g{{{2}}}{{h", "agh"),
    "wrapping templates": ("{{lang|de|[[K|eine Katze]]}}, {{仮リンク|猫|en|x}}, {{Lang-en|C}}", "eine Katze, 猫, C"),
    "measures": ("It is {{convert|10|km|mi|0}} away", "It is 10 km away"),
    "hollow brackets": ("猫（{{ふりがな}}、ねこ）と犬（{{x}}）は ({{y}}, a; {{z}}) b", "猫（ねこ）と犬は (a) b"),
    "tables": ("a\n{| class=x\n! h\n|-\n| b || [[c]]\n{|\n| d\n|}\n|}\ne", "a\n\ne"),
    "a table that never ends": ("a\n{|\n| b\n|-\nc", "a\n\nc"),
    "references": ('a<ref name="x">{{cite}}</ref>b<ref name=y />c<references/>d<REF>e</REF>f', "abcdf"),
    "galleries": ("a<gallery mode=x>\nA.jpg|b\n</gallery>c", "ac"),
    "comments": ("a<!-- {{ -->b<!-- c", "ab c"),
    "tags": ("a<sub>2</sub> <b id='x'>b</b><br />c, 1 < 2 <3 and <unknown>", "a2 b\nc, 1 < 2 <3 and <unknown>"),
    "entities": ("a&nbsp;&amp;&#x732B;&lt;b&gt; &#0; &#99999999999;", "a &猫<b> \ufffd \ufffd"),
    "headings": ("== 猫 ==\na\n=== 犬 ===\nb\n== 空 ==\n== c ==\nd\n== 脚注 ==", "猫\na\n犬\nb\nc\nd"),
    "lists": ("* a\n** b\n# c\n; d\n: e\n----\nf", "a\nb\nc\nd\ne\nf"),
    "switches": ("__NOTOC__a__目次__ and __init__", "a and __init__"),
    "literal text": ("<nowiki>[[a]] ''b''</nowiki>\n<pre>\n if x:\n  y\n</pre>z", "[[a]] ''b''\n\n if x:\n  y\nz"),
    "brackets that never close": ("a [[b\nc {{d\n\ne]] f}} g", "a b\nc d\n\ne f g"),
    "a link over two lines": ("a [[b\nc|d]] e", "a b\nc|d e"),
    "noncharacters": ("a\ufdd0b", "ab"),
}  # fmt: skip


@pytest.mark.parametrize("name", MARKUP)
def test_markup_becomes_what_a_reader_sees(name):
    wikitext, expected = MARKUP[name]
    assert plain_text(wikitext) == expected


def test_text_without_markup_stays_as_it_is():
    text = "吾輩は猫である。名前はまだ無い。\n\nIt's 5 o'clock; a_b = c[0] (d, e) & f."
    assert plain_text(text) == text


PIECES = (
    "{{ [[ {| |} ]] }} {{a| [[a| <ref> <ref </ref> <!-- --> [http://a < <nowiki> ' = * ( （、 &#9 & __ [[: {{lang|a|"
).split()


@pytest.mark.parametrize("piece", [*PIECES, "{|\n", "\n|}", "、", "[[a|[[", "\n=a=", " \n", "&#" + "9" * 5000 + ";"])
def test_hostile_markup_costs_no_more_than_its_length(piece):
    nested = piece * (300_000 // len(piece))
    began = time.perf_counter()
    plain_text(nested)
    plain_text(nested[: len(nested) // 2] + "]]}}" * 30_000)
    assert time.perf_counter() - began < 4  # quadratic time would be minutes
