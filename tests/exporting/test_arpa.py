"""ARPA files: what is written is read back the same, and what is damaged is refused with its line."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.errors import ConfigError, DataError, UsageError
from pretrain.exporting.arpa import listed, write_arpa
from pretrain.models.ngram import NGram

EOT, V = 0, 9


@pytest.fixture(scope="module")
def stream() -> np.ndarray:
    generator = np.random.default_rng(0)
    text = np.cumsum(generator.choice([1, 1, 2, 3], 800)) % 6 + 1  # 7 and 8 never occur
    text[::37] = EOT
    return np.append(text, EOT)


def fitted(stream: np.ndarray, order: int = 3, smoothing: str = "kneser_ney") -> NGram:
    model = NGram(V, order=order, smoothing=smoothing, k=1.0)  # type: ignore[arg-type]  # a parametrised text
    model.fit(stream, EOT)
    return model


def read(path: Path, order: int = 3) -> NGram:
    model = NGram(V, order=order, smoothing="arpa", k=1.0, path=str(path))
    model.fit(np.zeros(0, np.int64), EOT)
    return model


@pytest.mark.parametrize("smoothing", ["kneser_ney", "absolute", "witten_bell"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_model_written_and_read_back_gives_the_same_probabilities(
    stream: np.ndarray, order: int, smoothing: str, tmp_path: Path
) -> None:
    model = fitted(stream, order, smoothing)
    sizes = write_arpa(model, tmp_path / "a.arpa")
    assert sum(sizes) == model.parameter_count() + 2  # <s> and <unk>
    again = read(tmp_path / "a.arpa", order)
    rows = torch.randint(V, (3, 12), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(again(rows), model(rows), atol=1e-7)
    assert torch.allclose(again(rows).exp().sum(-1), torch.ones(3, 12, dtype=torch.float64), atol=1e-7)


def test_what_was_read_is_written_again_letter_by_letter(stream: np.ndarray, tmp_path: Path) -> None:
    write_arpa(fitted(stream), tmp_path / "a.arpa")
    write_arpa(read(tmp_path / "a.arpa"), tmp_path / "b.arpa")
    assert (tmp_path / "a.arpa").read_text() == (tmp_path / "b.arpa").read_text()


def test_a_compressed_file_is_read(stream: np.ndarray, tmp_path: Path) -> None:
    write_arpa(fitted(stream), tmp_path / "a.arpa")
    (tmp_path / "a.arpa.gz").write_bytes(gzip.compress((tmp_path / "a.arpa").read_bytes()))
    assert read(tmp_path / "a.arpa.gz").parameter_count() == read(tmp_path / "a.arpa").parameter_count()


def test_every_listed_ngram_has_the_models_own_probability(stream: np.ndarray) -> None:
    model = fitted(stream)
    for grams in listed(model):
        for tokens, log_prob in zip(grams.tokens.tolist(), grams.log_probs.tolist(), strict=True):
            context = tokens[:-1]
            expected = (
                model(torch.tensor([context]))[0, -1, tokens[-1]]
                if context
                else math.log(model.tables.unigrams[tokens[-1]])
            )
            assert log_prob * math.log(10) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("smoothing", ["add_k", "none", "stupid_backoff"])
def test_a_smoothing_without_back_off_weights_is_refused(stream: np.ndarray, smoothing: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"smoothing={smoothing} has no back-off weights"):
        write_arpa(fitted(stream, smoothing=smoothing), tmp_path / "a.arpa")
    assert list(tmp_path.iterdir()) == []


def lines_of(stream: np.ndarray, folder: Path) -> list[str]:
    write_arpa(fitted(stream), folder / "a.arpa")
    return (folder / "a.arpa").read_text().splitlines(keepends=True)


def test_a_file_that_is_cut_anywhere_is_refused(stream: np.ndarray, tmp_path: Path) -> None:
    lines = lines_of(stream, tmp_path)
    for stop in (0, 1, 3, 8, len(lines) // 2, len(lines) - 3, len(lines) - 1):
        (tmp_path / "cut.arpa").write_text("".join(lines[:stop]))
        with pytest.raises(DataError, match=r"is cut: it ends behind line|is cut, or its counts|-grams: is wanted"):
            read(tmp_path / "cut.arpa")


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_file_that_lies_about_its_counts_is_refused(stream: np.ndarray, n: int, by: int, tmp_path: Path) -> None:
    lines = lines_of(stream, tmp_path)
    size = int(lines[n].partition("=")[2])
    lines[n] = f"ngram {n}={size + by}\n"
    (tmp_path / "lie.arpa").write_text("".join(lines))
    with pytest.raises(DataError, match=r"lie\.arpa, line \d+: .*counts"):
        read(tmp_path / "lie.arpa")


@pytest.mark.parametrize("packed", [False, True])
def test_counts_that_no_file_of_its_size_holds_are_refused_before_there_is_room_for_them(
    stream: np.ndarray, packed: bool, tmp_path: Path
) -> None:
    lines = lines_of(stream, tmp_path)
    lines[2] = "ngram 2=99999999999999\n"
    text = "".join(lines).encode()
    path = tmp_path / ("lie.arpa.gz" if packed else "lie.arpa")
    path.write_bytes(gzip.compress(text) if packed else text)
    with pytest.raises(DataError, match=r"is cut, or its counts are wrong: it says 1\d+ n-grams, \d+ is the most"):
        read(path)


@pytest.mark.parametrize(
    ("line", "other", "message"),
    [
        (r"\2-grams:", r"\3-grams:", r"\\2-grams: is wanted"),
        ("ngram 2=", "ngram 3=", "form ngram 2=COUNT"),
        ("\t1 2\t", "\t1 99\t", "the word '99' is not a token"),
        ("\t1 2\t", "\t1 2 3\t", "is not a 2-gram"),
        ("\t1 2\t", "\t8 2\t", r"first words of the 3-gram|first words of the"),
    ],
)
def test_a_damaged_line_is_named(stream: np.ndarray, line: str, other: str, message: str, tmp_path: Path) -> None:
    text = "".join(lines_of(stream, tmp_path))
    assert line in text
    (tmp_path / "bad.arpa").write_text(text.replace(line, other, 1))
    with pytest.raises(DataError, match=message):
        read(tmp_path / "bad.arpa")


def test_other_orders_and_missing_files_say_what_to_type(stream: np.ndarray, tmp_path: Path) -> None:
    write_arpa(fitted(stream, 2), tmp_path / "a.arpa")
    with pytest.raises(DataError, match=r"is of order 2; set model\.order=2"):
        read(tmp_path / "a.arpa", 3)
    with pytest.raises(UsageError, match=r"model\.path=.*nothing\.arpa is not a file"):
        read(tmp_path / "nothing.arpa")
    (tmp_path / "image.arpa").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as an ARPA file"):
        read(tmp_path / "image.arpa")
    with pytest.raises(ConfigError, match=r"model\.path names the file"):
        NGram(V, order=3, smoothing="arpa", k=1.0)
