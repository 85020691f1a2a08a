"""Options are compared with fairseq's own, which are read once and kept."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fairseq import options as fairseq_options_module

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch import fairseq_options, option_table
from metaseq_plugin.launch.fairseq_options import Table, check_options, read_words
from metaseq_plugin.launch.spec import Value

BASE: dict[str, Value] = {
    "task": "opt_streaming_language_modeling",
    "arch": "opt_125m",
    "criterion": "chunked_cross_entropy",
    "optimizer": "adamw",
    "lr-scheduler": "polynomial_decay",
}


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(**json.loads(json.dumps(option_table.read())))


@pytest.fixture(autouse=True)
def _reading_it_once(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairseq_options, "option_table", lambda: table)


def test_the_table_has_the_options_of_fairseqs_parser(table: Table) -> None:
    words = ["data", "--user-dir", "metaseq_plugin", *(word for pair in BASE.items() for word in (f"--{pair[0]}", str(pair[1])))]  # fmt: skip
    parser = fairseq_options_module.get_training_parser()
    fairseq_options_module.parse_args_and_arch(parser, words)
    expected = {name[2:] for action in parser._actions for name in action.option_strings if name.startswith("--")}  # fmt: skip
    assert set(table.known(BASE)) == expected - {"help"}


def test_known_options_pass() -> None:
    check_options({**BASE, "lr": "1e-4", "adam-betas": "(0.9, 0.95)", "bf16": True, "fp16": False})
    check_options(
        {**BASE, "max-update": "4", "clip-norm": 1, "skip-batches": "100-200", "lr": None}
    )
    check_options({**BASE, "optimizer": "adam", "fp16-adam-stats": True})


# fmt: off
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"bathc-size": 8}, "`--bathc-size` must be an option of fairseq-train with --task opt_streaming_language_modeling, --arch opt_125m, but is unknown. Did you mean --batch-size?"),
    "underscore": ({"batch_size": 8}, "`--batch_size` must be an option of fairseq-train with --task opt_streaming_language_modeling, --arch opt_125m, but is unknown. Did you mean --batch-size?"),
    "nothing alike": ({"zzz": 8}, "`--zzz` must be an option of fairseq-train with --task opt_streaming_language_modeling, --arch opt_125m, but is unknown. `metaseq help train` lists the plugin's."),
    "of another task": ({"task": "opt_language_modeling", "shuffle-window": "3"}, "`--shuffle-window` must be an option of fairseq-train with --task opt_language_modeling, --arch opt_125m, but is unknown. It comes with --task opt_streaming_language_modeling."),
    "of another scheduler": ({"lr-period-updates": 3}, "`--lr-period-updates` must be an option of fairseq-train with --task opt_streaming_language_modeling, --arch opt_125m, but is unknown. It comes with --lr-scheduler cosine."),
    "text for a number": ({"max-update": "many"}, "`--max-update` must be a whole number, but is many. Set one."),
    "fraction for a whole": ({"max-update": 0.5}, "`--max-update` must be a whole number, but is 0.5. Set one."),
    "text for a float": ({"clip-norm": "high"}, "`--clip-norm` must be a number, but is high. Set one."),
    "flag with a value": ({"bf16": "yes"}, "`--bf16` must have no value, but has yes. Set it, or leave it out."),
    "value left out": ({"max-update": True}, "`--max-update` must have a value, but has none. Set one."),
    "few choices": ({"ddp-backend": "fsdp"}, "`--ddp-backend` must be one of its registered names, but is fsdp. Set c10d or fully_sharded or legacy_ddp or no_c10d or pytorch_ddp or slowmo."),
    "no such arch": ({"arch": "opt_125n"}, "`--arch` must be one of its registered names, but is opt_125n. Set opt_125m or"),
    "the plugin's folder": ({"user-dir": "x"}, "`--user-dir` must be left out here, but is set. It is metaseq_plugin."),
    "the run folder": ({"save-dir": "x"}, "`--save-dir` must be left out here, but is set. It is the run folder."),
}
# fmt: on


@pytest.mark.parametrize("case", REFUSED)
def test_what_fairseq_would_not_take_is_refused(case: str) -> None:
    changed, sentence = REFUSED[case]
    with pytest.raises(UserError) as error:
        check_options({**BASE, **changed})
    assert str(error.value).startswith(sentence)


def test_every_mistake_is_said_at_once() -> None:
    with pytest.raises(UserError) as error:
        check_options({**BASE, "bathc-size": 8, "max-update": "many"})
    assert len(error.value.sentences) == 2


def test_words_are_read_as_fairseq_reads_them() -> None:
    words = [
        "--lr",
        "1e-4",
        "--bf16",
        "--clip-norm=0.3",
        "--lr",
        "2e-4",
        "--end-learning-rate",
        "-1",
    ]
    assert read_words(words, BASE) == {
        "lr": "2e-4",
        "bf16": True,
        "clip-norm": "0.3",
        "end-learning-rate": "-1",
    }
    assert read_words(["--use-old-adam", "--optimizer", "adam"], BASE) == {
        "use-old-adam": True,
        "optimizer": "adam",
    }
    assert read_words([], BASE) == {}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lr"], "`--lr` must have a value, but has none. Set one."),
        (["--lr", "--bf16"], "`--lr` must have a value, but has none. Set one."),
        (["--bf16", "yes"], "What follows must be options of fairseq-train, by their long names, but yes is none."),
        (["-s", "3"], "What follows must be options of fairseq-train, by their long names, but -s is none."),
        (["--"], "What follows must be options of fairseq-train, by their long names, but -- is none."),
        (["--bathc-size", "3"], "`--bathc-size` must be an option of fairseq-train with"),
    ],
)  # fmt: skip
def test_words_that_are_none_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read_words(words, BASE)
    assert str(error.value).startswith(sentence)


CHECK = """
import sys, types
package = types.ModuleType("metaseq_plugin")
package.__path__ = [{folder!r}]
sys.modules["metaseq_plugin"] = package
from metaseq_plugin.launch import fairseq_options
{before}
fairseq_options.check_options({{"arch": "opt_125m", "task": "opt_language_modeling"}})
print(sorted({{"torch", "fairseq"}} & set(sys.modules)))
"""


def checked(cache: Path, before: str = "") -> str:
    """What a process prints that checks options, with a cache folder of its own, and has loaded torch or not."""
    code = CHECK.format(folder=str(fairseq_options.PACKAGE), before=before)
    environment = {"XDG_CACHE_HOME": str(cache), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_table_is_read_once_by_another_process(tmp_path: Path) -> None:
    assert checked(tmp_path) == "[]\n"
    (kept,) = (tmp_path / "metaseq_plugin").iterdir()
    never = "fairseq_options.read_table = None"
    assert checked(tmp_path, never) == "[]\n"
    kept.write_text(kept.read_text()[:1000])  # torn
    assert checked(tmp_path) == "[]\n"
    assert checked(tmp_path, never) == "[]\n"
    (tmp_path / "file").touch()  # a folder that cannot be written
    assert checked(tmp_path / "file") == "[]\n"
