"""The conventions that a machine can hold, checked on the syntax trees of every file of ours.

Each check is a function over one parsed file that returns its faults; each is run on a planted
violation first, then on the package, the tests and the benchmarks.
"""

import ast
import importlib
from pathlib import Path
from typing import Callable, Iterator

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "metaseq_plugin").rglob("*.py"))
ALL = [
    *PACKAGE,
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
]
HOST_PACKAGES = ("fairseq", "fairseq_cli", "fairscale", "hydra", "omegaconf")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

Check = Callable[[str], Iterator[str]]


def long_file(source: str) -> Iterator[str]:
    lines = source.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"1: the file has {lines} lines, more than {MAX_FILE_LINES}"


def long_functions(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {lines} lines, more than {MAX_FUNCTION_LINES}"


def defaults_in_getattr(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if is_call and node.func.id == "getattr" and len(node.args) == 3:  # type: ignore[attr-defined]
            yield f"{node.lineno}: a third argument of getattr is a default with two homes"  # type: ignore[attr-defined]


def no_docstring_first(source: str) -> Iterator[str]:
    body = ast.parse(source).body
    first = body[0] if body else None
    if not (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        yield "1: a module starts with its docstring"


def root_name(node: ast.AST) -> str:
    """``a`` of ``a.b["c"].d``, or "" where the chain starts with something else."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def host_names(tree: ast.AST) -> set[str]:
    """The names that the file's imports bind to things of fairseq and its companions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in HOST_PACKAGES:
                    names.add(alias.asname or alias.name.split(".")[0])
        elif (
            isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in HOST_PACKAGES
        ):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def assigned(node: ast.AST) -> list[ast.expr]:
    """What a statement assigns to or deletes, tuples taken apart."""
    targets: list[ast.expr] = []
    if isinstance(node, (ast.Assign, ast.Delete)):
        targets = list(node.targets)
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        targets = [node.target]
    flat: list[ast.expr] = []
    for target in targets:
        flat += target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
    return flat


def is_host_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.split(".")[0] in HOST_PACKAGES
    )


def assignments_into_hosts(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    names = host_names(tree)
    for node in ast.walk(tree):
        for target in assigned(node):
            into_host = (
                isinstance(target, (ast.Attribute, ast.Subscript)) and root_name(target) in names
            )
            into_modules = isinstance(target, ast.Subscript) and is_host_text(target.slice)
            if into_host or (into_modules and ast.unparse(target.value) == "sys.modules"):  # type: ignore[attr-defined]
                yield f"{target.lineno}: assigns to {ast.unparse(target)}"
        if isinstance(node, ast.Call) and node.args:
            called, first = ast.unparse(node.func).split(".")[-1], node.args[0]
            if called in ("setattr", "delattr", "patch", "object") and (
                root_name(first) in names or is_host_text(first)
            ):
                yield f"{node.lineno}: {ast.unparse(node)}"


PLANTED: list[tuple[Check, str, int]] = [
    (long_file, "x = 1\n" * 401, 1),
    (long_file, "x = 1\n" * 400, 0),
    (long_functions, "def f():\n" + "    x = 1\n" * 60, 1),
    (long_functions, "def f():\n" + "    x = 1\n" * 59, 0),
    (defaults_in_getattr, "getattr(cfg, 'seed', 1)\ngetattr(cfg, 'seed')\n", 1),
    (no_docstring_first, "import os\n", 1),
    (no_docstring_first, "", 1),
    (no_docstring_first, '"""Why."""\nimport os\n', 0),
    (assignments_into_hosts, "import fairseq.utils\nfairseq.utils.x = 1\n", 1),
    (assignments_into_hosts, "from fairseq import utils as u\nu.x, y = 1, 2\n", 1),
    (assignments_into_hosts, "from fairseq.trainer import Trainer\nTrainer.train_step = f\n", 1),
    (assignments_into_hosts, "from fairseq import registry\nregistry.REGISTRIES['x'] = 1\n", 1),
    (assignments_into_hosts, "from fairseq.trainer import Trainer\nsetattr(Trainer, 'x', 1)\n", 1),
    (assignments_into_hosts, "def f():\n    import fairseq\n    del fairseq.x\n", 1),
    (assignments_into_hosts, "import sys\nsys.modules['fairseq.x'] = y\n", 1),
    (assignments_into_hosts, "mock.patch('fairseq.utils.x', 1)\n", 1),
    (
        assignments_into_hosts,
        "from fairseq.tasks import FairseqTask\ntask = FairseqTask()\ntask.x = 1\n",
        0,
    ),
]


@pytest.mark.parametrize(("check", "source", "faults"), PLANTED)
def test_the_check_finds_what_was_planted(check: Check, source: str, faults: int) -> None:
    assert len(list(check(source))) == faults


@pytest.mark.parametrize(
    ("check", "files"),
    [
        (long_file, ALL),
        (long_functions, ALL),
        (no_docstring_first, ALL),
        (defaults_in_getattr, PACKAGE),
        (assignments_into_hosts, [path for path in PACKAGE if path.parent.name != "compat"]),
    ],
)
def test_our_files_have_no_faults(check: Check, files: list[Path]) -> None:
    assert files
    found = [
        f"{path.relative_to(ROOT)}:{fault}" for path in files for fault in check(path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_imports(path: Path) -> None:
    if path.name == "softmax_kernel.py":
        pytest.importorskip("triton", reason="triton comes with PyTorch's CUDA builds only")
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    assert importlib.import_module(name).__name__ == name
