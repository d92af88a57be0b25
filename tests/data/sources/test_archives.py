"""Archives: every good member is read, and what is hostile in them is told."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest
from backports import zstd

from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits, Record, Refused, Unreadable

LIMITS = Limits(document_bytes=10_000, expansion=200.0, replaced=0.01)

MEMBERS = {
    "a.txt": b"plain words",
    "folder/b.jsonl": b'{"text": "one"}\n{"text": nu\n{"text": "two"}\n',
    "c.csv": b"text\nrow\n",
    "d.jsonl.gz": gzip.compress(b'{"text": "packed"}\n'),
    "image.png": b"\x89PNG",
    "e.json": b'[{"text": "three"}, "four"]',
    "f.md": b"# last",
}
TEXTS = ["plain words", "one", "two", "row", "packed", "three", "four", "# last"]


def read(path, limits=LIMITS):
    found = []
    source = Files(paths=[str(path)], text_field="text", unit="file", extractor="resiliparse")
    for file in source.files():
        try:
            for item in source.read(file, limits):
                found.append(item)  # noqa: PERF402  what comes before a fault counts
        except Unreadable as error:
            found.append(Refused(-1, error.rule, str(error)))
    return found


def texts(found):
    return [item.text for item in found if isinstance(item, Record)]


def rules(found):
    return [item.rule for item in found if isinstance(item, Refused)]


def tar(members, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


PACKED = {
    "a.tar": tar(MEMBERS),
    "a.tar.gz": gzip.compress(tar(MEMBERS)),
    "a.tgz": gzip.compress(tar(MEMBERS)),
    "a.tar.bz2": bz2.compress(tar(MEMBERS)),
    "a.tar.xz": lzma.compress(tar(MEMBERS)),
    "a.tar.zst": zstd.compress(tar(MEMBERS)),
    "gnu.tar": tar(MEMBERS, format=tarfile.GNU_FORMAT),
    "a.zip": zipped(MEMBERS),
    "stored.zip": zipped(MEMBERS, zipfile.ZIP_STORED),
    "bz2.zip": zipped(MEMBERS, zipfile.ZIP_BZIP2),
    "xz.zip": zipped(MEMBERS, zipfile.ZIP_LZMA),
    "zip.txt": zipped(MEMBERS),
    "tar.txt": tar(MEMBERS),
}


@pytest.mark.parametrize("name", PACKED)
def test_members_of_every_format_are_read_from_every_archive(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name])
    found = read(tmp_path)
    assert texts(found) == TEXTS
    assert rules(found) == ["not_json"]
    assert found[0].name == f"{name}/a.txt"
    assert len({item.position for item in found}) == len(found)
    (bad,) = (item for item in found if isinstance(item, Refused))
    assert bad.line == 2
    assert bad.reason.startswith("folder/b.jsonl: not JSON")


UNSAFE = ["../up.txt", "/etc/absolute.txt", "folder/../../up.txt", "..\\up.txt"]


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize("name", UNSAFE)
def test_a_path_that_leads_out_of_the_archive_is_refused(tmp_path, pack, name):
    (tmp_path / "a.archive.zip").write_bytes(pack({"a.txt": b"before", name: b"secret", "b.txt": b"after"}))
    found = read(tmp_path)
    assert texts(found) == ["before", "after"]
    assert rules(found) == ["unsafe_path"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.archive.zip"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE], ids=repr)
def test_links_and_devices_in_an_archive_are_refused(tmp_path, kind):
    (tmp_path / "a.tar").write_bytes(tar({"a.txt": b"before", "b.txt": (kind, "/etc/passwd"), "c.txt": b"after"}))
    found = read(tmp_path)
    assert texts(found) == ["before", "after"]
    assert rules(found) == ["link"]


def test_a_link_in_a_zip_is_no_more_than_its_own_words(tmp_path):
    info = zipfile.ZipInfo("link.txt")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    found = read(tmp_path)
    assert texts(found) in ([], ["/etc/passwd"])


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_is_refused_unread_and_the_others_are_read(tmp_path, compression):
    members = {"a.txt": b"before", "bomb.txt": bytes(1 << 25), "b.txt": b"after"}
    (tmp_path / "a.zip").write_bytes(zipped(members, compression))
    found = read(tmp_path)
    assert texts(found) == ["before", "after"]
    assert rules(found) == ["bomb"]


BOMB = (b'{"text": "' + b"x" * 9000 + b'"}\n') * 3000


def test_a_compressed_member_that_is_a_bomb_is_told_and_the_others_are_read(tmp_path):
    members = {"a.txt": b"before", "bomb.jsonl.gz": gzip.compress(BOMB), "b.txt": b"after"}
    (tmp_path / "a.tar").write_bytes(tar(members))
    found = read(tmp_path)
    assert (texts(found)[0], texts(found)[-1]) == ("before", "after")
    assert len(texts(found)) < BOMB.count(b"\n")
    assert rules(found) == ["bomb"]


def test_a_tar_that_is_a_bomb_keeps_the_members_before(tmp_path):
    members = {"a.txt": b"before", "bomb.jsonl": BOMB, "b.txt": b"after"}
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar(members)))
    found = read(tmp_path)
    assert texts(found)[0] == "before"
    assert "after" not in texts(found)
    assert rules(found)[-1] == "bomb"


def test_a_damaged_member_of_a_zip_is_told_and_the_others_are_read(tmp_path):
    members = {"a.txt": b"before", "bad.txt": b"0123456789" * 30, "b.txt": b"after"}
    whole = zipped(members, zipfile.ZIP_STORED)
    (tmp_path / "a.zip").write_bytes(whole.replace(b"0123456789", b"01234x6789", 1))
    found = read(tmp_path)
    assert texts(found) == ["before", "after"]
    assert rules(found) == ["damaged"]
    assert found[1].reason.startswith("bad.txt: ")


@pytest.mark.parametrize(("flag", "value"), [(6, 1), (8, 99)], ids=["encrypted", "packed in an unknown way"])
def test_a_member_that_cannot_be_opened_is_told_and_the_others_are_read(tmp_path, flag, value):
    whole = bytearray(zipped({"a.txt": b"before", "bad.txt": b"secret", "b.txt": b"after"}, zipfile.ZIP_STORED))
    for start, mark in ((0, b"PK\x03\x04"), (2, b"PK\x01\x02")):  # the member's own header, and the directory's
        at = whole.find(mark, whole.find(mark) + 1)
        whole[at + start + flag] = value
    (tmp_path / "a.zip").write_bytes(whole)
    found = read(tmp_path)
    assert texts(found) == ["before", "after"]
    assert rules(found) == ["damaged"]


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.99])
def test_a_zip_that_is_cut_is_told(tmp_path, cut):
    whole = zipped(MEMBERS)
    (tmp_path / "a.zip").write_bytes(whole[: int(cut * len(whole))])
    assert rules(read(tmp_path)) == ["damaged"]


NUMBERED = {f"{number}.txt": f"text {number}".encode() * 40 for number in range(30)}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress, bz2.compress, lzma.compress])
def test_a_tar_that_is_cut_keeps_every_member_before_the_cut(tmp_path, compress):
    """Cut in the header or the content of the twentieth member, wherever that lies in the compressed file."""
    for cut in (20 * 1024 + 100, 20 * 1024 + 600):
        whole = tar(NUMBERED)
        (tmp_path / "a.tar").write_bytes(compress(whole[:cut]))
        found = read(tmp_path)
        assert texts(found)[:20] == [content.decode() for content in list(NUMBERED.values())[:20]]
        assert rules(found) == ["truncated"]


@pytest.mark.parametrize("cut", range(1000, 2600, 333))
def test_a_truncated_tar_gz_reads_members_in_order_and_is_told(tmp_path, cut):
    content = {f"{number}.txt": str(hash_like(number)).encode() * 5 for number in range(100)}
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar(content))[:cut])
    found = read(tmp_path)
    assert rules(found) in (["truncated"], ["truncated"] * 2)  # perhaps a member, and then the archive
    assert texts(found) == [text.decode() for text in list(content.values())[: len(texts(found))]]
    assert texts(found)


def hash_like(number):
    """Digits that do not compress well, the same in every run."""
    return pow(3, number + 500, 10**60 + 7)


def test_damage_between_the_members_of_a_tar_is_told(tmp_path):
    whole = bytearray(tar(NUMBERED))
    whole[20 * 1024 + 150] ^= 1
    (tmp_path / "a.tar").write_bytes(whole)
    found = read(tmp_path)
    assert texts(found) == [content.decode() for content in list(NUMBERED.values())[:20]]
    assert rules(found) == ["damaged"]


def test_good_lines_of_a_member_that_is_cut_are_kept_but_for_those_in_the_last_buffer(tmp_path):
    lines = b"".join(b'{"text": "line %d"}\n' % number for number in range(1000))
    whole = tar({"a.jsonl": lines})
    for name, content in (("a.tar", whole[:10_000]), ("b.tar.gz", gzip.compress(whole[:10_000])[:-10])):
        (tmp_path / name).write_bytes(content)
    found = read(tmp_path / "a.tar")
    assert len(texts(found)) >= lines[:8192].count(b"\n")
    found = read(tmp_path / "b.tar.gz")
    assert len(texts(found)) >= lines[:8192].count(b"\n")


@pytest.mark.parametrize("pack", [tar, zipped])
def test_an_archive_in_an_archive_is_told(tmp_path, pack):
    (tmp_path / "a.zip").write_bytes(pack({"a.txt": b"words", "inner.zip": zipped(MEMBERS), "inner.tar.gz": b"x"}))
    found = read(tmp_path)
    assert texts(found) == ["words"]
    assert rules(found) == ["wrong_format"] * 2


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.zst"])
@pytest.mark.parametrize("content", [b"words", b"\x01" * 2000])
def test_what_is_no_archive_is_told(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert rules(read(tmp_path)) == ["wrong_format"]


@pytest.mark.parametrize("pack", [tar, zipped])
def test_an_empty_archive_holds_nothing(tmp_path, pack):
    (tmp_path / ("a.tar" if pack is tar else "a.zip")).write_bytes(pack({}))
    assert read(tmp_path) == []


def test_parquet_within_archives_is_read_or_told(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["row"]}), buffer)
    (tmp_path / "a.zip").write_bytes(zipped({"a.parquet": buffer.getvalue(), "b.txt": b"after"}))
    (tmp_path / "b.tar").write_bytes(tar({"a.parquet": buffer.getvalue(), "b.txt": b"after"}))
    found = read(tmp_path)
    assert texts(found).count("after") == 2
    assert texts(found).count("row") + rules(found).count("wrong_format") == 2
