"""Web crawls as a corpus: which records are documents, what is refused, and that no bad record loses a good one."""

import gzip
import io
import json
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest
from backports import zstd

from pretrain.data.sources.reading import Limits, Record, SourceFile, Unreadable
from pretrain.data.sources.web import WebCrawl, html_text, read_warc
from pretrain.errors import UsageError

pytest.importorskip("resiliparse", reason="the extra `web` is not installed")
brotli = pytest.importorskip("brotli", reason="the extra `web` is not installed")

LIMITS = Limits(document_bytes=200_000, expansion=1000.0, replaced=0.1)
CRAWLS = Path(__file__).parents[4] / "shared" / "data" / "web"
CAT = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。"
COAST = "Die Küste ist öde, aber schön; im Mai blühen dort Äpfel und Schlüsselblumen für müde Gäste."


def page(words="The tide comes in twice a day, and the boats lie high on the sand until then.", head=""):
    return f"<html><head>{head}</head><body><article><p>{words}</p></article></body></html>"


def http(body, *, content_type="text/html", status=200, **headers):
    body = body if isinstance(body, bytes) else body.encode()
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    return f"HTTP/1.1 {status} Some Reason\r\n{kind}{fields}\r\n".encode() + body


def record(block, *, kind="response", url="http://a.example/", version="1.0", length=None, extra=""):
    block = block if isinstance(block, bytes) else block.encode()
    length = len(block) if length is None else length
    head = (
        f"WARC/{version}\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:1>\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Date: 2024-05-06T07:08:09Z\r\n{extra}Content-Length: {length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


GOOD = record(http(page()), url="http://good.example/")


def read(*records, extractor="resiliparse", limits=LIMITS):
    stream = io.BufferedReader(io.BytesIO(b"".join(records)))
    return list(read_warc(stream, "a.warc", limits, extractor))


def rules(found):
    return ["" if isinstance(item, Record) else item.rule for item in found]


@pytest.mark.parametrize("extractor", ["resiliparse", "trafilatura"])
def test_a_page_becomes_its_main_text_under_its_address(extractor):
    menu = '<nav><a href="/">Home</a></nav><script>var tide = 1;</script>'
    words = "The tide comes in twice a day, and the boats lie high on the sand until then. " * 5
    html = f"<html><body>{menu}<article><p>{words}</p></article></body></html>"
    (found,) = read(
        record(http(html, content_type="text/html; charset=utf-8"), extra="WARC-Truncated: length\r\n"),
        extractor=extractor,
    )
    assert (found.position, found.name, found.text.strip(), found.replaced) == (
        1,
        "http://a.example/",
        words.strip(),
        0,
    )
    assert json.loads(found.meta) == {
        "url": "http://a.example/",
        "date": "2024-05-06T07:08:09Z",
        "record-id": "<urn:uuid:1>",
        "truncated": "length",
        "status": 200,
        "content_type": "text/html",
        "encoding": "utf-8",
    }


@pytest.mark.parametrize("version", ["0.17", "1.0", "1.1"])
def test_all_versions_of_warc_are_read(version):
    assert rules(read(record(http(page()), version=version))) == [""]


@pytest.mark.parametrize("status", [204, 301, 404, 503])
def test_a_page_with_another_status_than_200_is_refused(status):
    refused, kept = read(record(http(page(), status=status)), GOOD)
    assert (refused.rule, refused.position, refused.line, str(status) in refused.reason) == ("http_status", 1, 1, True)
    assert refused.head.startswith("HTTP/1.1")
    assert (kept.name, kept.position) == ("http://good.example/", 2)


@pytest.mark.parametrize(
    ("content_type", "rule"),
    [
        ("text/html", ""),
        ("TEXT/HTML;charset=UTF-8", ""),
        ("application/xhtml+xml", ""),
        ("text/plain", ""),
        ("image/png", "content_type"),
        ("application/pdf", "content_type"),
        ("", ""),
    ],
)
def test_only_pages_and_plain_text_are_documents(content_type, rule):
    assert rules(read(record(http(page(), content_type=content_type)))) == [rule]


def test_bytes_without_a_content_type_are_looked_at():
    assert rules(read(record(http(b"\x89PNG\r\n\x1a\n" + bytes(range(256)), content_type="")))) == ["content_type"]


def test_plain_text_stays_as_it_is():
    (found,) = read(record(http("two <p>\n  lines\n", content_type="text/plain")))
    assert found.text == "two <p>\n  lines\n"


def test_records_that_are_about_others_are_passed_over_and_counted_in_the_positions():
    about = [record(b"a: b", kind=kind) for kind in ("warcinfo", "request", "metadata", "revisit", "continuation")]
    (found,) = read(*about, GOOD)
    assert found.position == len(about) + 1


def test_a_page_without_any_text_is_refused():
    assert rules(read(record(http("<html><body><script>x</script></body></html>")), GOOD)) == ["no_main_text", ""]


def test_the_angle_brackets_that_wget_puts_around_addresses_are_removed():
    assert read(record(http(page()), url="<http://a.example/b>"))[0].name == "http://a.example/b"


def test_a_record_without_address_is_named_by_its_file_and_number():
    assert (
        read(GOOD, record("words", kind="conversion", url="", extra="Content-Type: text/plain\r\n"))[1].name
        == "a.warc:2"
    )


@pytest.mark.parametrize("encoding", ["shift_jis", "euc_jp", "iso2022_jp", "utf-8", "utf-16"])
@pytest.mark.parametrize("told", ["header", "meta", "nowhere"])
def test_japanese_pages_are_decoded_whatever_tells_their_encoding(encoding, told):
    name = encoding.replace("iso2022_jp", "iso-2022-jp").replace("euc_jp", "euc-jp")
    html = page(CAT, f'<meta charset="{name}">' if told == "meta" else "").encode(encoding)
    (found,) = read(record(http(html, content_type="text/html" + (f"; charset={name}" if told == "header" else ""))))
    assert (found.text.strip(), found.replaced) == (CAT, 0)


@pytest.mark.parametrize("charset", ["ISO-8859-1", "windows-1252", "", "utf-8", "no-such-charset"])
def test_pages_in_latin_1_are_decoded(charset):
    html = page(COAST).encode("latin-1")
    (found,) = read(record(http(html, content_type=f"text/html; charset={charset}")))
    assert (found.text.strip(), found.replaced) == (COAST, 0)


@pytest.mark.parametrize("wrong", ["ISO-8859-1", "Shift_JIS", "us-ascii"])
def test_utf8_is_seen_whatever_the_server_says(wrong):
    (found,) = read(record(http(page(CAT + COAST), content_type=f"text/html; charset={wrong}")))
    assert found.text.strip() == CAT + COAST


def test_a_page_may_know_better_than_a_server_that_says_latin_1():
    html = page(CAT, '<meta charset="EUC-JP">').encode("euc_jp")
    (found,) = read(record(http(html, content_type="text/html; charset=ISO-8859-1")))
    assert found.text.strip() == CAT


def test_shift_jis_holds_the_characters_of_windows_too():
    html = page(f"{CAT}①髙﨑㈱").encode("cp932")
    (found,) = read(record(http(html, content_type="text/html; charset=Shift_JIS")))
    assert (found.text.strip(), found.replaced) == (f"{CAT}①髙﨑㈱", 0)


def test_a_broken_byte_in_utf8_is_replaced_and_counted():
    html = page(CAT).encode().replace("猫".encode(), b"\xe7\x8c")
    (found,) = read(record(http(html, content_type="text/html; charset=utf-8")))
    assert (found.text.strip(), found.replaced) == (CAT.replace("猫", "\ufffd"), 1)


def test_zero_bytes_and_surrogates_never_reach_a_text():
    (found,) = read(record(http(page("a &#xD800; b \0 c &#0; " + COAST))))
    assert "\0" not in found.text
    found.text.encode()
    (plain,) = read(record(http("a \0 b", content_type="text/plain")))
    assert (plain.text, plain.replaced) == ("a \ufffd b", 1)


def chunked(body, size=7):
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;extension\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def raw_deflate(body):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


ENCODED = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd.compress),
    "two": ("gzip, br", lambda body: brotli.compress(gzip.compress(body))),
    "identity": ("identity", bytes),
    "gzip without a header": ("", gzip.compress),
    "gzip already removed": ("gzip", bytes),
    "br already removed": ("br", bytes),
    "deflate already removed": ("deflate", bytes),
}


