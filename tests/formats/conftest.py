"""Every conversion to fairseq asks for the same default options, which take most of a second: here once for all."""

from argparse import Namespace
from typing import Any

import pytest

from metaseq_plugin.formats import fairseq


@pytest.fixture(scope="session")
def made_options() -> dict[str, Any]:
    """The options that were made, by what was typed for them."""
    return {}


@pytest.fixture(autouse=True)
def _options_made_once(made_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make = fairseq.convert_namespace_to_omegaconf

    def made(typed: Namespace) -> Any:
        if repr(typed) not in made_options:
            made_options[repr(typed)] = make(typed)
        return made_options[repr(typed)]

    monkeypatch.setattr(fairseq, "convert_namespace_to_omegaconf", made)
