"""Progress from the end of a log, in both of fairseq's formats."""

import math
from pathlib import Path

import pytest

from metaseq_plugin.launch.folders.progress import Progress, read_progress
from tests.launch.folders.run_folders import json_line

SIMPLE = (
    "2026-11-27 18:50:00 | INFO | train_inner | epoch 001:      6 / 26 loss=8.801, ppl=446.17, wps=9021.4, "
    "ups=17.62, wpb=512, bsz=8, num_updates=6, lr=0.001, gnorm=0.827, train_wall=0, wall=1"
)
SIMPLE_EPOCH = (
    "2026-11-27 18:50:00 | INFO | train | epoch 001 | loss 8.709 | ppl 418.5 | wps 9000 | ups 17 | wpb 450 | "
    "num_updates 26 | lr 0.001 | wall 2"
)
SIMPLE_VALID = (
    "2026-11-27 18:50:00 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 8.5 | ppl 360 | wps 20000 | "
    "wpb 400 | bsz 8 | num_updates 26"
)
JSON_EPOCH = (
    '2026-11-27 18:50:00 | INFO | train | {"epoch": 1, "train_loss": "8.709", "train_wps": "9000", '
    '"train_wpb": "450", "train_num_updates": "26"}'
)
JSON_VALID = '2026-11-27 18:50:00 | INFO | valid | {"epoch": 1, "valid_loss": "8.5", "valid_num_updates": "26"}'


def progress(path: Path, *lines: str) -> Progress | None:
    path.write_text("".join(f"{line}\n" for line in lines))
    return read_progress(path)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (json_line(6, 8.801, 9021.6, 512), Progress(6, 8.801, 9021.6, 17.6203125)),
        (SIMPLE, Progress(6, 8.801, 9021.4, 9021.4 / 512)),
        (SIMPLE_EPOCH, Progress(26, 8.709, 9000.0, 20.0)),
        (JSON_EPOCH, Progress(26, 8.709, 9000.0, 20.0)),
        (json_line(1, 8.8, math.inf), Progress(1, 8.8)),
        (json_line(1, 8.8, 0.0), Progress(1, 8.8)),
    ],
)
def test_a_line_of_training(tmp_path: Path, line: str, found: Progress) -> None:
    assert progress(tmp_path / "log", "Namespace(num_updates=3)", line, "words after it") == found


def test_lines_of_validation_are_no_progress_of_training(tmp_path: Path) -> None:
    assert progress(tmp_path / "log", JSON_VALID, SIMPLE_VALID) is None
    found = progress(tmp_path / "log", json_line(20), JSON_VALID, SIMPLE_VALID)
    assert found is not None
    assert found.update == 20


def test_no_log_and_an_empty_one_are_no_progress(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "none") is None
    assert progress(tmp_path / "log") is None


def test_a_loss_that_is_no_number_is_shown_as_it_is(tmp_path: Path) -> None:
    found = progress(tmp_path / "log", json_line(3, math.nan))
    assert found is not None
    assert found.loss is not None
    assert math.isnan(found.loss)


def test_a_torn_last_line_is_left_to_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"{json_line(5)}\n{json_line(6)[:90]}")
    found = read_progress(tmp_path / "log")
    assert found is not None
    assert found.update == 5


def test_one_slow_update_does_not_make_a_run_look_slow(tmp_path: Path) -> None:
    lines = [json_line(n, wps=1024 if n != 8 else 10) for n in range(1, 9)]
    found = progress(tmp_path / "log", *lines)
    assert found == Progress(8, 8.5, 1024.0, 2.0)


def test_an_update_that_takes_minutes_has_a_speed(tmp_path: Path) -> None:
    found = progress(tmp_path / "log", json_line(3, wps=5000, wpb=2_097_152))
    assert found is not None
    assert found.updates_per_second == 5000 / 2_097_152


def test_after_a_restart_the_lines_before_it_do_not_count(tmp_path: Path) -> None:
    lines = [
        *(json_line(n, wps=10) for n in range(1, 30)),
        json_line(21, wps=1024),
        json_line(22, wps=1024),
    ]
    assert progress(tmp_path / "log", *lines) == Progress(22, 8.5, 1024.0, 2.0)


def test_only_the_end_of_a_large_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stream:
        stream.write(f"{json_line(3)}\n".encode())
        stream.truncate(1 << 40)  # a hole
    assert read_progress(log) is None
    with log.open("ab") as stream:
        stream.write(f"\n{json_line(4)}\n".encode() + b"warning\n" * 20_000)
    found = read_progress(log)
    assert found is not None
    assert found.update == 4