@pytest.mark.parametrize("transfer", ["", "chunked", "chunks already removed"])
@pytest.mark.parametrize("name", ENCODED)
def test_chunks_and_compression_are_undone(name, transfer):
    encoding, compress = ENCODED[name]
    body = compress(page(COAST).encode())
    block = http(
        chunked(body) if transfer == "chunked" else body,
        content_encoding=encoding,
        transfer_encoding=transfer and "chunked",
    )
    assert read(record(block))[0].text.strip() == COAST


def test_chunks_that_are_cut_give_what_is_there():
    body = chunked(page(COAST).encode())[:-30]
    assert COAST in read(record(http(body, transfer_encoding="chunked")))[0].text


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd"])
def test_a_bomb_inside_a_page_is_refused_without_being_unpacked(encoding):
    _, compress = ENCODED[encoding]
    bomb = record(http(compress(b"<p>" + b"a" * 100_000_000), content_encoding=encoding))
    tracemalloc.start()
    refused, kept = read(bomb, GOOD)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.rule == "too_large"
    assert isinstance(kept, Record)
    assert peak < 60_000_000


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(b"a" * 99, mtime=0)[:20] + b"damage" * 9, "gzip"),
        (b"\1\2\3damage", "br"),
        (b"\xff\xffdamage", "deflate"),
        (b"<p>", "rot13"),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_refused(body, encoding):
    refused, kept = read(record(http(body, content_encoding=encoding)), GOOD)
    assert refused.rule in ("damaged", "content_encoding")
    assert isinstance(kept, Record)


