"""The command line: words in, exit code and one line out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pretrain import cli, config, help_text
from pretrain.errors import UsageError


def composed(command: str, *words: str) -> dict:
    flags, overrides = cli.understood(command, list(words))
    assert not flags
    return cli._composed(command, overrides)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.main(list(words))
    return code, capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["train", "modle=x"], *([*command.split("_"), "--help"] for command in config.SCHEMAS)],
)
def test_help_and_refusals_never_import_torch(words: list[str]) -> None:
    program = (
        "import sys; from pretrain.cli import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'transformers', 'pyarrow', 'datasets'} & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", config.SCHEMAS)
def test_help_shows_every_setting_and_option_with_its_meaning(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split("_"), "--help"]) == 0
    page = capsys.readouterr().out
    assert f"example: pretrain {help_text.spoken(command)}" in page
    for line in page.splitlines():
        if line.startswith("  ") and "=" in line.split()[0] and not line.startswith("   "):
            assert len(line.split()) > 1, f"no meaning given: {line}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "did you mean train?"),
        (["data", "shwo"], "did you mean data show?"),
        (["data", "shwo", "n=3"], "did you mean data show?"),
        (["data_show"], "did you mean data show?"),
        (["data", "show", "stge=collect"], "did you mean stage?"),
        (["data", "clean", "yse=true"], "did you mean yes?"),
        (["train", "modle=gpt_nano"], "did you mean model?"),
        (["train", "model=gpt_nanoo"], "did you mean gpt_nano?"),
        (["train", "model.n_layers=8"], "did you mean model.n_layer?"),
        (["train", "+model.n_layers=8"], "did you mean model.n_layer?"),
        (["train", "trainer.max_stps=8"], "did you mean trainer.max_steps?"),
        (["train", "+trainer.max_stps=8"], "did you mean trainer.max_steps?"),
        (["train", "lr=1"], "did you mean optimizer.lr?"),
        (["train", "+evl_interval=8"], "unknown setting evl_interval; did you mean"),
        (["train", "trainer.max_steps=many"], "is not an integer at least 1 or null"),
        (["train", "trainer.max_steps=0"], "is not an integer at least 1"),
        (["train", "trainer.max_steps=1.5"], "is not an integer at least 1"),
        (["train", "seed=true"], "seed=true is not an integer"),
        (["train", "device=cud"], "did you mean cuda?"),
        (["train", "precision=fp31"], "did you mean fp32?"),
        (["train", "optimizer.lr=-1"], "optimizer.lr=-1 is not a number above 0"),
        (["train", "model.dropout=1"], "is not a number at least 0 and below 1"),
        (["train", "data.validation_fraction=1.5"], "data.validation_fraction"),
        (["train", "model=ngram", "model.smoothing=kneser_nay"], "did you mean kneser_ney?"),
        (["train", "trainer.batch_tokens=3000"], "is not a multiple of the sequence length 64; try 3008"),
        (["train", "trainer.micro_batch=5"], "does not divide the 16 rows of a batch; try 4"),
        (["train", "model.n_embd=130"], "model.n_embd=130 is not a multiple of model.n_head=4; try 128"),
        (["train", "trainer.max_steps=null"], "the run has no end"),
        (["train", "--model", "gpt_nano"], "--model=gpt_nano"),
        (["train", "gpt_nano"], "is not of the form key=value"),
        (["train", "model._target_=os.system"], "_target_=os.system is not allowed"),
        (["train", "model._target_=pretrain.models.gpt.GTP"], "did you mean pretrain.models.gpt.GPT?"),
        (["train", "~data.stages.linez"], "did you mean data.stages.lines?"),
        (["train", "data/recipe=gopher", "data.stages.gopher_quality.min_wrds=1"], "did you mean data.stages.gopher_q"),
        (["data", "data.stages.gopher_quality.min_words=1"], "but of data/recipe=english_web, data/recipe=fineweb, d"),
        (["data", "tokenizer=pretrained"], "tokenizer.path is not set"),
        (["train", "data.paths=[a]"], "add data=files"),
        (["train", "data_dir=s3://bucket/data"], "data_dir=s3://bucket/data is an address; name a folder"),
        (["data", "data.sources.python_stdlib.wieght=1"], "did you mean data.sources.python_stdlib.weight?"),
        (["data", "data=[files,python_stdlib]", "data.sources.files.weight=1"], "weight is not set"),
        (["train", "-m", "model=bigram,gpt_nanoo"], "did you mean gpt_nano?"),
        (["train", "-m", "trainer.max_steps=1,0"], "is not an integer at least 1"),
        (["sample", "--decoding", "top_p"], "--decoding=top_p"),
        (["sample", "decoding.p=1.5"], "decoding.p=1.5"),
        (["sample", "promt=x"], "did you mean prompt?"),
        (["eval", "rum=latest"], "did you mean run?"),
        (["eval", "run=nothing"], "no run nothing"),
        (["sample", "run=latest"], "no run with a checkpoint"),
    ],
)
def test_a_mistake_is_one_line_with_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run(capsys, *words)
    assert code == 2
    assert message in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.open", "pathlib.Path.touch", "torch.load", "urllib.request.urlopen", "pretrain", "x"],
)
@pytest.mark.parametrize("part", ["model", "tokenizer", "data.sources.python_stdlib", "optimizer"])
def test_only_parts_of_this_program_can_be_built(target: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, "train", f"{part}._target_={target}")
    assert (code, f"_target_={target} is not allowed" in said) == (2, True)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
@example("吾輩は猫である。")
@example("def ")
@example('it\'s "quoted" (maybe), [a, b]: {c} = d! #e ${f} ~g \\')
@example("\\'")
@example("a\\")
@example("<|endoftext|>")
@example("two\nlines\tand a tab")
@example("null")
@example("1e3")
@example(" ")
@settings(max_examples=40, deadline=None)
def test_free_text_arrives_unchanged(text: str) -> None:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return  # quotes around the whole are the user's own for the shell
    assert composed("sample", f"prompt={text}")["prompt"] == text


@pytest.mark.parametrize(
    ("typed", "paths"),
    [
        ("books", ["books"]),
        ("[a b.txt,吾輩/猫.txt]", ["a b.txt", "吾輩/猫.txt"]),
        ("[a(1).jsonl,b=c.txt]", ["a(1).jsonl", "b=c.txt"]),
        ("['a,b.txt',c]", ["a,b.txt", "c"]),
        ("[]", []),
    ],
)
def test_a_bare_path_is_a_list_of_one_and_paths_need_no_quotes(typed: str, paths: list[str]) -> None:
    assert composed("data", "data=files", f"data.paths={typed}")["data"]["paths"] == paths


@pytest.mark.parametrize(("typed", "count"), [("1e3", 1000), ("2k", 2000), ("4M", 4_000_000), ("1G", 10**9), ("7", 7)])
def test_counts_may_have_units(typed: str, count: int) -> None:
    assert composed("train", f"trainer.max_steps={typed}")["trainer"]["max_steps"] == count


def test_a_name_that_looks_like_a_number_stays_a_name() -> None:
    assert composed("train", "name=12_3")["name"] == "12_3"
    assert composed("train", "name=null")["name"] is None


def test_flags_mean_the_same_as_settings() -> None:
    dashed = composed("train", "--model=gpt2_small", "--model.n-layer=3", "--trainer.max-steps=5")
    assert dashed == composed("train", "model=gpt2_small", "model.n_layer=3", "trainer.max_steps=5")


def test_hydras_own_flags_stay_hydras() -> None:
    flags, overrides = cli.understood("train", ["-m", "--cfg", "job", "model=mlp"])
    assert flags == ["-m", "--cfg", "job"]
    assert overrides == ["model=mlp"]


def test_cfg_prints_the_config_that_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sample", "decoding=greedy", "--cfg", "job"]) == 0
    assert "pretrain.sampling.decodings.Greedy" in capsys.readouterr().out


def test_a_command_of_two_words_is_in_the_overview_and_has_its_own_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "\n  data show " in capsys.readouterr().out
    assert cli.main(["data", "show", "dropped=all", "--cfg", "job"]) == 0
    assert "dropped: all" in capsys.readouterr().out


def test_stages_can_be_changed_and_removed_by_name() -> None:
    stages = composed("data", "data.stages.gopher_repetition.duplicate_line_fraction=0.5", "~data.stages.normalise")
    assert stages["data"]["stages"]["gopher_repetition"]["duplicate_line_fraction"] == 0.5
    assert "normalise" not in stages["data"]["stages"]


def test_without_stages_nothing_is_left_of_the_recipe() -> None:
    settings = config.parse(composed("data", "~data.stages"), config.SCHEMAS["data"])
    assert settings.data.stages == {}
    assert composed("data", "data/recipe=none")["data"]["stages"] == {}


def test_runs_of_nothing_is_an_empty_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["runs", f"runs_dir={tmp_path}", "format=json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_value_behind_a_space_is_shown_in_the_right_form() -> None:
    with pytest.raises(UsageError, match="--seed=3"):
        cli.understood("train", ["--seed", "3"])


def test_counts_in_a_list_may_be_short() -> None:
    _, overrides = cli.understood("train", ["trainer.double_batch_at=[1k, 4M,8_000_000]"])
    assert overrides == ["trainer.double_batch_at=[1000,4000000,8_000_000]"]  # Hydra reads the last one itself
