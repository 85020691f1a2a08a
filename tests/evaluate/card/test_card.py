"""The model card: what it tells of a run, of a folder without a past, and of results; and what it refuses."""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.card import command
from metaseq_plugin.evaluate.opening import fingerprint
from metaseq_plugin.evaluate.results import Results, write_results
from metaseq_plugin.evaluate.task import Measure
from metaseq_plugin.formats.model import read_model
from tests.evaluate.told_results import crows_pairs, ethos, lambada, results, task


def made(path: Path, *options: Any) -> str:
    """The card that ``metaseq card`` writes."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    output = path.parent / "CARD.md"
    words = [path, "--output", output, *options]
    command.run(parser.parse_args([str(word) for word in words]))
    return output.read_text("utf-8")


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> dict[str, str]:
    """Label -> value of a table of two columns."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def front(card: str) -> dict[str, Any]:
    found = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def put(folder: Path, **files: Results) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, each in files.items():
        write_results(each, folder / f"{name}.json")
    return [folder / f"{name}.json" for name in files]


def test_the_sizes_are_those_of_the_files(hf: Path, num_parameters: int) -> None:
    found = rows(section(made(hf), "Model"))
    assert found["parameters"].startswith(f"{num_parameters:,} (")
    expected = {
        "dimensions of": "no published OPT",
        "layers": "3",
        "embedding": "32",
        "attention heads": "4",
        "feed-forward": "80",
        "normalisation": "before each block",
        "reads at most": "40 tokens",
        "vocabulary": "288 entries",
        "data type of the weights": "float32",
        "read from": "`tiny-hf`, Hugging Face's files",
    }
    assert {label: found[label] for label in expected} == expected


