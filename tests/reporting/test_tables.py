"""Tables on a terminal: what stands where, and what is left out where there is no room."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from pretrain.commands import train
from pretrain.reporting.tables import show_table

Shown = Callable[..., list[str]]
RESULT: dict[str, Any] = {
    "run": "/somewhere/gpt_nano-bpe-1a2b3c4d",
    "parameters": 833_408,
    "tokens": 870_400,
    "seconds": 130.2,
    "train": {"loss": 4.1234},
    "validation": {"loss": 4.2345, "perplexity": 69.03, "bits_per_byte": 1.7, "bits_per_character": 2.1},
    "references": {"uniform": 8.3178, "unigram": 6.6254, "bigram": 4.3642, "best_ngram": 3.46, "best_ngram_order": 6},
}


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shown:
    """A function that calls `show` on a terminal of so many columns, and gives the lines."""

    def on_terminal(columns: int, show: Callable[..., None], *arguments: Any) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, a terminal
        monkeypatch.delenv("NO_COLOR", raising=False)
        show(*arguments)
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()

    return on_terminal


@pytest.mark.parametrize(("columns", "there"), [(80, False), (105, True)])
def test_the_result_of_training_has_a_line_a_run_on_any_terminal(columns: int, there: bool, shown: Shown) -> None:
    lines = shown(columns, train.show, [RESULT])
    assert max(map(len, lines)) <= columns
    [line] = [line for line in lines if line.startswith("gpt_nano-bpe-1a2b3c4d ")]
    assert [figure in line for figure in ("870,400", "2 min 10 s")] == [there, there]
    for figure in ("833,408", "4.1234", "4.2345", "69.03", "1.7000", "2.1000"):
        assert f" {figure}" in line
    [reference] = [line for line in lines if line.startswith("(best n-gram,")]
    assert reference.index("3.4600") == line.index("4.2345")
    assert f"{3.46 / 4.2345 * 2.1:.4f}" in reference


def test_a_run_with_a_short_name_has_its_time_beside_its_figures_on_80_columns(shown: Shown) -> None:
    lines = shown(80, train.show, [RESULT | {"run": "/somewhere/fourgram_add_k", "seconds": 754.0}])
    assert max(map(len, lines)) <= 80
    [line] = [line for line in lines if line.startswith("fourgram_add_k ")]
    for figure in ("833,408", "12 min 34 s", "4.1234", "4.2345", "69.03", "2.1000"):
        assert f" {figure}" in line


def test_numbers_stand_to_the_right_and_text_to_the_left(shown: Shown) -> None:
    rows = [["a", "1.5", "finished", "12 s", ""], ["b", "1,024.0", "no", "3 min 1 s", "< 0.1 %"]]
    lines = shown(80, show_table, "title", ["name", "n", "state", "time", "share"], rows)
    first, second = (next(line for line in lines if line.startswith(name)) for name in ("a ", "b "))
    assert first.index("1.5") + 3 == second.index("1,024.0") + 7
    assert first.index("finished") == second.index("no")
    assert first.index("12 s") + 4 == second.index("3 min 1 s") + 9


def test_a_number_is_never_broken_but_a_long_name_is(shown: Shown) -> None:
    lines = shown(40, show_table, "", ["name", "n"], [["x" * 70, "1,000,000,000"]])
    assert max(map(len, lines)) <= 40
    assert sum("1,000,000,000" in line for line in lines) == 1
    assert "".join(lines).count("x") == 70


def test_columns_are_left_out_in_order_and_only_as_far_as_needed(shown: Shown) -> None:
    names, row = ["run", "first", "second", "last"], ["a" * 20, "1" * 10, "2" * 10, "3" * 10]
    for columns, left in ((60, "123"), (50, "23"), (35, "3")):
        lines = "".join(shown(columns, show_table, "", names, [row], ["first", "second"]))
        assert "".join(digit for digit in "123" if digit * 10 in lines) == left
