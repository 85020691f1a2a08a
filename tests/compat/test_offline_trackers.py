"""--wandb-project offline and --aim-repo: what they have on the disk after a run is what its log lines say."""

import json
import struct
from enum import Enum
from importlib import import_module
from multiprocessing.util import Finalize
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import pytest

from metaseq_plugin.compat.aim_values import telling_numbers, with_texts
from tests.fairseq_runs import Ended, train, write_data

OPTIONS = ("--log-format", "json", "--log-interval", 2, "--max-update", 6, "--num-workers", 0)
NAMES = ("loss", "tokens", "tflops", "mfu", "hfu", "kwh_estimated", "eta")


class Choice(str, Enum):
    """As those of our options: a text to everybody but Aim."""

    log = "log"


def test_options_are_texts() -> None:
    told = with_texts({"task": {"on_spike": Choice.log}, "lr": (0.1, None), "seed": 1})
    assert told == {"task": {"on_spike": "log"}, "lr": [0.1, None], "seed": 1}
    assert type(told["task"]["on_spike"]) is str


def test_meters_are_numbers() -> None:
    told: "list[Any]" = []
    telling_numbers(lambda *args: told.append(args[1:]))(
        None, {"loss": SimpleNamespace(val=2.5), "mfu": 0.25, "num_updates": 4}, "train"
    )
    assert told == [({"loss": 2.5, "mfu": 0.25}, "train", 4)]


def shown(ended: Ended) -> "dict[int, dict[str, float]]":
    """update -> what its log line says of ``NAMES``."""
    assert ended.status == 0, ended.output
    lines = [line for line in ended.output.splitlines() if " | train_inner | " in line]
    said = [json.loads(line.split(" | train_inner | ")[1]) for line in lines]
    found = {int(line["num_updates"]): {name: float(line[name]) for name in NAMES} for line in said}
    assert sorted(found) == [2, 4, 6]
    return found


def records(path: Path) -> Iterator[bytes]:
    """Of a .wandb file: blocks of 32 KiB with whole records (1), or their first (2), middle and last (4) parts."""
    raw, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", raw[at : at + 7])
        part += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield part
            part = b""


def finishing_wandb() -> None:
    """W&B writes the rest when Python ends, which a fork's end is not."""
    wandb: Any = import_module("wandb")
    Finalize(None, wandb.finish, exitpriority=1)


@pytest.mark.slow
def test_wandb_has_what_the_log_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    messages: Any = import_module("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    ended = train(
        write_data(tmp_path / "data"), tmp_path / "run", *OPTIONS, "--wandb-project", "opt",
        prepare=finishing_wandb,
    )  # fmt: skip
    (written,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    found: "dict[int, dict[str, Any]]" = {}
    config: "dict[str, Any]" = {}
    for raw in records(written):
        record = messages.Record()
        record.ParseFromString(raw)
        config.update({item.key: json.loads(item.value_json) for item in record.config.update})
        row = {
            item.key or "/".join(item.nested_key): item.value_json for item in record.history.item
        }
        if "_step" in row:
            found[int(row["_step"])] = row
    for update, line in shown(ended).items():
        for name, value in line.items():
            assert float(found[update][f"train_inner/{name}"]) == pytest.approx(value, rel=1e-3)
    assert "valid/loss" in found[6]
    assert config["task"]["on_spike"] == "log"


@pytest.mark.slow
def test_aim_has_what_the_log_says(tmp_path: Path) -> None:
    aim: Any = pytest.importorskip("aim")
    (tmp_path / "aim").mkdir()
    ended = train(
        write_data(tmp_path / "data"), tmp_path / "run", *OPTIONS, "--aim-repo", tmp_path / "aim"
    )
    (written,) = aim.Repo(str(tmp_path / "aim")).list_all_runs()
    # Not read-only, as which Aim 3.29 finds nothing in a run that has ended.
    run = aim.Run(written, repo=str(tmp_path / "aim"), system_tracking_interval=None, capture_terminal_logs=False)  # fmt: skip
    drawn = {
        (metric.context.to_dict().get("tag"), metric.name): metric.values.sparse_list()[1]
        for metric in run.metrics()
    }
    said = shown(ended)
    for name in NAMES:  # Aim gives them in the order of a hash of their updates
        values = sorted(line[name] for line in said.values())
        assert sorted(drawn["train_inner", name]) == pytest.approx(values, rel=1e-3)
    assert len(drawn["valid", "loss"]) == 1
    assert run["task"]["on_spike"] == "log"
    assert run["checkpoint"]["save_dir"] == str(tmp_path / "run")
    run.close()
