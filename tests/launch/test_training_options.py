"""``metaseq help train``: every option of ours once, on one screen, with the dataclasses' own words."""

import pytest

from metaseq_plugin import cli
from metaseq_plugin.launch.training_options import registered_configs
from metaseq_plugin.ledger.options import LedgerOptions

LINES, COLUMNS = 70, 100


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    assert cli.main(["help", "train"]) == 0
    return capsys.readouterr().out


def test_it_is_a_screen(page: str) -> None:
    lines = page.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS


def test_it_has_every_option_with_its_help(page: str) -> None:
    words = " ".join(page.split())
    configs = dict(registered_configs())
    assert next(iter(configs)) == "--task opt_language_modeling"
    assert {"--arch opt … opt_175b", "--criterion chunked_cross_entropy", "--optimizer adamw"} <= (
        configs.keys()
    )
    ledger = LedgerOptions.__dataclass_fields__
    for title, config in configs.items():
        assert f"\n{title}:\n" in page
        for name, field in config.__dataclass_fields__.items():
            if name in ledger:
                continue
            if not config.__module__.startswith("metaseq_plugin.") or "help" not in field.metadata:
                continue
            text = field.metadata["help"].partition(" (default")[0]
            assert " ".join(text.split()) in words, name
            assert name == "data" or f"  --{name.replace('_', '-')}" in page, name


def test_the_ledgers_options_are_a_page_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    assert cli.main(["help", "ledger"]) == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= LINES
    assert max(map(len, page.splitlines())) <= COLUMNS
    for name, field in LedgerOptions.__dataclass_fields__.items():
        if name != "_name":
            assert f"  --{name.replace('_', '-')}" in page
            assert " ".join(field.metadata["help"].split()) in " ".join(page.split()), name


def test_defaults_are_said_and_nothing_of_fairseqs(page: str) -> None:
    assert "longest block in tokens; OPT's is 2048 (default: 2048)" in page
    assert "(default: the --arch's)" in page
    assert page.count("--skip-damaged-checkpoints") == 1
    for name in ("--lr ", "--seed", "--save-dir S", "--sentence-avg", "--train-subset", "${"):
        assert f"  {name}" not in page
