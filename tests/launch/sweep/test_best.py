"""The best run: what fairseq writes of validations, in both formats, of the first subset only."""

from pathlib import Path

import pytest

from metaseq_plugin.launch.sweep.best import validated

JSON = """\
x | INFO | train_inner | {"epoch": 1, "loss": "1.0", "num_updates": "4"}
x | INFO | valid/a | {"epoch": 1, "valid/a_loss": "5.5", "valid/a_ppl": "40", "valid/a_num_updates": "4"}
x | INFO | valid/b | {"epoch": 1, "valid/b_loss": "2.5", "valid/b_num_updates": "4", "valid/b_best_loss": "2.5"}
x | INFO | valid/a | {"epoch": 2, "valid/a_loss": "6.5", "valid/a_num_updates": "8", "valid/a_best_loss": "5.5"}
"""
SIMPLE = """\
x | INFO | train_inner | epoch 001: 4 / 26 loss=1.0, num_updates=4
x | INFO | valid | epoch 001 | valid on 'valid' subset | loss 5.5 | ppl 40.1 | num_updates 4
x | INFO | valid | epoch 002 | valid on 'valid' subset | loss 1e-05 | ppl 41 | num_updates 8 | best_loss 5.5
x | INFO | valid | epoch 003 | valid on 'valid' subset | loss nan | ppl nan | num_updates 12 | best_loss 5.5
"""


@pytest.mark.parametrize(
    ("text", "subset", "metric", "values"),
    [
        (JSON, "valid/a", "loss", {5.5, 6.5}),
        (JSON, "valid/b", "loss", {2.5}),
        (JSON, "valid/a", "ppl", {40.0}),
        (JSON, "valid", "loss", set()),
        (SIMPLE, "valid", "loss", {5.5, 1e-5}),
        (SIMPLE, "valid", "ppl", {40.1, 41.0}),
        ("", "valid", "loss", set()),
    ],
)
def test_values_of_validation(
    tmp_path: Path, text: str, subset: str, metric: str, values: set[float]
) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text(text)
    assert set(validated(log, subset, metric)) == values


def test_no_log_has_no_values(tmp_path: Path) -> None:
    assert validated(tmp_path / "rank-0.log", "valid", "loss") == []
