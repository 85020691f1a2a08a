"""LAMBADA, WikiText, the sets' files and the average: figures by hand, and files that are not the sets."""

import math
import re
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.abilities import documents
from metaseq_plugin.evaluate.abilities.average import AVERAGED, average_of
from metaseq_plugin.evaluate.abilities.documents import FORMS, Source
from metaseq_plugin.evaluate.abilities.lm_eval_task import LmEvalTask, f1_of_classes
from metaseq_plugin.evaluate.abilities.record import process_results, word_f1
from metaseq_plugin.evaluate.abilities.task_files import main
from metaseq_plugin.evaluate.abilities.wikitext import RAW, articles, detokenised
from metaseq_plugin.evaluate.requests import Pair, PairAnswer, Whole, WholeAnswer
from metaseq_plugin.evaluate.task import Item, Options
from metaseq_plugin.evaluate.tasks import GROUPS, load
from tests.evaluate.ability_sets import Folder, by_gold, write_lines
from tests.evaluate.ability_sets import documents as rows_of

LAMBADA = "lambada/lambada_openai_test.jsonl"
OPTIONS = Options()


def values(task: Any, records: list[Any]) -> dict[str, float]:
    return {measure.name: measure.value for measure in task.measures(records, OPTIONS)}


def test_lambada_by_hand(tmp_path: Path) -> None:
    write_lines(tmp_path / LAMBADA, [{"text": "a cat  sat"}, {"text": "x\ny z"}])
    task = load("lambada")
    items = task.items(Folder(tmp_path), OPTIONS)
    assert [item.requests for item in items] == [
        (Pair("a cat ", " sat"),),
        (Pair("x\ny", " z"),),
    ]
    answers = (PairAnswer(-1.0, 2, True), PairAnswer(-3.0, 1, False))
    records = [task.record(item, [one], OPTIONS) for item, one in zip(items, answers)]
    found = values(task, records)
    assert found == {"perplexity": pytest.approx(math.exp(2)), "acc": 50.0}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"text": "word"}, "line 1 is not: text is not of two words"),
        ({"text": "word "}, "line 1 is not: text is not of two words"),
        ({"txt": "a b"}, "line 1 is not: it has no text"),
        ({"text": 3}, "line 1 is not: text is not a text but 3"),
        ("{", "line 1 is not: it is not JSON"),
    ],
)
def test_lines_that_are_not_lambadas(tmp_path: Path, line: Any, sentence: str) -> None:
    write_lines(tmp_path / LAMBADA, [line])
    with pytest.raises(UserError, match=re.escape(sentence)):
        load("lambada").items(Folder(tmp_path), OPTIONS)


def test_a_line_with_one_equals_sign_begins_an_article() -> None:
    lines = [" ", " = One = ", " text ", " = = Part = = ", " = = = x = = = ", " = Two = ", "", ""]
    assert articles(lines) == [
        " = One = \n text \n = = Part = = \n = = = x = = = ",
        " = Two = \n\n",
    ]


def test_the_spaces_of_wikitexts_tokens_are_taken_out() -> None:
    given = ' = = A b = = \n the cats \' tails : 1 @.@ 5 @-@ m ( long ) , " tail " ; N = 2 . \n'
    assert detokenised(given) == ' == A b ==\nthe cats\' tails: 1.5-m (long), "tail"; 1 = 2.\n'


def test_wikitext_by_hand(tmp_path: Path) -> None:
    write_lines(tmp_path / RAW.path, [" = A = ", " ab é . ", " = B = ", " c . "])
    task = load("wikitext")
    items = task.items(Folder(tmp_path), OPTIONS)
    assert [item.requests for item in items] == [
        (Whole(" = A =\nab é. "),),
        (Whole(" = B =\nc.\n"),),
    ]
    assert [dict(item.about) for item in items] == [
        {"nwords": 8, "nbytes": 17},
        {"nwords": 7, "nbytes": 14},
    ]
    answers = (WholeAnswer(-10.0, 9, 1), WholeAnswer(-5.0, 4, 1))
    records = [task.record(item, [one], OPTIONS) for item, one in zip(items, answers)]
    assert values(task, records) == {
        "word_perplexity": pytest.approx(math.exp(15 / 15)),
        "byte_perplexity": pytest.approx(math.exp(15 / 31)),
        "bits_per_byte": pytest.approx(15 / 31 / math.log(2)),
    }


def test_the_tokenised_file_is_another_measurement() -> None:
    raw, tokenised = load("wikitext"), load("wikitext-tokenised")
    assert raw.protocol(OPTIONS) != tokenised.protocol(OPTIONS)
    record = {"nwords": 1, "nbytes": 2, "log_likelihood": -1.0}
    assert all("<unk>" in measure.note for measure in tokenised.measures([record], OPTIONS))


@pytest.mark.parametrize("name", ["piqa", "arc-easy", "winogrande", "winograd"])
def test_the_other_forms_say_what_the_hubs_fields_say(tmp_path: Path, name: str) -> None:
    task = load(name)
    assert isinstance(task, LmEvalTask)
    rows = rows_of(name, 0)
    sources = [Source(tmp_path / file.path, file) for file in task.evaluated.files]
    write_lines(sources[0].path, by_gold(name, rows))
    if name == "piqa":
        write_lines(sources[1].path, (str(row["label"]) for row in rows))
    found = FORMS[task.evaluated.form](*sources)
    if name == "winograd":
        row, document = rows[0], found[0]
        assert document["text"].startswith(row["text"][: row["pronoun_loc"]] + "the _ ")
        assert document["options"] == ["cat", "stone"]
    elif name == "winogrande":
        assert found[0] == {
            **rows[0],
            "sentence": "The cat cannot carry the stone because the _ is too big 0.",
        }
    else:
        assert found == list(rows)


