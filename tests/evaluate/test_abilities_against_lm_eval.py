"""The paper's tasks, LAMBADA and WikiText: the figures are those that ``lm_eval`` gives the same model and documents.

The model is a hash of what it is asked, so a question that differs in one letter would change the figures.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, Mapping, Optional

import pytest

from metaseq_plugin.evaluate.abilities.lm_eval_task import LmEvalTask
from metaseq_plugin.evaluate.abilities.record import word_f1, words
from metaseq_plugin.evaluate.abilities.task_files import write_task_files
from metaseq_plugin.evaluate.abilities.wikitext import articles
from metaseq_plugin.evaluate.model import LocalModel
from metaseq_plugin.evaluate.task import Measure, Options, Task
from metaseq_plugin.evaluate.tasks import GROUPS, load
from metaseq_plugin.hub import OPT
from tests.evaluate.ability_sets import Folder, HashModel, by_gold, documents, hashed, write_lines
from tests.evaluate.tiny_tasks import Forms

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed")
pytestmark = pytest.mark.slow

WIKI = """ \n = The cat = \n \n The cat 's " tail " is 1 @.@ 5 m long ; it is <unk> .
 = = Food = = \n It eats ( mostly ) mice , fish . \n \n = Dogs = \n \n Dogs ' food is other food : bones . \n"""
LAMBADA = ("the cat sat on the mat", "a dog ate\nits dinner", "why did the naïve café close?")


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module", autouse=True)
def squads_figures() -> Iterator[None]:
    """lm_eval's ``record`` takes them from a module that transformers 5 does not have."""
    name = "transformers.data.metrics"
    module = ModuleType(f"{name}.squad_metrics")
    vars(module).update(compute_f1=lambda right, said: word_f1(said, right))
    vars(module).update(compute_exact=lambda right, said: int(words(said) == words(right)))
    with pytest.MonkeyPatch.context() as patch:
        import transformers.data

        package = ModuleType(name)
        patch.setattr(package, "squad_metrics", module, raising=False)
        patch.setattr(transformers.data, "metrics", package, raising=False)
        patch.setitem(sys.modules, name, package)
        patch.setitem(sys.modules, f"{name}.squad_metrics", module)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that a task of ours reads."""
    folder = tmp_path_factory.mktemp("data")
    for name in GROUPS["abilities"]:
        task = load(name)
        assert isinstance(task, LmEvalTask)
        for split, shift in ((task.evaluated, 0), (task.examples, 3)):
            if split is None:
                continue
            rows = documents(name, shift)
            plain = split.form == "fields"
            write_lines(folder / split.files[0].path, rows if plain else by_gold(name, rows))
            if split.form == "piqa":
                write_lines(folder / split.files[1].path, (str(row["label"]) for row in rows))
    write_lines(folder / "lambada/lambada_openai_test.jsonl", ({"text": text} for text in LAMBADA))
    write_lines(folder / "wikitext-2-raw/wiki.test.raw", [WIKI])
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lm_eval's own tasks on the same documents, which its own reader reads."""
    folder = tmp_path_factory.mktemp("reference")
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    tasks = Path(spec.origin).parent / "tasks"
    for name in GROUPS["abilities"]:
        task = load(name)
        assert isinstance(task, LmEvalTask)
        splits = {task.evaluated.name: documents(name, 0)}
        if task.examples is not None:
            splits[task.examples.name] = documents(name, 3)
        place = "super_glue/record/default.yaml" if name == "record" else task.place
        write_reference(folder, name, tasks / place, splits)
    texts = [{"text": text} for text in LAMBADA]
    write_reference(folder, "lambada", tasks / "lambada/lambada_openai.yaml", {"test": texts})
    pages = [{"page": page} for page in articles(f"{WIKI}\n".split("\n"))]
    write_reference(folder, "wikitext", tasks / "wikitext/wikitext.yaml", {"test": pages})
    return folder


def write_reference(folder: Path, name: str, place: Path, splits: Mapping[str, Any]) -> None:
    files = {}
    for split, rows in splits.items():
        files[split] = str(folder / f"{name}-{split}.jsonl")
        write_lines(Path(files[split]), rows)
    values: dict[str, Any] = {
        "include": str(place),
        "task": f"reference_{name}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
    }
    own = {"train": "training_split", "validation": "validation_split", "test": "test_split"}
    values.update({own[split]: split if split in files else None for split in own})
    if name == "winograd":
        values["fewshot_split"] = "test"  # lm_eval would take a document as its own example
    (folder / f"{name}.yaml").write_text(
        "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    )


def hash_lm() -> Any:
    """``HashModel`` as lm_eval asks it."""
    from lm_eval.api.model import LM

    class HashLM(LM):
        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            return [hashed(*request.args) for request in requests]

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            return [hashed(*request.args)[0] for request in requests]

        def generate_until(self, requests: Any) -> list[str]:
            raise AssertionError("no task of these generates")

    return HashLM()


def lm_evals(
    folder: Path, names: list[str], shots: Optional[int] = None, lm: Any = None, **arguments: Any
) -> Any:
    """lm_eval's figures of ``hash_lm`` or another model: task -> measure -> value."""
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        lm or hash_lm(), model_args=arguments or None, tasks=names, device="cpu", batch_size=1, num_fewshot=shots, fewshot_random_seed=1, bootstrap_iters=2,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )  # fmt: skip
    assert found is not None
    return found["results"]


