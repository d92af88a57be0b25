"""What a decoding leaves of the distribution, token by token of a text that the model writes.

Shapes: T steps, V ids.
"""

import math
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Interval
from rich.text import Text

from pretrain.inspection.view import Bars, Group, Subject, Table
from pretrain.sampling.decodings import Greedy, Sampling
from pretrain.sampling.draws import drawn_by
from pretrain.sampling.search import refuse_unusable, scores_of

NAMES = ("model", "greedy", "temperature", "top_k", "top_p")
SHADES = (" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█")  # of a bar in a table, by eighths


class DecodingView:
    """The model's distribution at each step of a text, and what is left of it under four decodings.

    The text goes on by top_p, so that all five are shown for the same beginnings.

    Args:
        text: what the model goes on from, behind an end of text.
        max_tokens: steps.
        n: of the most probable tokens that are shown at each step.
        temperature: of the decoding of that name; the others leave the model's own.
        k, p: of top_k and top_p.
        seed: of the draws.
    """

    def __init__(
        self,
        *,
        text: str,
        max_tokens: Annotated[int, Ge(1)],
        n: Annotated[int, Ge(1)],
        temperature: Annotated[float, Ge(0)],
        k: Annotated[int, Ge(1)],
        p: Annotated[float, Interval(ge=0, le=1)],
        seed: Annotated[int, Ge(0)],
    ) -> None:
        self.text, self.max_tokens, self.n, self.seed = text, max_tokens, n, seed
        self.settings = {"temperature": temperature, "k": k, "p": p}
        self.decodings: dict[str, Greedy | Sampling] = {
            "greedy": Greedy(),
            "temperature": Sampling(temperature=temperature),
            "top_k": Sampling(temperature=1.0, k=k),
            "top_p": Sampling(temperature=1.0, p=p),
        }

    @torch.inference_mode()
    def __call__(self, subject: Subject) -> dict[str, Any]:
        """A JSON document: {view, text, settings, steps: [{chosen, entropy, kept, tokens}]}.

        Of a step, `entropy` is that of the model in bits, `kept` how many tokens each decoding leaves, and `tokens` the
        most probable ones: [{token, id, model, greedy, temperature, top_k, top_p}], probabilities.
        """
        device = next((parameter.device for parameter in subject.model.parameters()), torch.device("cpu"))
        prompt = [subject.tokenizer.end_of_text, *subject.tokenizer.encode(self.text)]
        generator = torch.Generator().manual_seed(self.seed)
        new, lengths, state = torch.tensor([prompt], device=device), torch.tensor([len(prompt)], device=device), None
        steps: list[dict[str, Any]] = []
        while len(steps) < self.max_tokens:
            logits, state = subject.model.next_logits(new, lengths, state)
            logits = scores_of(logits).cpu()
            if not bool(logits.logsumexp(1).isfinite().all()):
                refuse_unusable(logits)
            changed = {"model": logits} | {name: decoding(logits) for name, decoding in self.decodings.items()}
            chances = {name: left.softmax(1, dtype=torch.float64)[0] for name, left in changed.items()}
            uniform = torch.rand(1, 1, generator=generator, dtype=torch.float64)
            chosen = int(drawn_by(uniform, changed["top_p"]))
            steps.append(self._step(subject, chances, chosen))
            if chosen == subject.tokenizer.end_of_text:
                break
            new, lengths = torch.tensor([[chosen]], device=device), torch.ones_like(lengths)
        return {"view": "decoding", "text": self.text, "settings": self.settings, "steps": steps}

    def _step(self, subject: Subject, chances: dict[str, torch.Tensor], chosen: int) -> dict[str, Any]:
        model = chances["model"]
        best = model.sort(descending=True, stable=True)[1][: self.n].tolist()
        return {
            "chosen": {"token": subject.label(chosen), "id": chosen},
            "entropy": float(torch.special.entr(model).sum()) / math.log(2),
            "kept": {name: int((own > 0).sum()) for name, own in chances.items()},
            "tokens": [
                {"token": subject.label(token), "id": token}
                | {name: float(own[token]) for name, own in chances.items()}
                for token in best
            ],
        }


def tables(document: dict[str, Any]) -> list[Table]:
    """For each step the most probable tokens, with a bar for their probability under each decoding."""
    found = []
    written = document["text"]
    for number, step in enumerate(document["steps"], start=1):
        title = f"{number}. after {written[-40:]!r}: {step['chosen']['token']!r}, {step['entropy']:.2f} bits"
        rows: list[list[str | Text]] = [
            [repr(one["token"]), *(f"{_bar(one[name])} {one[name]:.3f}" if one[name] else "" for name in NAMES)]
            for one in step["tokens"]
        ]
        rows.append(["tokens left", *(f"{step['kept'][name]:,}" for name in NAMES)])
        found.append(Table(title, ["token", *_titles(document)], rows))
        written += step["chosen"]["token"]
    return found


def pictures(document: dict[str, Any]) -> dict[str, Bars]:
    """A picture: the same as bars, the chosen token marked."""
    groups = [
        Group(
            f"{number}. {step['entropy']:.2f} bits",
            [one["token"] for one in step["tokens"]],
            np.array([[one[name] for name in NAMES] for one in step["tokens"]]),
            next((row for row, one in enumerate(step["tokens"]) if one["id"] == step["chosen"]["id"]), None),
        )
        for number, step in enumerate(document["steps"], start=1)
    ]
    title = f"What each decoding leaves, after {document['text'][-40:]!r}; the text goes on by top_p"
    return {"decoding": Bars(title, _titles(document), groups)}


def _titles(document: dict[str, Any]) -> list[str]:
    settings = document["settings"]
    return [
        "model",
        "greedy",
        f"temperature {settings['temperature']:g}",
        f"top_k {settings['k']}",
        f"top_p {settings['p']:g}",
    ]


def _bar(share: float) -> str:
    """Eight cells at most."""
    eighths = round(share * 64)
    return ("█" * (eighths // 8) + SHADES[eighths % 8]).ljust(8)
