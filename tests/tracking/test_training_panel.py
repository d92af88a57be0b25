"""The panel of a training shows what is known of it, and where its loss stands among the references."""

from typing import Any

from rich.console import Console

from pretrain.tracking.training_panel import TrainingPanel

REFERENCES = {"uniform": 8.3, "unigram": 6.6, "bigram": 4.4}


def row(**more: Any) -> dict[str, Any]:
    known = {"step": 7, "tokens": 7168, "seconds": 1.5, "train/loss": 5.0, "tokens_per_second": 2000.0, "lr": 1e-3}
    return known | {"grad_norm": 0.5, "memory_bytes": 2 * 10**9, "skipped_steps": 0} | more


def drawn(panel: TrainingPanel) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(panel)
    return capture.get()


def test_before_the_first_step_there_is_nothing_but_the_references() -> None:
    text = drawn(TrainingPanel(0.0, REFERENCES))
    assert "the first step is under way" in text
    assert "uniform 8.30 > unigram 6.60 > bigram 4.40" in text


def test_the_training_loss_is_a_mean_and_stands_among_the_references() -> None:
    panel = TrainingPanel(0.0, REFERENCES)
    panel.take(0.1, row(**{"train/loss": 6.0}))
    panel.take(0.2, row(**{"train/loss": 5.0, "mfu": 0.417, "skipped_steps": 3}))
    text = drawn(panel)
    assert "loss 5.5000, perplexity 244.69" in text
    assert "uniform 8.30 > unigram 6.60 > this run 5.50 > bigram 4.40" in text
    assert "2,000 tokens/s, MFU 41.7%, 2.00 GB, 3 steps skipped" in text
    assert "20%" in text


def test_the_validation_loss_takes_the_place_of_the_training_loss() -> None:
    panel = TrainingPanel(0.0, REFERENCES)
    panel.take(0.1, row())
    panel.take(0.1, {"step": 7, "val/loss": 4.0, "val/perplexity": 54.6, "val/bits_per_byte": 1.5})
    text = drawn(panel)
    assert "loss 4.0000, perplexity 54.60, 1.5000 bits per byte at step 7" in text
    assert "bigram 4.40 > this run 4.00" in text


def test_a_counting_model_without_rate_and_with_an_infinite_loss_is_drawn_too() -> None:
    panel = TrainingPanel(0.0, REFERENCES)
    panel.take(1.0, row(**{"train/loss": float("inf"), "lr": None, "grad_norm": None}))
    assert "perplexity beyond" in drawn(panel)


def test_a_row_that_tells_of_a_rollback_is_no_step() -> None:
    panel = TrainingPanel(0.0, REFERENCES)
    panel.take(0.2, row())
    panel.take(0.1, {"step": 3, "train/loss": 9.0, "spike": 12.0, "rolled_back_over_batches": (3, 7)})
    assert "loss 5.0000" in drawn(panel)
    assert "10%" in drawn(panel)
