"""Downstream tasks: from files of questions, and the same numbers as lm-eval's own model."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.errors import DataError, UsageError
from pretrain.evaluation.tasks import KINDS, evaluate_tasks
from pretrain.exporting.huggingface import write_huggingface
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel
from pretrain.models.ngram import NGram
from pretrain.stopping import Stop
from pretrain.tokenizers.loading import load
from pretrain.tokenizers.tokenizer import Tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data" / "eval"

with_harness = pytest.mark.skipif(not find_spec("lm_eval"), reason="lm-eval (extra: eval) is not installed")
with_peer = pytest.mark.skipif(
    not (find_spec("lm_eval") and find_spec("accelerate")), reason="lm-eval or accelerate is not installed"
)
with_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
pytestmark = pytest.mark.filterwarnings("default")  # of lm-eval and what it needs

RECORDS: dict[str, list[dict[str, Any]]] = {
    "pairs": [
        {"good": "The cat sat on the mat.", "bad": "Mat the on sat cat the."},
        {"good": "zqxj zqxj", "bad": "The cat sat."},
    ],
    "answers": [
        {"query": "Question: Where did the cat sit?", "choices": ["zzzqqq", "the mat"], "gold": 1},
        {"query": "The dog sat by", "choices": ["the door.", "qzqzqzqzq"], "gold": 1},
    ],
    "beginnings": [
        {"context_options": ["The cat", "xxyyzz"], "continuation": "sat on the mat.", "gold": 0},
        {"context_options": ["qqq", "the valley"], "continuation": "is green", "gold": 1},
    ],
    "words": [{"context": "The cat sat on the", "continuation": "mat"}, {"context": "It was a", "continuation": "zq"}],
    "common_sense": [
        {"question": "何？", "label": 1, "choice1": "猫である。"}
        | {f"choice{place}": f"鳥鳥{place}鳥鳥鳥" for place in (0, 2, 3, 4)}
    ],
    "entailment": [{"sentence1": "春", "sentence2": "夏", "label": "neutral"}],
}


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return load(tokenizer_file)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer, tiny_corpus: list[str]) -> LanguageModel:
    model = NGram(tokenizer.vocab_size, order=3, smoothing="kneser_ney", k=1.0)
    end = tokenizer.end_of_text
    model.fit(np.array([end, *(id for text in tiny_corpus for id in [*tokenizer.encode(text), end])]), end)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, records in RECORDS.items():
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), "utf-8")
    return tmp_path


def scores(model: LanguageModel, tokenizer: Tokenizer, names: list[str], **more: Any) -> dict[str, dict[str, Any]]:
    settings: dict[str, Any] = {"tasks_dir": None, "few_shot": 0, "limit": None, "longest": 64, **more}
    return evaluate_tasks(model, tokenizer, names, stop=Stop(), **settings)


def log_probability(model: LanguageModel, tokenizer: Tokenizer, context: str, text: str) -> float:
    before = tokenizer.encode(context) or [tokenizer.end_of_text]
    whole = tokenizer.encode(context + text)
    ids = [*before, *whole[len(tokenizer.encode(context)) :]]
    log_probs = model(torch.tensor([ids[:-1]]))[0].log_softmax(1)
    return sum(float(log_probs[place - 1, ids[place]]) for place in range(len(before), len(ids)))


def test_without_lm_eval_one_line_names_the_extra(
    model: LanguageModel, tokenizer: Tokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match=r"pip install 'pretrain\[eval\]'"):
        scores(model, tokenizer, [str(folder / "pairs.jsonl")])


@with_harness
def test_every_kind_of_file_is_a_task(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    assert len(RECORDS) == len(KINDS)
    found = scores(model, tokenizer, list(RECORDS), tasks_dir=str(folder))
    assert {name: figures["questions"] for name, figures in found.items()} == {
        name: len(records) for name, records in RECORDS.items()
    }
    assert found["pairs"]["acc"] == 0.5  # the second good one is nonsense
    assert found["answers"]["acc"] == 0.5
    assert found["beginnings"]["acc"] == 1
    assert found["common_sense"]["acc"] == 1
    expected = [
        log_probability(model, tokenizer, record["context"], " " + record["continuation"])
        for record in RECORDS["words"]
    ]
    assert found["words"]["perplexity"] == pytest.approx(np.exp(-np.mean(expected)), rel=1e-5)


@with_harness
def test_a_question_is_never_among_the_solved_ones_before_it(
    model: LanguageModel, tokenizer: Tokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pretrain.evaluation.harness import HarnessModel

    asked: list[str] = []
    plain = HarnessModel.loglikelihood

    def noted(self: Any, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        asked.extend(request.args[0] for request in requests)
        return plain(self, requests, disable_tqdm)

    monkeypatch.setattr(HarnessModel, "loglikelihood", noted)
    assert scores(model, tokenizer, [str(folder / "words.jsonl")], few_shot=1)["words"]["questions"] == 2
    first, second = (record["context"] for record in RECORDS["words"])
    assert asked == [f"{second} zq\n\n{first}", f"{first} mat\n\n{second}"]


@with_harness
def test_a_yaml_file_of_lm_eval_is_a_task_without_a_network(
    model: LanguageModel, tokenizer: Tokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    (folder / "mine.yaml").write_text(
        f"""task: mine
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/pairs.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: ""
doc_to_choice: "{{{{[good, bad]}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list:
  - metric: acc