def test_texts_that_are_too_large_are_refused():
    large = [record(http("a " * size, content_type="text/plain")) for size in (100_001, 5_000_000)]
    assert rules(read(large[0], GOOD, large[1], GOOD)) == ["too_large", "", "too_large", ""]
    assert rules(read(record(http("<p>" + "a " * 2_700_000)), GOOD)) == ["too_large", ""]


@pytest.mark.parametrize("extractor", ["resiliparse", "trafilatura"])
@pytest.mark.parametrize(
    "html", ["<div>" * 50_000 + "a", "<p " + "a=1 " * 100_000 + ">words</p>"], ids=["elements", "attributes"]
)
def test_a_page_that_is_built_to_take_forever_is_refused(html, extractor):
    assert rules(read(record(http(html)), GOOD, extractor=extractor)) == ["tangled", ""]


def test_a_long_page_is_not_taken_for_a_tangled_one():
    rows = "<tr><td>some words<td>and others" * 6000
    lines = "<p>A line of words, with <b>one</b> that is bold.<br>" * 6000
    script = "<script>" + "if (a < b) { c(); }\n" * 20_000 + "</script>"
    for body in (f"<table>{rows}</table>", lines, script + page()):
        assert "tangled" not in rules(read(record(http(f"<html><body>{body}</body></html>"))))


