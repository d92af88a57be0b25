"""Finding files: which, in which order, under which names, and what is refused."""

import os

import fsspec
import pytest

from pretrain.data.sources.files import Files
from pretrain.data.sources.finding import find
from pretrain.data.sources.reading import Limits
from pretrain.errors import UsageError


def is_text(name):
    return name.endswith(".txt")


def names(*paths):
    return [file.name for file in find([str(path) for path in paths], is_text)]


def refusals(*paths):
    return {file.name: file.refusal for file in find([str(path) for path in paths], is_text) if file.refusal}


@pytest.fixture
def tree(tmp_path):
    """A folder of texts, nested."""
    root = tmp_path / "root"
    for name in ("b.txt", "a/z.txt", "a/deep/er/y.txt", "a/image.png", "c.md", "a.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_nested_folders_are_searched_in_an_order_that_is_always_the_same(tree):
    assert names(tree) == ["a/deep/er/y.txt", "a/z.txt", "a.txt", "b.txt"]
    sizes = {file.name: file.size for file in find([str(tree)], is_text)}
    assert all(sizes[name] == len(name) for name in sizes)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("**/*.txt", ["a/deep/er/y.txt", "a/z.txt", "a.txt", "b.txt"]),
        ("*/*.png", ["a/image.png"]),
        ("a/**/y.*", ["deep/er/y.txt"]),
        ("[bc].*", ["b.txt", "c.md"]),
        ("?.txt", ["a.txt", "b.txt"]),
    ],
)
def test_a_pattern_finds_what_it_matches_and_names_count_from_before_it(tree, pattern, found, monkeypatch):
    assert names(tree / pattern) == found
    monkeypatch.chdir(tree)
    assert names(pattern) == found
    monkeypatch.chdir(tree.parent)
    assert names(f"root/{pattern}") == found


def test_a_pattern_that_matches_nothing_is_refused(tree):
    with pytest.raises(UsageError, match=r"nothing matches .*\*\.none"):
        names(tree / "*.none")


@pytest.mark.parametrize("path", ["nowhere", "nowhere/a.txt", "memory://nowhere/at/all", "memory://nowhere/*.txt"])
def test_a_missing_path_is_refused(tmp_path, path):
    with pytest.raises(UsageError, match="does not exist"):
        names(path if "://" in path else tmp_path / path)


def test_an_address_of_no_known_protocol_is_refused():
    with pytest.raises(UsageError, match="nonsense://bucket/a cannot be opened"):
        names("nonsense://bucket/a")


def test_a_file_that_is_named_is_taken_whatever_it_is_called(tree):
    assert names(tree / "c.md", tree / "a" / "image.png") == ["0/c.md", "1/image.png"]


def test_names_do_not_depend_on_where_the_folder_is_or_on_what_else_is_in_it(tree):
    before = names(tree / "a")
    (tree / "a" / "aa.txt").touch()
    tree.rename(tree.with_name("other"))
    assert set(names(tree.with_name("other") / "a")) == {*before, "aa.txt"}


def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_read(tree, monkeypatch):
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert names(tree) == ["a/deep/", "a/z.txt", "a.txt", "b.txt"]
    assert refusals(tree) == {"a/deep/": ("unreadable", "the folder cannot be read: Permission denied")}


def test_a_file_that_cannot_be_read_is_told(tree, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).endswith("b.txt"))
    assert refusals(tree) == {"b.txt": ("unreadable", "the file cannot be read: permission denied")}


def test_a_link_that_leads_out_of_the_folder_is_refused_with_what_to_type(tree, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tree / "link.txt").symlink_to(tmp_path / "secret.txt")
    (tree / "folder").symlink_to(tmp_path / "outside")
    (tree / "a" / "up.txt").symlink_to("../../secret.txt")
    (tree / "image.png").symlink_to(tmp_path / "secret.txt")  # would not be read anyway
    found = refusals(tree)
    assert set(found) == {"link.txt", "folder", "a/up.txt"}
    assert {rule for rule, _ in found.values()} == {"link"}
    assert str(tmp_path / "secret.txt") in found["link.txt"][1]
    assert "data.paths" in found["link.txt"][1]