def test_no_weights_are_read(hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metaseq_plugin.storage.lazy import Tensors

    def refuse(*_: Any) -> None:
        raise AssertionError("a tensor is made")

    monkeypatch.setattr(Tensors, "__getitem__", refuse)
    monkeypatch.setattr(Tensors, "piece", refuse)
    assert "39," in made(hf)


def test_of_a_folder_without_a_past_what_is_unknown_is_said(hf: Path) -> None:
    card = made(hf)
    for title in ("Training data", "Training", "Energy and carbon"):
        assert (
            section(card, title).strip()
            == "Unknown: no ledger of its training lies beside the model."
        )
    for title in ("Intended use", "Licence"):
        assert section(card, title).strip() == "Unknown: whoever wrote this card did not state it."
    for title in ("Evaluation", "Harms"):
        assert section(card, title).strip() == "Not measured."
    assert "These harms were not measured: crows-pairs, stereoset, ethos" in section(card, "Limits")
    assert "What it was trained on, and how, is unknown here." in section(card, "Limits")
    assert front(card) == {
        "license": "unknown",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["opt", "metaseq-plugin", "text-generation"],
    }  # fmt: skip


def test_a_checkpoint_without_a_ledger_has_a_card_too(checkpoint: Path) -> None:
    card = made(checkpoint)
    assert "# tiny\n" in card
    assert rows(section(card, "Model"))["read from"] == "`checkpoint.pt`, a checkpoint of fairseq's"
    assert "metaseq generate checkpoint.pt" in section(card, "How to load it")
    assert front(card)["library_name"] == "fairseq"


def test_the_account_of_a_run_is_told(run: Path) -> None:
    card = made(run)
    assert rows(section(card, "Training data")) == {
        "---": "---", "folder": "`data`", "files": "4", "bytes": "unknown", "hash": f"`{'f00d' * 16}`",
        "tokens learned from": "204,800, repeats included",
    }  # fmt: skip
    training = rows(section(card, "Training"))
    assert training["updates"] == "400"
    assert training["updates that were lost"] == "57 (made again, or never)"
    assert training["tokens"] == "204,800, and 25,600 in updates that were lost"
    assert training["starts"] == "3 (1 killed, 1 stopped, 1 finished)"
    assert training["hardware"] == "8 × NVIDIA A100-SXM4-80GB on 1 node"
    assert training["learning rate"] == "0.0006"
    energy = rows(section(card, "Energy and carbon"))
    assert energy["energy at the building's meter"].startswith(
        "498.7 Wh (estimated: 0.4533 kWh × PUE 1.1"
    )
    assert energy["CO₂e"].startswith("192 g (estimated: 0.4987 kWh × 385 g/kWh / 1000")
    assert rows(section(card, "Versions"))["code of the run"] == "`0123456789abcdef`"


def test_figures_stand_beside_the_published_number_of_the_nearest_size(run: Path, num_parameters: int) -> None:  # fmt: skip
    put(
        run / "eval", harms=results("run", num_parameters, crows_pairs=crows_pairs(), ethos=ethos())
    )
    put(run / "eval", lambada=results("run", num_parameters, lambada=lambada()))
    card = made(run)
    assert "| perplexity |  | 41.50 ± 1.25 | 5,153 | 26.02 (OPT-125M) |" in section(
        card, "Evaluation"
    )
    harms = section(card, "Harms")
    assert "| stereotype score | gender | 53.25 ± 3.09 | 262 | 65.7 (OPT-175B) |" in harms
    assert "| f1 zero-shot |  | 0.5000 [0.4375, 0.5625] | 433 | 0.667 (OPT-175B) |" in harms
    assert "| likelihood difference |  | 3.12 ± 0.06 | 1,508 |  |" in harms
    assert "- OPT-175B published: Zhang et al. 2022, arXiv:2205.01068v4, Table 4." in harms
    limits = section(card, "Limits")
    assert "These harms were not measured: stereoset, real-toxicity-prompts" in limits
    assert "crows-pairs" not in limits
    assert "`harms.json`, SHA-256 `" in section(card, "Results")
    names = [result["dataset"]["type"] for result in front(card)["model-index"][0]["results"]]
    assert names == ["crows-pairs", "ethos", "lambada"]
    (metric, _) = front(card)["model-index"][0]["results"][2]["metrics"]
    assert metric == {"type": "perplexity", "name": "perplexity", "value": 41.5}


def test_what_limits_the_figures_is_said(hf: Path, num_parameters: int, tmp_path: Path) -> None:
    given = results(
        "x",
        num_parameters,
        piqa=task(Measure("acc", 60.0, 1.0, 100)),
        copa=task(Measure("acc", 70.0, 1.0, 100)),
    )
    given = replace(
        given,
        options={"limit": 100, "shots": None, "seed": 1, "scorer": {"name": "lexicon"}},
        left_out={"ethos": "its file is missing."},
    )
    card = made(hf, "--results", *put(tmp_path, some=given))
    limits = section(card, "Limits")
    for sentence in (
        "The figures of `some.json` are over the first 100 items of each task only.",
        "Texts were judged by lexicon, which errs itself.",
        "ethos was left out of `some.json`: its file is missing.",
    ):
        assert f"- {sentence}\n" in f"{limits}\n"
    assert "- average of 2 of the paper's 14 tasks: 65.00" in section(card, "Evaluation")


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("mit", {"license": "mit"}),
        ("apache-2.0", {"license": "apache-2.0"}),
        ("OPT-175B licence", {"license": "other", "license_name": "OPT-175B licence"}),
    ],
)
def test_the_licence_is_the_hubs_name_or_another(hf: Path, licence: str, fields: dict[str, str]) -> None:  # fmt: skip
    card = made(hf, "--licence", licence)
    assert fields.items() <= front(card).items()
    assert section(card, "Licence").strip() == licence


def test_the_intended_use_is_the_files(hf: Path, tmp_path: Path) -> None:
    (tmp_path / "use.md").write_text("For *research* only.\n")
    card = made(hf, "--intended-use", tmp_path / "use.md", "--name", "mine | yours")
    assert section(card, "Intended use").strip() == "For *research* only."
    assert "# mine \\| yours\n" in card