@pytest.mark.parametrize(
    ("name", "row", "sentence"),
    [
        ("arc-easy", {"query": "q", "choices": ["a", "b"], "gold": 2}, "gold is not the index of one of 2 but 2"),
        ("arc-easy", {"query": "q", "choices": ["a", 1], "gold": 0}, "choices is not a list of texts"),
        ("arc-easy", {"query": "q", "choices": "ab", "gold": 0}, "choices is not a list but 'ab'"),
        ("winograd", {"context_options": ["a"], "continuation": "b", "gold": 0}, "context_options has 1 texts, not 2"),
        ("winogrande", {"context_options": ["a", "b"], "continuation": "b", "gold": True}, "gold is not a whole number"),
        ("winogrande", {"context_options": ["a", "b"], "gold": 0}, "it has no continuation"),
    ],
)  # fmt: skip
def test_rows_that_are_not_the_sets(tmp_path: Path, name: str, row: Any, sentence: str) -> None:
    task = load(name)
    assert isinstance(task, LmEvalTask)
    source = Source(tmp_path / "rows.jsonl", task.evaluated.files[0])
    write_lines(source.path, [row])
    with pytest.raises(UserError, match=re.escape(f"line 1 is not: {sentence}")):
        FORMS[task.evaluated.form](source)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [(["0"], "it is the last one, and there are 2 questions"), (["0", "2"], "it is 2")],
)
def test_labels_that_are_not_piqas(tmp_path: Path, labels: list[str], sentence: str) -> None:
    task = load("piqa")
    sources = [Source(tmp_path / str(number), file) for number, file in enumerate(task.files[:2])]
    write_lines(sources[0].path, [{"goal": "g", "sol1": "a", "sol2": "b"}] * 2)
    write_lines(sources[1].path, labels)
    with pytest.raises(UserError, match=sentence):
        documents.piqa(*sources)


def test_a_records_worth_is_that_of_the_likeliest_choice() -> None:
    task = load("piqa")
    about = {
        "worth": {"acc": [0.0, 1.0], "acc_norm": [0.0, 1.0], "f1": [[1, 0], [1, 1]]},
        "lengths": [2, 10],
    }
    answers = [PairAnswer(-4.0, 1, False), PairAnswer(-5.0, 1, False)]  # -2 and -0.5 a character
    found = task.record(Item("1", (), about), answers, OPTIONS)
    assert found == {
        "log_likelihoods": [-4.0, -5.0],
        "worth": {"acc": 0.0, "acc_norm": 1.0, "f1": [1, 0]},
    }
    assert values(task, [found, found])["acc_norm"] == 100.0


def test_the_f1_of_classes_by_hand() -> None:
    # class 0: TP 1, FN 1; class 1: TP 1, FP 1; class 2 is neither right nor chosen
    pairs = [(0, 0), (0, 1), (1, 1)]
    assert f1_of_classes(pairs) == pytest.approx(100 * (2 / 3 + 2 / 3 + 0) / 3)


def test_records_figures_by_hand() -> None:
    assert word_f1("the old Cat!", "cat") == pytest.approx(2 / 3)
    assert word_f1("a", "the") == 1.0
    document = {"entities": ["tree", "cat", "cat"], "answers": ["The cat.", "dog"]}
    assert process_results(document, [(0.0, False), (-1.0, False)]) == {"f1": 1.0, "em": 1.0}
    assert process_results(document, [(-1.0, False), (0.0, False)]) == {"f1": 0.0, "em": 0.0}


def test_the_average_says_over_how_many_tasks_it_is() -> None:
    assert len(GROUPS["abilities"]) == 16
    assert len(AVERAGED) == 14
    found = average_of({"piqa": 60.0, "cb": 50.0, "wic": 0.0, "lambada": 0.0})
    assert found.value == 55.0
    assert found.tasks == ("piqa", "cb")
    assert found.line.startswith(
        "average of 2 of the paper's 14 tasks: 55.00; not measured: hellaswag, "
    )
    whole = average_of(dict.fromkeys(GROUPS["abilities"], 10.0))
    assert whole.line == "average of 14 of the paper's 14 tasks: 10.00"


def test_without_lm_eval_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("metaseq_plugin.evaluate.abilities.lm_eval_task.version", version)
    with pytest.raises(
        UserError, match=r"lm_eval must be .* pip install 'metaseq-plugin\[lm-eval\]'"
    ):
        load("piqa").protocol(OPTIONS)


@pytest.mark.parametrize("shots", [-1, 6])
def test_more_shots_than_examples_are_refused(shots: int) -> None:
    task = load("winograd")
    assert isinstance(task, LmEvalTask)
    with pytest.raises(UserError, match=f"`--shots` must be from 0 to the 5 .* but is {shots}"):
        task.check_shots(shots, 6)
    replace(task, examples=task.evaluated).check_shots(6, 6)


def test_a_folder_without_data_has_no_task_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), str(tmp_path / "tasks")]) == 2
    assert "`DATA` must hold the files of a task of abilities" in capsys.readouterr().err
