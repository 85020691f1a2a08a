"""Progress lines count to the length that an epoch is known to have by then."""

import json
from typing import Iterator

import pytest
from fairseq.logging.progress_bar import JsonProgressBar, SimpleProgressBar


class Growing:
    """Seven items, said to be six as long as no more are known."""

    n = 0

    def __len__(self) -> int:
        return max(6, self.n)

    def __iter__(self) -> Iterator[int]:
        for self.n in range(1, 8):
            yield self.n


def test_lines_never_count_past_the_length(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    bar = SimpleProgressBar(Growing(), epoch=1, log_interval=1)
    for number in bar:
        bar.log({"loss": 1}, step=number)
    said = [message.split(":")[1].split("loss")[0].split() for message in caplog.messages]
    assert said == [[str(n), "/", str(max(6, n))] for n in range(1, 8)]


def test_json_says_how_much_of_the_epoch_went_by(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    bar = JsonProgressBar(Growing(), epoch=1, log_interval=1)
    for number in bar:
        bar.log({"loss": 1}, step=number)
    found = [json.loads(message)["update"] for message in caplog.messages]
    assert found == [round(min(1, n / 6), 3) for n in range(1, 8)]
