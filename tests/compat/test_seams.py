"""Each seam mends what it names, and leaves the library beside it alone."""

import argparse
import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Callable, Optional

import numpy
import pytest
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from metaseq_plugin.compat import (
    bitarray_rindex,
    hydra_plugins,
    mutable_defaults,
    numpy_names,
    quiet_warnings,
    startup,
)
from metaseq_plugin.compat.commands import doctor

RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_every_seam_names_a_module_that_exists_and_reports(run_python: RunPython) -> None:
    done = run_python(doctor.PROBE)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])["report"]
    for seam in startup.SEAMS:
        assert report[seam.target][seam.name].startswith(("applied", "not needed ("))


@pytest.mark.parametrize(
    ("module", "hashable"), [("fairseq.dataclass.configs", True), ("other", False)]
)
def test_only_the_named_modules_get_hashable_dataclasses(module: str, hashable: bool) -> None:
    decorate = mutable_defaults.hashable_in(
        frozenset({"fairseq.dataclass.configs"}), dataclasses.dataclass
    )
    plain = decorate(type("Plain", (), {"__module__": module}))
    called = decorate(order=True)(type("Called", (), {"__module__": module}))
    assert (plain.__hash__ is not None, called.__hash__ is not None) == (hashable, hashable)


def test_numpy_itself_keeps_its_names() -> None:
    host = ModuleType("host")
    numpy_names.provide_lost_names(host)
    assert host.np.compat.long is int
    assert host.np.float is float
    assert host.np.arange is numpy.arange
    assert not hasattr(numpy, "float")
    with pytest.raises(AttributeError):
        _ = host.np.no_such_name


def test_one_token_blocks_subtract_with_a_sign() -> None:
    from fairseq.data import TokenBlockDataset

    lines = [torch.tensor([2]), torch.tensor([5, 6, 2])]
    blocks = TokenBlockDataset(
        lines, [1, 3], None, pad=1, eos=2, break_mode="eos", include_targets=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source, target, past = blocks[0]
    assert (source.tolist(), target.tolist(), past.tolist()) == ([2], [2], [1, 2])
    assert blocks[1][0].tolist() == [2, 5, 6]


def test_huffman_coded_symbols_are_read_back() -> None:
    from fairseq.data.huffman.huffman_coder import HuffmanCodeBuilder

    builder = HuffmanCodeBuilder()
    builder.add_symbols("the", "the", "cat")
    coder = builder.build_code()
    line = ["the", "cat", "the"]
    assert [node.symbol for node in coder.decode(coder.encode(line))] == line


def test_rindex_of_nothing_is_an_error() -> None:
    from bitarray import bitarray

    assert bitarray_rindex.rindex(bitarray("0100"), 1) == 1
    with pytest.raises(ValueError, match="not in the bitarray"):
        bitarray_rindex.rindex(bitarray("000"), 1)


def test_hydra_walks_its_plugins() -> None:
    import hydra.core

    found = {
        name: finder
        for finder, name, _ in hydra_plugins.walk_packages(hydra.core.__path__, "hydra.core.")
    }
    finder = found["hydra.core.utils"]
    assert isinstance(finder, SimpleNamespace)
    module = finder.find_module("hydra.core.utils").load_module("hydra.core.utils")
    assert module is sys.modules["hydra.core.utils"]


@pytest.mark.parametrize(
    ("message", "category", "module", "heard"),
    [
        (
            "`torch.cuda.amp.custom_fwd(args...)` is deprecated. x",
            FutureWarning,
            "fairscale.experimental.nn.offload",
            False,
        ),
        (
            "`torch.cuda.amp.custom_fwd(args...)` is deprecated. x",
            FutureWarning,
            "my.own.module",
            True,
        ),
        ("something else", FutureWarning, "fairscale.experimental.nn.offload", True),
        ("`torch.cuda.amp.autocast(args...)` is deprecated. x", FutureWarning, "fairseqlike", True),
    ],
)
def test_only_the_named_warnings_are_silent(
    message: str, category: type[Warning], module: str, heard: bool
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        quiet_warnings.silence()
        warnings.warn_explicit(message, category, f"{module}.py", 1, module=module, registry={})
    assert bool(caught) == heard


@pytest.mark.parametrize(
    ("path", "heard"),
    [
        ("/lib/site-packages/fairseq/models/wav2vec/wav2vec2_asr.py", False),
        ("/lib/site-packages/fairseq_cli/train.py", False),
        ("/home/user/fairseq_of_mine.py", True),
        ("/home/user/model.py", True),
    ],
)
def test_what_python_says_of_compiled_files_is_silent_for_the_hosts(path: str, heard: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        quiet_warnings.silence()
        compile(
            "x is 1", path, "exec"
        )  # a SyntaxWarning on every Python, as escapes are from 3.12 on
    assert bool(caught) == heard


def test_the_users_own_filters_come_first() -> None:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        quiet_warnings.silence()
        with pytest.raises(FutureWarning):
            warnings.warn_explicit(
                "`torch.cuda.amp.custom_fwd(args...)` is deprecated",
                FutureWarning,
                "f.py",
                1,
                "fairscale",
            )


def command_line(arguments: Optional[list[str]] = None) -> argparse.Namespace:
    from fairseq import options

    chosen = ["data", "--arch", "transformer_lm_gpt2_tiny", "--task", "language_modeling"]
    parser = options.get_training_parser()
    return options.parse_args_and_arch(parser, chosen + (arguments or []))


@pytest.mark.parametrize("kind", ["namespace", "omegaconf"])
def test_old_checkpoints_load_with_the_check_on(kind: str, tmp_path: Path) -> None:
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    args = command_line()
    history = {
        "criterion_name": "c",
        "optimizer_name": "o",
        "lr_scheduler_state": {},
        "num_updates": 3,
    }
    state: dict[str, Any] = {
        "args": None,
        "cfg": None,
        "model": {"weight": torch.arange(3.0)},
        "optimizer_history": [history],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1}, "epoch": 1},
    }
    state["args" if kind == "namespace" else "cfg"] = (
        args if kind == "namespace" else convert_namespace_to_omegaconf(args)
    )
    path = tmp_path / "checkpoint.pt"
    torch.save(state, path)
    assert get_unsafe_globals_in_checkpoint(path) == []
    assert torch.load(path, weights_only=True)["model"]["weight"].tolist() == [0.0, 1.0, 2.0]
    loaded = load_checkpoint_to_cpu(str(path))
    assert loaded["cfg"].task._name == "language_modeling"
    assert loaded["model"]["weight"].tolist() == [0.0, 1.0, 2.0]


class Unknown:
    pass


def test_the_check_stays_on_for_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"args": Unknown()}, path)
    with pytest.raises(Exception, match="Unknown"):
        torch.load(path)
