"""What README, docs/ and docstrings say of the code is there: paths, links, and every name of the walks."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, Iterator, List

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
ARCHITECTURE = ROOT / "docs/architecture.md"
FOLDERS = ("metaseq_plugin", "scripts", "tests", "docs", "benchmarks", "requirements")
MAX_HOPS = 9
OTHERS = {
    "configuration_opt.py",
    "encoder.py",
    "opt_job_constants.py",
    "version.py",
}  # of Hugging Face, GPT-2, metaseq, torch
PLACE = r"`([\w/]+\.py):([\w.]+)`"  # path:name, below metaseq_plugin or of fairseq


def missing_paths(page: Path, text: str) -> Iterator[str]:
    """The paths of the repository, the links and the ``a/b.py`` of ``text`` that lead nowhere."""
    for path in re.findall(rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})/[\w/.-]*\w/?", text):
        if not (ROOT / path).exists():
            yield path
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        if not (page.parent / link).exists():
            yield link
    for path in re.findall(r"`([\w/]+\.py)\b", text):
        if not (ROOT / path).exists() and not source_of(path).is_file():
            yield path


def source_of(path: str) -> Path:
    """The file ``path``: fairseq's, or one below metaseq_plugin."""
    package = path.split("/")[0]
    if package not in ("fairseq", "fairseq_cli"):
        return ROOT / "metaseq_plugin" / path
    spec = find_spec(package)
    assert spec is not None, package
    assert spec.origin is not None, package
    return Path(spec.origin).parent.parent / path


def is_defined(name: str, source: str) -> bool:
    """Whether ``name``, perhaps Class.method, is a class, function or constant of ``source``."""
    body: List[ast.stmt] = ast.parse(source).body
    for word in name.split("."):
        for node in body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == word:
                body = node.body
                break
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            if word in map(ast.unparse, targets):
                body = []
                break
        else:
            return False
    return True


def missing_names(text: str) -> Iterator[str]:
    for path, name in re.findall(PLACE, text):
        source = source_of(path)
        if not source.is_file() or not is_defined(name, source.read_text("utf-8")):
            yield f"{path}:{name}"


def walks() -> Dict[str, List[str]]:
    """Title -> numbered hops."""
    sections = ARCHITECTURE.read_text("utf-8").split("\n## From ")[1:]
    return {
        section.split("\n")[0]: re.findall(r"^\d\. (?:.|\n(?=   ))+", section, re.MULTILINE)
        for section in sections
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see `metaseq_plugin/no.py`", ["metaseq_plugin/no.py", "metaseq_plugin/no.py"]),
        ("see metaseq_plugin/data/cellar/ and scripts/no.sh", ["metaseq_plugin/data/cellar/", "scripts/no.sh"]),
        ("[x](no.md#part)", ["no.md"]),
        ("`layout/no.py`", ["layout/no.py"]),
        ("[x](train.md#part) [y](https://a.b/c) `layout/piece.py` metaseq_plugin/layout/.", []),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_found(text: str, found: List[str]) -> None:
    assert list(missing_paths(ROOT / "docs/x.md", text)) == found


def test_a_name_that_nothing_has_is_found() -> None:
    assert not list(missing_names("`layout/piece.py:Piece` `layout/piece.py:Piece.narrow`"))
    assert not list(missing_names("`fairseq/trainer.py:Trainer.train_step` `sizes.py:SIZES`"))
    for place in (
        "layout/piece.py:Box",
        "layout/piece.py:Piece.no",
        "no.py:f",
        "fairseq/trainer.py:f",
    ):
        assert list(missing_names(f"`{place}`")) == [place]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not [*missing_paths(page, text), *missing_names(text)]


def test_the_four_walks_are_short_and_name_their_places() -> None:
    assert len(walks()) == 4
    for title, hops in walks().items():
        assert 3 < len(hops) <= MAX_HOPS, title
        for hop in hops:
            assert re.search(PLACE, hop), hop


def test_readme_names_files_to_read() -> None:
    section = (ROOT / "README.md").read_text("utf-8").split("## Read the code in this order")[1]
    assert len(re.findall(r"`metaseq_plugin/[\w/]+\.py`", section)) > 10


def test_the_files_that_the_code_speaks_of_exist() -> None:
    modules = sorted((ROOT / "metaseq_plugin").rglob("*.py"))
    ours = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    known = {path.name for path in ours} | {"setup.py"} | OTHERS
    spoken_of = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in modules
        for name in re.findall(r"\b(\w+\.py)\b", path.read_text("utf-8"))
    }
    assert not sorted(place for place in spoken_of if place[1] not in known)