def test_a_text_is_never_markup(hf: Path, num_parameters: int, tmp_path: Path) -> None:
    hostile = "<b>x</b> | [a](b) `c`\n# d"
    bad = task(Measure(hostile, 1.0, None, 1, hostile, note=hostile), title=hostile, source=hostile)
    card = made(hf, "--results", *put(tmp_path, bad=results("x", num_parameters, ethos=bad)))
    harms = section(card, "Harms")
    assert "<b>" not in harms.replace("\\<b\\>", "")
    assert "\n# d" not in harms
    assert "| \\<b\\>x\\</b\\> \\| \\[a\\](b) \\`c\\` # d | " in harms


def test_the_same_card_twice_is_the_same(run: Path) -> None:
    assert made(run) == made(run)


def test_without_output_it_is_printed(hf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([str(hf)]))
    assert capsys.readouterr().out == made(hf)


def test_results_of_other_weights_are_named(hf: Path, num_parameters: int, tmp_path: Path) -> None:
    ours, others = results("x", num_parameters, ethos=ethos()), results("x", num_parameters, lambada=lambada())  # fmt: skip
    ours = replace(ours, model={**ours.model, "fingerprint": fingerprint(read_model(hf))})
    limits = section(made(hf, "--results", *put(tmp_path, ours=ours, others=others)), "Limits")
    assert "The figures of `others.json` were measured of other weights or settings" in limits
    assert "The figures of `ours.json`" not in limits


def test_of_a_task_in_two_files_of_the_run_the_one_of_most_items_is_shown(
    hf: Path, num_parameters: int, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(hf, tmp_path / "model"))
    few = task(Measure("acc", 11.25, None, 20), title="LAMBADA")
    put(
        model / "eval",
        harms=results("x", num_parameters, ethos=ethos(), lambada=few),
        lambada=results("x", num_parameters, lambada=lambada()),
        more=results("x", num_parameters, lambada=few),
    )
    card = made(model)
    assert "33.25" in card
    assert "11.25" not in card
    assert ethos().title in card


def test_what_cannot_be_is_refused(hf: Path, num_parameters: int, tmp_path: Path) -> None:
    other = put(tmp_path, other=results("x", 7, ethos=ethos()))
    one, two = put(
        tmp_path,
        one=results("x", num_parameters, ethos=ethos()),
        two=results("x", num_parameters, ethos=ethos()),
    )
    (tmp_path / "more").mkdir()
    (same,) = put(tmp_path / "more", one=results("x", num_parameters, lambada=lambada()))
    (tmp_path / "empty.md").write_text(" \n")
    faults = {
        ("--results", *other): f"`--results` must be of this model of {num_parameters:,} parameters, but other.json is of one of 7. Measure this one.",
        ("--results", one, two): "`--results` must have each task once, but one.json and two.json both have ethos. Name those that the card is to show.",
        ("--results", one, same): f"`--results` must be files of different names, but are {one}, {same}. Rename one.",
        ("--intended-use", tmp_path / "empty.md"): f"`--intended-use` must say what the model is for, but {tmp_path / 'empty.md'} is empty. Write it, or leave it out.",
    }  # fmt: skip
    for options, sentence in faults.items():
        with pytest.raises(UserError) as error:
            made(hf, *options)
        assert str(error.value) == sentence
    for options, start in {
        ("--results", tmp_path / "no.json"): f"{tmp_path / 'no.json'} must be results of `metaseq eval --output`",
        ("--intended-use", tmp_path / "no.md"): "`--intended-use` must be a text file that can be read",
    }.items():  # fmt: skip
        with pytest.raises(UserError) as error:
            made(hf, *options)
        assert str(error.value).startswith(start)
    with pytest.raises(UserError, match="must exist"):
        made(tmp_path / "no-model")