DAMAGED = {
    "no length": GOOD.replace(b"Content-Length", b"Content-Lungth"),
    "no number": GOOD.replace(b"Content-Length: ", b"Content-Length: x"),
    "negative": record(http(page()), length=-7),
    "huge": record(http(page()), length=10**40),
    "too short": record(http(page()), length=100),
    "too long by little": record(http(page()), length=len(http(page())) + 60),
    "beyond the next": record(http(page()), length=len(http(page())) + len(GOOD) + 30),
    "beyond the end": record(http(page()), length=9_000_000),
    "cut inside": GOOD[:-50],
    "cut header": GOOD[:90],
    "header without end": b"WARC/1.0\r\n" + b"a: b\r\n" * 20_000,
    "a long header": b"WARC/1.0\r\nWARC-Type: " + b"a" * 200_000 + b"\r\n",
    "text": b"words that\r\nare no record\n\n",
    "bytes": bytes(range(256)) * 3000,
    "bytes without line ends": b"\xff" * 300_000,
    "zeros": bytes(100_000) + b"\r\n",
    "another version": GOOD.replace(b"WARC/1.0", b"WORC/1.0"),
    "no HTTP": record("<p>no status</p>"),
    "no status": record("HTTP/1.1 many\r\n\r\n"),
    "nothing": record(""),
    "a segment": record(http(page()), extra="WARC-Segment-Number: 1\r\n"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record_is_told_and_loses_no_later_one(name):
    found = read(GOOD, DAMAGED[name], GOOD, GOOD)
    assert [item.name for item in found if isinstance(item, Record)] == ["http://good.example/"] * 3
    assert [item.position for item in found] == [1, 2, 3, 4]
    assert not isinstance(found[1], Record)
    assert "\n" not in found[1].reason
    assert len(found[1].head) <= 1000


def test_a_length_of_many_megabytes_loses_no_later_record():
    filler = http(b"x" * 6_000_000)
    assert rules(read(GOOD, record(filler, length=90_000_000), GOOD, GOOD)) == ["", "damaged_record", "", ""]


def test_a_record_that_ends_too_early_or_has_no_blank_line_is_read():
    assert (
        rules(read(GOOD[:-4], GOOD[:-2], GOOD[:-4] + b"\n", b"\n\n", GOOD.replace(b"\r\n", b"\n", 8), GOOD)) == [""] * 5
    )


def test_an_archive_inside_a_record_is_not_taken_for_records():
    inner = record(http(GOOD * 3, content_type="application/warc"))
    assert rules(read(inner, GOOD)) == ["content_type", ""]


@pytest.mark.parametrize("cut", [30, 200, len(GOOD) - 60])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_cut_gives_what_is_before(tmp_path, cut, packed):
    content = gzip.compress(GOOD) + gzip.compress(GOOD)[: cut // 2] if packed else GOOD + GOOD[:cut]
    (tmp_path / "a.warc").write_bytes(content)
    source, found = source_at(tmp_path), []
    with pytest.raises(Unreadable) as fault:
        found.extend(source.read(source.files()[0], LIMITS))
    assert fault.value.rule == "truncated"
    assert rules(found) == [""]


def crawl_at(path, content):
    path.write_bytes(content)
    source = source_at(path)
    return source.read(source.files()[0], LIMITS)


@pytest.mark.parametrize("place", [0.1, 0.4, 0.6, 0.99])
def test_a_damaged_gzip_member_loses_no_later_one(tmp_path, place):
    words = " ".join(str(number * number) for number in range(9000))
    member = bytearray(gzip.compress(record(http(page(words)))))
    at = int(place * len(member))
    member[at : at + 9] = b"\xff" * 9
    found = list(crawl_at(tmp_path / "a.warc.gz", gzip.compress(GOOD) + member + 2 * gzip.compress(GOOD)))
    assert [item.name for item in found if isinstance(item, Record)] == ["http://good.example/"] * 3
    assert rules(found) == ["", "damaged_record", "", ""]


def test_what_stands_between_gzip_members_is_passed_over(tmp_path):
    content = gzip.compress(GOOD) + bytes(3000) + gzip.compress(GOOD) + b"words" + gzip.compress(GOOD) + b"\x1f"
    assert rules(crawl_at(tmp_path / "a.warc.gz", content)) == ["", "", ""]


def test_a_crawl_in_one_gzip_member_is_read(tmp_path):
    assert rules(crawl_at(tmp_path / "a.warc.gz", gzip.compress(GOOD * 3))) == ["", "", ""]


def test_a_bomb_of_a_crawl_is_not_unpacked(tmp_path):
    found = []
    with pytest.raises(Unreadable) as fault:
        found.extend(crawl_at(tmp_path / "a.warc.gz", gzip.compress(GOOD) + gzip.compress(bytes(40_000_000))))
    assert fault.value.rule == "bomb"
    assert rules(found)[0] == ""


def test_what_is_appended_to_a_file_after_it_was_listed_is_not_read(tmp_path):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(gzip.compress(GOOD))
    source = source_at(path)
    (file,) = source.files()
    path.write_bytes(2 * gzip.compress(GOOD))
    assert rules(source.read(file, LIMITS)) == [""]


def test_wet_files_hold_texts():
    found = read(
        record("a: b", kind="warcinfo"),
        record(f"{CAT}\n{COAST}\n", kind="conversion", extra="Content-Type: text/plain\r\n"),
    )
    assert [(item.position, item.text) for item in found] == [(2, f"{CAT}\n{COAST}\n")]


def test_resources_are_documents_without_http():
    (found, refused) = read(
        record(page(), kind="resource", url="file:///a.html", extra="Content-Type: text/html\r\n"),
        record(b"\x89PNG", kind="resource", extra="Content-Type: image/png\r\n"),
    )
    assert found.name == "file:///a.html"
    assert "status" not in json.loads(found.meta)
    assert refused.rule == "content_type"


def arc(block, url="http://a.example/", length=None, version=1):
    more = " 200 - - 0 a.arc" if version == 2 else ""
    length = len(block) if length is None else length
    return f"{url} 1.2.3.4 20010203040506 text/html{more} {length}\n".encode() + block + b"\n"


ARC_BEGIN = arc(b"1 0 Archive\nURL IP-address Archive-date Content-type Archive-length\n", "filedesc://a.arc")


@pytest.mark.parametrize("version", [1, 2])
def test_arc_files_are_read(version):
    found = read(
        ARC_BEGIN, arc(http(page()), version=version), arc(b"1.2.3.4", "dns:a.example"), arc(http(page(), status=404))
    )
    assert [(item.position, rule) for item, rule in zip(found, rules(found), strict=True)] == [
        (2, ""),
        (4, "http_status"),
    ]
    assert found[0].name == "http://a.example/"
    assert json.loads(found[0].meta)["date"] == "20010203040506"


@pytest.mark.parametrize("length", [-1, "abc", 20, 400, 10**9])
def test_a_damaged_record_of_an_arc_file_loses_no_later_one(length):
    block = http(page())
    found = read(ARC_BEGIN, arc(block), arc(block, length=length), arc(block), arc(block))
    assert rules(found) == ["", "damaged_record", "", ""]


def source_at(*paths, extractor="resiliparse"):
    return WebCrawl(paths=[str(path) for path in paths], extractor=extractor)


def test_files_of_crawls_are_found_in_folders_compressed_or_not(tmp_path):
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(GOOD) + gzip.compress(GOOD))
    (tmp_path / "b.WARC").write_bytes(GOOD)
    (tmp_path / "c.warc.zst").write_bytes(zstd.compress(GOOD))
    (tmp_path / "d.arc").write_bytes(ARC_BEGIN)
    (tmp_path / "e.txt").write_text("words", "utf-8")
    (tmp_path / "f.warc.wat.gz").write_bytes(gzip.compress(GOOD))
    source = source_at(tmp_path)
    files = source.files()
    assert [file.name for file in files] == ["a.warc.gz", "b.WARC", "c.warc.zst", "d.arc"]
    assert [len(list(source.read(file, LIMITS))) for file in files] == [2, 1, 1, 0]


def test_no_path_at_all_is_refused():
    with pytest.raises(UsageError, match=r"data=web_crawl reads data\.paths, which is empty; try"):
        source_at().files()


@pytest.mark.parametrize("extractor", ["resiliparse", "trafilatura"])
def test_a_library_that_is_missing_is_named(monkeypatch, extractor):
    for name in ("resiliparse.extract.html2text", "trafilatura"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"pip install 'pretrain\[web\]'"):
        html_text(page().encode(), None, extractor)


def test_html_of_a_local_file_is_decoded_by_what_is_known_of_it():
    assert html_text(page(CAT).encode("euc_jp"), "euc-jp", "resiliparse").strip() == CAT
    assert html_text(b"", None, "resiliparse") == ""


def test_the_same_page_gives_the_same_text_whatever_was_read_before():
    for extractor in ("resiliparse", "trafilatura"):
        texts = {html_text(page(COAST * 9).encode(), None, extractor) for _ in range(5)}
        assert len(texts) == 1


@pytest.mark.skipif(not CRAWLS.is_dir(), reason=f"{CRAWLS} is not there")
@pytest.mark.parametrize(
    ("name", "documents", "refused"),
    [
        ("aut_example.warc.gz", 128, {"content_type", "http_status", "no_main_text"}),
        ("aut_issue-514.warc", 3, {"http_status"}),
        ("commoncrawl_whirlwind.warc", 1, set()),
        ("commoncrawl_whirlwind.warc.gz", 1, set()),
        ("commoncrawl_whirlwind.warc.wat.gz", 0, set()),
        ("commoncrawl_whirlwind.warc.wet", 1, set()),
        ("commoncrawl_whirlwind.warc.wet.gz", 1, set()),
        ("trafilatura_pages.warc.gz", 53, set()),
        ("warcio/bad.arc", 0, {"damaged_record", "no_http"}),
        ("warcio/example-bad.warc.gz.bad", 1, {"http_status"}),
        ("warcio/example-digest.warc", 0, set()),
        ("warcio/example-space-in-target-uri.warc.gz", 0, {"content_type"}),
        ("warcio/example-trunc.warc", 0, {"damaged_record"}),
        ("warcio/example-wrong-chunks.warc.gz", 1, set()),
        ("warcio/example.warc.gz", 1, set()),
    ],
)
def test_crawls_of_others_are_read(name, documents, refused):
    path = CRAWLS / name
    found = list(source_at(path).read(SourceFile(name, str(path), path.stat().st_size), LIMITS))
    assert (sum(isinstance(item, Record) for item in found), set(rules(found)) - {""}) == (documents, refused)
    assert len({item.position for item in found}) == len(found)