def test_what_a_link_within_the_folder_leads_to_is_read_once(tree):
    (tree / "again.txt").symlink_to("b.txt")
    (tree / "around").symlink_to(".")
    (tree / "again").symlink_to("a")
    assert names(tree) == ["a/deep/er/y.txt", "a/z.txt", "a.txt", "b.txt"]


def test_a_link_to_a_file_in_the_folder_that_is_not_searched_for_is_read(tree):
    """As the Hub's cache has it: names that lead to blobs."""
    (tree / "name.txt").symlink_to("a/image.png")
    assert names(tree) == ["a/deep/er/y.txt", "a/z.txt", "a.txt", "b.txt", "name.txt"]


def test_links_that_lead_nowhere_or_to_themselves_stop_nothing(tree):
    (tree / "broken.txt").symlink_to("missing.txt")
    (tree / "circle.txt").symlink_to("circle.txt")
    (tree / "one.txt").symlink_to("other.txt")
    (tree / "other.txt").symlink_to("one.txt")
    assert [name for name in names(tree) if name not in refusals(tree)] == [
        "a/deep/er/y.txt",
        "a/z.txt",
        "a.txt",
        "b.txt",
    ]


def test_a_folder_that_is_itself_a_link_can_be_named(tree, tmp_path):
    (tmp_path / "link").symlink_to(tree)
    assert names(tmp_path / "link") == names(tree)


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_addresses_are_searched_like_folders(tmp_path, protocol):
    root = f"{protocol}://{tmp_path}/root"
    for name in ("b.txt", "a/z.txt", "a/image.png"):
        with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
            file.write(name.encode())
    found = find([root], is_text)
    assert {file.name: file.size for file in found} == {"a/z.txt": 7, "b.txt": 5}
    remote = protocol == "memory"  # file:// is a path of this machine, whose content can be hashed
    assert all(file.path.startswith("memory://") == remote for file in found)
    assert all((file.fingerprint is not None) == remote for file in found)
    assert names(f"{root}/*.txt") == ["b.txt"]
    assert names(f"{root}/**/*.txt") in (["a/z.txt", "b.txt"], ["a/z.txt"])  # it depends on the version of fsspec
    assert names(f"{root}/b.txt") == ["b.txt"]
    assert names(f"{root}/a/image.png") == ["image.png"]
    assert names(f"{root}/a/") == ["z.txt"]


def test_names_at_an_address_do_not_change_when_another_folder_comes(tmp_path):
    root = f"memory://{tmp_path}/root"
    with fsspec.open(f"{root}/en/a.txt", "wb") as file:
        file.write(b"words")
    assert names(root) == ["en/a.txt"]
    with fsspec.open(f"{root}/ja/a.txt", "wb") as file:
        file.write("吾輩".encode())
    assert names(root) == ["en/a.txt", "ja/a.txt"]


def test_the_fingerprint_of_a_remote_file_changes_with_its_content(tmp_path):
    root = f"memory://{tmp_path}/root"
    prints = []
    for content in (b"one", b"another"):
        with fsspec.open(f"{root}/a.txt", "wb") as file:
            file.write(content)
        prints.append(find([root], is_text)[0].fingerprint)
    assert prints[0] != prints[1]


def test_records_at_an_address_are_those_of_the_same_local_file(tmp_path):
    content = b'{"text": "one"}\n{"text": nu\n{"text": "two"}\n'
    (tmp_path / "a.jsonl").write_bytes(content)
    with fsspec.open(f"memory://{tmp_path}/a.jsonl", "wb") as file:
        file.write(content)
    read = []
    for path in (str(tmp_path / "a.jsonl"), f"memory://{tmp_path}/a.jsonl"):
        source = Files(paths=[path], text_field="text", unit="file", extractor="resiliparse")
        read.append([item for file in source.files() for item in source.read(file, Limits(1000, 200.0, 0.01))])
    assert read[0] == read[1]
    assert len(read[0]) == 3
