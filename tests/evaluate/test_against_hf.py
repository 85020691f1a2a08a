"""lm_eval's numbers: of ``metaseq_opt``, of its own ``hf``, and of its ``local-completions`` asking our server."""

from pathlib import Path
from typing import Any, Iterator

import pytest

from metaseq_plugin.evaluate.model import LocalModel
from metaseq_plugin.evaluate.requests import Pair, PairAnswer, Whole, WholeAnswer
from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.serve.app import build
from metaseq_plugin.serve.loading import make_batch
from metaseq_plugin.serve.options import Options
from metaseq_plugin.serve.service import Service
from tests.evaluate.tiny_tasks import LEARNT, TASKS, Forms, trained_opt, write_forms, write_tasks
from tests.serve.live import running
from tests.serve.tiny import NAME, POSITIONS

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed")
pytestmark = pytest.mark.slow

WHAT_A_SERVER_CUTS_ALIKE = [name for name in TASKS if name != "tiny_long_text"]


class Told(dict[str, list[Any]]):
    """What the model answered to each task's documents, what it was asked, and the table that lm_eval prints."""

    table: str
    asked: dict[str, list[tuple[str, ...]]]


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from lm_eval.tasks import TaskManager

    folder = write_tasks(tmp_path_factory.mktemp("lm_eval") / "tasks")
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluate(tasks: Any, names: list[str], asked: str, at_once: Any, /, **arguments: Any) -> Told:
    from lm_eval.utils import make_table

    results = lm_eval.simple_evaluate(
        asked, arguments, names, batch_size=at_once, task_manager=tasks, bootstrap_iters=0,
        device=None if asked == "local-completions" else "cpu",
    )  # fmt: skip
    assert results is not None
    told = Told()
    told.asked = {}
    for name in names:
        samples = sorted(results["samples"][name], key=lambda sample: int(sample["doc_id"]))
        told[name] = [sample["filtered_resps"] for sample in samples]
        given = [sample["arguments"] for sample in samples]
        told.asked[name] = [tuple(one) for of_one in given for one in of_one]
    told.table = make_table(results)
    return told


@pytest.fixture(scope="module")
def hf(tasks: Any, forms: Forms) -> Told:
    pytest.importorskip("accelerate", reason="lm_eval's class hf needs accelerate")
    return evaluate(tasks, list(TASKS), "hf", 1, pretrained=str(forms.hf), dtype="float32")


@pytest.fixture(scope="module")
def ours(tasks: Any, forms: Forms) -> Told:
    return evaluate(tasks, list(TASKS), "metaseq_opt", "auto", path=str(forms.ours))


def numbers(answers: Any) -> Iterator[Any]:
    """The log-probabilities, flags and texts of nested answers, in order."""
    if isinstance(answers, (list, tuple)):
        for answer in answers:
            yield from numbers(answer)
    else:
        yield answers


def check_alike(found: Told, expected: Told) -> None:
    for name, answers in found.items():
        for one, other in zip(numbers(answers), numbers(expected[name]), strict=True):
            alike = pytest.approx(other, abs=1e-4, rel=1e-6) if isinstance(other, float) else other
            assert one == alike, name


def test_the_answers_are_hfs_to_the_printed_digit(ours: Told, hf: Told) -> None:
    check_alike(ours, hf)
    assert ours.table == hf.table
    written = list(numbers(ours["tiny_writing"]))
    assert len(written) == 4
    assert all(text and "e" not in text for text in written)


def test_a_trained_models_are_too(tasks: Any, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="lm_eval's class hf needs accelerate")
    forms = write_forms(tmp_path, trained_opt)
    names = [*TASKS, *LEARNT]
    ours = evaluate(tasks, names, "metaseq_opt", "auto", path=str(forms.ours))
    hf = evaluate(tasks, names, "hf", 1, pretrained=str(forms.hf), dtype="float32")
    check_alike(ours, hf)
    assert ours.table == hf.table
    assert any(is_greedy for _, is_greedy in pairs(ours["tiny_lambada"]))  # it has learnt something
    check_model_alike(LocalModel(forms.opt), hf)


def test_an_evaluation_of_ours_asks_for_the_same_numbers(forms: Forms, hf: Told) -> None:
    check_model_alike(LocalModel(forms.opt), hf)


def check_model_alike(model: LocalModel, hf: Told) -> None:
    """What lm_eval asked ``hf``, as requests of ours, to 1e-4 a token."""
    for name in hf.keys() & {"tiny_choice", "tiny_pairs", "tiny_last_word", "tiny_lambada"}:
        requests = [Pair(*asked) for asked in hf.asked[name]]
        answers = dict(model.answer(requests))
        for index, (expected, is_greedy) in enumerate(pairs(hf[name])):
            found = answers[index]
            assert isinstance(found, PairAnswer)
            assert found.log_likelihood == pytest.approx(expected, abs=1e-4 * found.ntokens)
            assert (found.is_greedy, found.is_merged, found.ncut) == (is_greedy, False, 0)
    for name in hf.keys() & {"tiny_texts", "tiny_long_text", "tiny_wikitext"}:
        texts = [Whole(*asked) for asked in hf.asked[name]]
        answers = dict(model.answer(texts))
        for index, expected in enumerate(numbers(hf[name])):
            whole = answers[index]
            assert isinstance(whole, WholeAnswer)
            assert whole.log_likelihood == pytest.approx(expected, abs=1e-4 * whole.ntokens)


def pairs(answers: Any) -> list[tuple[float, bool]]:
    found = list(numbers(answers))
    return list(zip(found[::2], found[1::2], strict=True))


def test_one_row_at_a_time_gives_the_same(tasks: Any, ours: Told, forms: Forms) -> None:
    check_alike(evaluate(tasks, list(TASKS), "metaseq_opt", 1, path=str(forms.ours)), ours)


@pytest.mark.parametrize(("prompts", "requests"), [(4, 1), (2, 3)])
def test_a_server_gives_the_same(
    tasks: Any, ours: Told, forms: Forms, prompts: int, requests: int
) -> None:
    """With so many prompts in a request, and so many requests at once."""
    pytest.importorskip("tenacity", reason="lm_eval's local-completions needs tenacity")
    service = Service(Options(name=NAME))
    engine = Engine(make_batch(forms.opt, 4096), 4096, 16)
    service.open(forms.opt, engine)
    try:
        with running(build(service), service) as url:
            served = evaluate(
                tasks, WHAT_A_SERVER_CUTS_ALIKE, "local-completions", prompts,
                model=NAME, base_url=f"{url}v1/completions", tokenizer=str(forms.hf),
                add_bos_token=True, max_length=POSITIONS,
                num_concurrent=requests,
            )  # fmt: skip
    finally:
        engine.close(drains=False)
    check_alike(served, Told({name: ours[name] for name in WHAT_A_SERVER_CUTS_ALIKE}))
    assert set(rows_of(served.table)) < set(rows_of(ours.table))


def rows_of(table: str) -> list[str]:
    """What lm_eval prints, without the widths of its columns; the name of a task in each row."""
    rows = []
    name = ""
    for line in table.splitlines()[2:]:
        first, *others = [cell.strip() for cell in line.split("|")[1:-1]]
        name = first or name
        rows.append(" ".join([name, *others]))
    return rows
