"""``metaseq eval calibrate``: on look-alikes of the sets, and on the real ones where they lie."""

import argparse
import json
from pathlib import Path

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.dialogue import diasafety
from metaseq_plugin.evaluate.toxicity import calibrate, hatecheck
from metaseq_plugin.evaluate.toxicity.records import SUBSETS
from tests.evaluate.toxicity.fakes import Folder, web_sentence

REAL = Path(__file__).resolve().parents[4] / "shared/data/eval"
CASES = [
    ("slur_h", "you ass", "hateful"),
    ("slur_h", "you donkey", "hateful"),
    ("profanity_nh", "my ass hurts", "non-hateful"),
    ("ident_neutral_nh", "I am a baker", "non-hateful"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    found = Folder(tmp_path)
    found.write_lines(SUBSETS[0], [web_sentence("an ass", 0.9, "fine", 0.1)])
    found.write_lines(SUBSETS[1], [web_sentence("good", 0.1, "a fool", 0.5), web_sentence("x", None, "ass", None)])  # fmt: skip
    rows = "".join(
        f"{n},{name},{n},{text},{label}\n" for n, (name, text, label) in enumerate(CASES)
    )
    found.write(hatecheck.FILE, f",functionality,case_id,test_case,label_gold\n{rows}")
    replies = [
        {"context": "a", "response": response, "category": "Offending User", "label": label}
        for response, label in (("you ass", "Unsafe"), ("you fool", "Unsafe"), ("dear", "Safe"))
    ]
    found.write(diasafety.FILE, json.dumps(replies))
    (tmp_path / "words.txt").write_text("ass\n")
    return found


def calibrated(folder: Path, *words: str) -> None:
    parser = argparse.ArgumentParser()
    calibrate.add_arguments(parser)
    calibrate.run(parser.parse_args([*words, "--data", str(folder)]))


def test_figures_by_hand(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder.path / "calibration.json"
    calibrated(folder.path, "--scorer", f"lexicon:{folder.path / 'words.txt'}", "--any-data", "--output", str(output))  # fmt: skip
    found = json.loads(output.read_text())
    assert found["scorer"]["measure"] == "lexicon_rate"
    assert found["ncut"] == 0
    # positive: "an ass" (found), "a fool" (not); others "fine", "good": of 4 pairs 2 won, 2 even
    web = found["sets"]["real-toxicity-prompts"]
    assert web["all"] == {"n": 4, "npositive": 2, "auc": 0.75, "precision": 1, "recall": 0.5, "f1": 2 / 3, "accuracy": 0.75}  # fmt: skip
    assert web["prompts"]["auc"] == 1
    assert web["continuations"]["auc"] == 0.5
    assert web["continuations"]["precision"] is None
    checks = found["sets"]["hatecheck"]
    assert checks["all"]["accuracy"] == 0.5
    assert checks["slur_h"] == {"n": 2, "npositive": 2, "accuracy": 0.5}
    assert checks["profanity_nh"] == {"n": 1, "npositive": 0, "accuracy": 0}
    assert checks["ident_neutral_nh"]["accuracy"] == 1
    assert found["sets"]["diasafety"]["offending user"]["recall"] == 0.5
    assert len(found["data"]) == 4
    printed = capsys.readouterr().out
    assert "real-toxicity-prompts, lexicon_rate from 0.5 on" in printed
    assert printed.count("AUC") == 3


def test_one_set_needs_no_other(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    diasafety_file = folder.open(diasafety.FILE)
    diasafety_file.unlink()
    calibrated(folder.path, "hatecheck", "--scorer", f"lexicon:{folder.path / 'words.txt'}", "--any-data")  # fmt: skip
    assert "slur_h" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"must hold diasafety/test.json.*github.com/thu-coai/DiaSafety"):  # fmt: skip
        calibrated(folder.path, "--scorer", f"lexicon:{folder.path / 'words.txt'}", "--any-data")


def test_what_is_refused(folder: Folder) -> None:
    scorer = f"lexicon:{folder.path / 'words.txt'}"
    with pytest.raises(UserError, match="`SET` must be one of real-toxicity-prompts, hatecheck, diasafety, but is ethos"):  # fmt: skip
        calibrated(folder.path, "ethos", "--scorer", scorer)
    with pytest.raises(UserError, match="must have the SHA-256 ecf0dc1e93"):
        calibrated(folder.path, "hatecheck", "--scorer", scorer)
    with pytest.raises(UserError, match="`--output` must be a file that can be written"):
        calibrated(folder.path, "hatecheck", "--scorer", scorer, "--any-data", "--output", "/no/such/x.json")  # fmt: skip
    folder.write(hatecheck.FILE, ",functionality,test_case,label_gold\n0,slur_h,you ass,rude\n")
    with pytest.raises(UserError, match="label_gold is not one of hateful, non-hateful but 'rude'"):
        calibrated(folder.path, "hatecheck", "--scorer", scorer, "--any-data")
    folder.write(hatecheck.FILE, ",functionality,label_gold\n0,slur_h,hateful\n")
    with pytest.raises(UserError, match="it has no column test_case"):
        calibrated(folder.path, "hatecheck", "--scorer", scorer, "--any-data")


def test_the_real_sets(tmp_path: Path) -> None:
    """The lexicon's AUC on the stored labels is .786, its precision .98, its recall .58 (benchmarked before)."""
    if not REAL.is_dir():
        pytest.skip(f"the evaluation sets are not in {REAL}")
    words = REAL / "lexicon/list_of_naughty_and_bad_words.txt"
    output = tmp_path / "calibration.json"
    calibrated(REAL, "--scorer", f"lexicon:{words}", "--output", str(output))
    sets = json.loads(output.read_text())["sets"]
    web = sets["real-toxicity-prompts"]["all"]
    assert (web["n"], web["npositive"]) == (4773, 2107)
    assert [round(web[name], 3) for name in ("auc", "precision", "recall")] == [0.786, 0.98, 0.582]
    assert sets["hatecheck"]["all"]["n"] == 3728
    assert len(sets["hatecheck"]) == 1 + 29
    assert sets["diasafety"]["all"]["n"] == 1095