""",
        "utf-8",
    )
    by_path, by_name = (
        scores(model, tokenizer, [str(folder / "mine.yaml")]),
        scores(model, tokenizer, ["mine"], tasks_dir=str(folder)),
    )
    assert by_path["mine"]["acc"] == by_name["mine"]["acc"] == 0.5


@with_harness
def test_what_is_no_task_is_refused_in_one_line(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    (folder / "strange.jsonl").write_text('{"a": 1}', "utf-8")
    (folder / "broken.jsonl").write_text('{"a": 1', "utf-8")
    (folder / "empty.jsonl").write_text("", "utf-8")
    for name, error, message in (
        ("strange.jsonl", DataError, "has the fields a; known kinds have good, bad"),
        ("broken.jsonl", DataError, "is not JSONL"),
        ("empty.jsonl", DataError, "has the fields of nothing"),
        ("nowhere.jsonl", UsageError, "does not exist"),
    ):
        with pytest.raises(error, match=message):
            scores(model, tokenizer, [str(folder / name)])


@with_harness
def test_an_answer_longer_than_a_row_is_scored_piece_by_piece(tokenizer: Tokenizer, model: LanguageModel) -> None:
    from lm_eval.api.instance import Instance

    from pretrain.evaluation.harness import HarnessModel

    text = "The cat sat on the mat, and the dog sat by the door. " * 4
    requests = [Instance("loglikelihood", {}, ("A river", " " + text), 0)]
    expected = log_probability(model, tokenizer, "A river", " " + text)
    for longest in (7, 12, 1000):
        [(found, greedy)] = HarnessModel(model, tokenizer, longest, Stop()).loglikelihood(requests)
        assert found == pytest.approx(expected)  # three tokens of context are all that it looks at
        assert not greedy


@with_peer
def test_the_numbers_are_those_of_lm_evals_own_model_on_the_exported_checkpoint(
    tokenizer: Tokenizer, tiny_corpus: list[str], tmp_path: Path
) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from pretrain.evaluation.harness import HarnessModel

    torch.manual_seed(0)
    gpt = GPT(tokenizer.vocab_size, context_length=32, n_layer=2, n_head=2, n_embd=16, dropout=0.0).eval()
    for parameter in gpt.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    write_huggingface(gpt, tokenizer, tmp_path / "exported")
    pairs = [("", text[:20]) for text in tiny_corpus[:4]] + [(text[:9], text[9:18]) for text in tiny_corpus]
    pairs += [("Trailing space ", "here"), ("long " * 40, "context"), ("質問：", "猫")]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    rolling = [Instance("loglikelihood_rolling", {}, (" ".join(tiny_corpus[:8]),), 0)]
    writing = [Instance("generate_until", {}, ("The cat", {"until": ["\n"], "max_gen_toks": 12}), 0)]
    peer = HFLM(pretrained=str(tmp_path / "exported"), device="cpu", dtype="float64", batch_size=4)
    ours = HarnessModel(gpt.double(), tokenizer, 32, Stop())
    found, expected = ours.loglikelihood(requests), peer.loglikelihood(requests, disable_tqdm=True)
    assert max(abs(a - b) for (a, _), (b, _) in zip(found, expected, strict=True)) < 1e-6
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(peer.loglikelihood_rolling(rolling), abs=1e-6)
    assert ours.generate_until(writing) == peer.generate_until(writing)


@with_harness
@with_shared
@pytest.mark.parametrize("few_shot", [0, 2])
def test_the_well_known_tasks_are_read_as_they_are(model: LanguageModel, tokenizer: Tokenizer, few_shot: int) -> None:
    names = ["blimp", "lambada_openai", "arc_easy", "arc_challenge", "piqa", "winogrande", "jcommonsenseqa", "jnli"]
    found = scores(model, tokenizer, names, tasks_dir=str(SHARED), few_shot=few_shot, limit=8)
    assert set(found) == set(names)
    assert all(0 <= figures["acc"] <= 1 and figures["questions"] == 8 for figures in found.values())
