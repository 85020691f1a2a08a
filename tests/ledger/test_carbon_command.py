"""``metaseq carbon``: what papers stated, from the inputs that each used; and what it refuses."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.ledger import carbon
from metaseq_plugin.ledger.carbon_command import add_arguments, run


def words(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args(line.split()))
    return capsys.readouterr().out


def numbers(line: str, capsys: pytest.CaptureFixture[str]) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads(words(f"{line} --json", capsys))
    return found


# LLaMA: Touvron et al. 2023 (arXiv:2302.13971), section 6 and table 15: Wh = GPU-h · W · PUE, 400 W, PUE 1.1, 0.385 kg/kWh.
# BLOOM: Luccioni et al. 2022 (arXiv:2211.02001): 1,082,990 h at 0.4 kW, 57 g/kWh; idle 14.6 t. OPT: Zhang et al. 2022
# (arXiv:2205.01068), section 6, states 75 t and no inputs: 34 days of 992 GPUs at 0.231 kg/kWh without PUE give that.
A100 = "--gpu a100-80gb"
PUBLISHED = {
    "LLaMA 7B": (f"{A100} --gpus 1 --hours 82432", 36, 14),
    "LLaMA 13B": (f"{A100} --gpus 1 --hours 135168", 59, 23),
    "LLaMA 33B": (f"{A100} --gpus 1 --hours 530432", 233, 90),
    "LLaMA 65B": (f"{A100} --gpus 1 --hours 1022362", 449, 173),
    "LLaMA, all of the project": ("--kwh 2638000 --pue 1", 2638, 1015),
    "OPT-175B by LLaMA's method": (f"{A100} --gpus 992 --hours 816", 356, 137),
    "OPT-175B by it, at 231 g": (f"{A100} --gpus 992 --hours 816 --intensity 231", 356, 82),
    "OPT-175B as it states": (f"{A100} --gpus 992 --hours 816 --pue 1 --intensity 231", 324, 75),
    "BLOOM": ("--watts 400 --gpus 1 --hours 1082990 --pue 1 --intensity 57", 433, 24.69),
    "BLOOM, idle too": (
        "--watts 400 --gpus 1 --hours 1082990 --pue 1 --intensity 57 --idle-share 0.5913", 689, 39.3
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_was_published(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    line, mwh, tonnes = PUBLISHED[name]
    found = numbers(line, capsys)
    assert found["facility_kwh"] / 1000 == pytest.approx(mwh, abs=1)  # printed in whole MWh
    digits = {24.69: 0.005, 1015: 0.7}.get(tonnes, 0.5)  # as printed; 2,638 MWh is rounded itself
    assert found["carbon_kg"] / 1000 == pytest.approx(tonnes, abs=digits)


def test_hours_stand_as_they_were_given(capsys: pytest.CaptureFixture[str]) -> None:
    said = words("--watts 400 --gpus 1 --hours 1082990 --pue 1 --intensity 57", capsys)
    assert "1 device · 1,082,990 h\n" in said


def test_every_number_stands_beside_its_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    said = words(
        "--gpus 992 --gpu a100-80gb --hours 816 --idle-share 0.5 --power-share 0.8", capsys
    )
    assert said == (
        "device-hours 809,472 h (given)\n"
        "               992 devices · 816 h\n"
        "power        320 W a device (assumed)\n"
        "               rated power of a100-80gb (A100 data sheet)\n"
        "               400 W · 0.8 power share\n"
        "computing    259,031 kWh (estimated)\n"
        "               809,472 h · 320 W / 1000\n"
        "idle         129,516 kWh (estimated)\n"
        "               259,031 kWh · 0.5 idle share\n"
        "building     427,401 kWh (estimated)\n"
        "               388,547 kWh · 1.1 PUE (LLaMA assumed it)\n"
        "emitted      164.5 t CO2e (estimated)\n"
        "               427,401 kWh · 385 g/kWh\n"
        "               the average of the United States: LLaMA, arXiv:2302.13971,\n"
        "               section 6 (February 2023)\n"
        "left out     making the machines; CPUs, memory, network and disks, unless\n"
        "               the power or the PUE was chosen to hold them\n"
    )
    assert max(map(len, said.splitlines())) <= 80


def test_energy_that_a_meter_read(capsys: pytest.CaptureFixture[str]) -> None:
    said = words("--kwh 12.7 --pue 1 --intensity fra", capsys)
    assert "computing    12.7 kWh (measured)\n" in said
    assert "emitted      0.7112 kg CO2e (estimated)\n" in said
    assert "FRA, average of 2023, codecarbon 3.3.2" in said
    found = numbers("--kwh 12.7 --pue 1 --intensity fra", capsys)
    assert (found["energy_is"], found["device_hours"]) == ("measured", None)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "`--gpus` must say how many devices ran, but is missing. Set it, or --kwh."),
        ("--gpus 1 --hours 1", "`--gpu` must name the device, but is missing. Set it, or --watts, or --kwh."),
        ("--gpus 1 --hours 1 --gpu foo", "`--gpu` must be one of v100-16gb"),
        ("--gpus 0 --hours 1 --gpu h200", "`--gpus` must be at least 1, but is 0."),
        ("--gpus 1 --hours -1 --gpu h200", "`--hours` must be above 0, but is -1."),
        ("--gpus 1 --hours nan --gpu h200", "`--hours` must be above 0, but is nan."),
        ("--gpus 1 --hours 1 --watts inf", "`--watts` must be above 0, but is inf."),
        ("--gpus 1 --kwh 3", "`--kwh` must come without --gpus, but both are set."),
        ("--kwh 3 --pue 0.9", "`--pue` must be at least 1, but is 0.9."),
        ("--kwh 3 --idle-share -1", "`--idle-share` must be at least 0, but is -1."),
        ("--kwh 3 --intensity 0.385", "`--intensity` must be g/kWh, 0 or from 1 to 2,000"),
        ("--kwh 3 --intensity Atlantis", "but is Atlantis."),
    ],
)  # fmt: skip
def test_what_it_refuses(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as refused:
        words(line, capsys)
    assert sentence in str(refused.value)


def test_codecarbons_countries_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "codecarbon" / carbon.CODECARBONS_TABLE
    table.parent.mkdir(parents=True)
    (tmp_path / "codecarbon" / "__init__.py").write_text("raise ImportError('slow to import')\n")
    row = {"carbon_intensity": 30.081, "year": 2023}
    table.write_text(json.dumps({"NOR": row, "USA": row, "XXX": {"year": 2023}}))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert carbon.intensity_of("nor").grams == 30.081
    assert (
        carbon.intensity_of("nor").source
        == "NOR, average of 2023, the codecarbon that is installed"
    )
    assert carbon.intensity("USA") == 369.5  # the table here comes first
    with pytest.raises(UserError, match="but is XXX"):
        carbon.intensity("XXX")
    assert "codecarbon" not in sys.modules