def measured(task: Task, data: Path, options: Options, model: Any = None) -> dict[str, Measure]:
    items = task.items(Folder(data), options)
    model = model or HashModel()
    records = []
    for item in items:
        answers = dict(model.answer(item.requests))
        own = [answers[place] for place in range(len(item.requests))]
        # what is kept is JSON
        records.append(json.loads(json.dumps(task.record(item, own, options))))
    return {measure.name: measure for measure in task.measures(records, options)}


@pytest.mark.parametrize("shots", [0, 2])
def test_the_papers_tasks_have_lm_evals_figures(data: Path, reference: Path, shots: int) -> None:
    names = GROUPS["abilities"]
    expected = lm_evals(reference, [f"reference_{name}" for name in names], shots)
    for name in names:
        told = expected[f"reference_{name}"]
        found = measured(load(name), data, Options(shots=shots))
        metrics = {
            key.split(",")[0] for key in told if key.endswith(",none") and "stderr" not in key
        }
        assert set(found) == metrics, name
        for metric, measure in found.items():
            assert measure.value == pytest.approx(100 * told[f"{metric},none"], abs=1e-9), name
            assert measure.n == 6
            if measure.interval is None:
                error = 100 * told[f"{metric}_stderr,none"]
                assert measure.stderr == pytest.approx(error, abs=1e-9), name


def test_the_stock_lm_eval_reads_our_task_files(data: Path, tmp_path: Path) -> None:
    write_task_files(data, tmp_path / "tasks")
    for name in ("piqa", "winograd"):
        asked = f"metaseq_{name}"
        told = lm_evals(tmp_path / "tasks", [asked], 2)[asked]
        found = measured(load(name), data, Options(shots=2))
        assert found["acc"].value == pytest.approx(100 * told["acc,none"], abs=1e-9)


def test_lambada_and_wikitext_have_lm_evals_figures(data: Path, reference: Path) -> None:
    told = lm_evals(reference, ["reference_lambada", "reference_wikitext"])
    lambada = measured(load("lambada"), data, Options())
    assert lambada["perplexity"].value == pytest.approx(
        told["reference_lambada"]["perplexity,none"]
    )
    assert lambada["acc"].value == pytest.approx(100 * told["reference_lambada"]["acc,none"])
    wikitext = measured(load("wikitext"), data, Options())
    for name, measure in wikitext.items():
        assert measure.value == pytest.approx(told["reference_wikitext"][f"{name},none"]), name
    assert set(wikitext) == {"word_perplexity", "byte_perplexity", "bits_per_byte"}


def test_limit_and_seed(data: Path) -> None:
    task = load("piqa")
    whole = task.items(Folder(data), Options(shots=2))
    assert task.items(Folder(data), Options(shots=2, limit=2)) == whole[:2]
    assert task.items(Folder(data), Options(shots=2)) == whole
    assert task.items(Folder(data), Options(shots=2, seed=2)) != whole


def test_a_document_is_no_example_of_itself(data: Path) -> None:
    for item in load("winograd").items(Folder(data), Options(shots=5)):
        contexts = [request.context for request in item.requests]  # type: ignore[union-attr]
        assert all(context.count("too big") == 5 for context in contexts)
        (number,) = {request.continuation[-2] for request in item.requests}  # type: ignore[union-attr]
        assert all(f"too big {number}." not in context for context in contexts)


def test_a_model_in_process_has_the_figures_of_lm_evals_hf(
    data: Path, reference: Path, forms: Forms
) -> None:
    pytest.importorskip("accelerate", reason="lm_eval's class hf needs accelerate")
    names = ["piqa", "winogrande", "rte", "lambada", "wikitext"]
    expected = lm_evals(
        reference, [f"reference_{name}" for name in names], None, "hf",
        pretrained=str(forms.hf), dtype="float32",
    )  # fmt: skip
    model = LocalModel(OPT.from_pretrained(str(forms.ours), device="cpu"))
    for name in names:
        for metric, measure in measured(load(name), data, Options(), model).items():
            told = expected[f"reference_{name}"][f"{metric},none"]
            scale = 100 if metric.startswith("acc") else 1
            assert measure.value == pytest.approx(scale * told, rel=1e-5), (name, metric)
