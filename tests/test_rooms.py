"""The order of the rooms: who may import whom, what crosses a wall, and where a run's state may not be.

The tables below are the rules; each check is a function over sources that returns its faults, and is
run on planted violations first, then on the package. ``scripts/architecture.py`` reads the imports.
"""

import ast
import subprocess
import sys
from typing import Callable, Dict, Iterator, List, Mapping, Set, Tuple

import pytest

from scripts.architecture import LEVELS, PAGE, ROOT, edges, package_sources, read_imports, redrawn

Sources = Mapping[str, str]  # path -> source
Check = Callable[[Sources], Iterator[str]]

# A room imports rooms of lower levels, but for those that it may NEVER,
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
NEVER = {
    "serve": {"models"},  # through hub or generation only
    "evaluate": {"models"},
    "metaseq_plugin": {
        "hub",
        "cli",
        "serve",
        "evaluate",
    },  # `import metaseq_plugin` registers, no more
}
# and none of its own level but SIBLINGS.
SIBLINGS = {
    "checkpoint": {"distributed"},  # a set holds what the ranks hold
    "serve": {"hub"},
    "evaluate": {"hub"},
}
# What a process keeps in a module all the same, with the reason.
KEPT = {
    "metaseq_plugin/compat/host.py:_Registered": "the one host; None gives all back to fairseq",
    "metaseq_plugin/compat/startup.py:REPORT": "what each seam said, for `metaseq doctor`",
    "metaseq_plugin/data/processes.py:_Inherited": "what a forked worker was started for",
    "metaseq_plugin/distributed/run.py:_Process": "the run that this process is in; `reset` ends it",
}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
MADE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.Call)
CHANGING = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft",
    "remove", "reverse", "setdefault", "sort", "update",
}  # fmt: skip


def against_the_order(sources: Sources) -> Iterator[str]:
    for found in read_imports(sources):
        importer, imported = found.importer, found.imported
        where = f"{found.path}:{found.line}: {importer}"
        unknown = {importer, imported} - LEVEL.keys()
        if unknown:
            yield f"{where}: {', '.join(unknown)} stands on no level of scripts/architecture.py"
        elif importer == imported:
            continue
        elif LEVEL[imported] > LEVEL[importer]:
            yield f"{where} (level {LEVEL[importer]}) imports {imported} (level {LEVEL[imported]})"
        elif LEVEL[imported] == LEVEL[importer] and imported not in SIBLINGS.get(importer, ()):
            yield f"{where} imports {imported}, which stands on its level"
        elif imported in NEVER.get(importer, ()):
            yield f"{where} imports {imported}, which it never may"


def cycles(sources: Sources) -> Iterator[str]:
    """The rooms that are left once those that import no other are taken away, again and again."""
    needs: Dict[str, Set[str]] = {}
    for importer, imported in edges(read_imports(sources)):
        needs.setdefault(importer, set()).add(imported)
        needs.setdefault(imported, set())
    while free := [room for room, others in needs.items() if not others & needs.keys()]:
        for room in free:
            del needs[room]
    if needs:
        yield f"a cycle goes through {', '.join(sorted(needs))}"


def underscored_across_rooms(sources: Sources) -> Iterator[str]:
    crossing = [found for found in read_imports(sources) if found.importer != found.imported]
    for found in crossing:
        words = [*found.module.split("."), found.name]
        if any(map(is_underscored, words)):
            yield f"{found.path}:{found.line}: {'.'.join(words)}"
    for path, source in sources.items():
        modules = {found.bound for found in crossing if found.path == path and not found.name}
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Attribute) or not is_underscored(node.attr):
                continue
            if ast.unparse(node.value) in modules:
                yield f"{path}:{node.lineno}: {ast.unparse(node)}"


def is_underscored(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def state_in_modules(sources: Sources) -> Iterator[str]:
    for path, source in sources.items():
        tree = ast.parse(source)
        holders = {name for name in holders_of_state(tree) if f"{path}:{name}" not in KEPT}
        for function in (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)):
            for name in sorted(changed_names(function) & (holders - own_names(function))):
                yield f"{path}:{function.lineno}: changes {name} of its module"
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                yield f"{path}:{node.lineno}: global {', '.join(node.names)}"


def holders_of_state(tree: ast.Module) -> Iterator[str]:
    """The module's own classes, and the names that it gives to a list, dict, set or other new object."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, MADE):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def own_names(function: ast.AST) -> Set[str]:
    """The names that are the function's own: parameters, and what it assigns."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def changed_names(function: ast.AST) -> Set[str]:
    """The names of what the function changes in place: an item, an attribute, or by a list's methods."""
    changed: List[ast.expr] = []
    for node in ast.walk(function):
        if isinstance(node, (ast.Subscript, ast.Attribute)):
            is_method = isinstance(node, ast.Attribute) and node.attr in CHANGING
            if is_method or not isinstance(node.ctx, ast.Load):
                changed.append(node.value)
    return {node.id for node in changed if isinstance(node, ast.Name)}


PLANTED: List[Tuple[Check, str, str]] = [
    # upwards, in every way that a module can be loaded
    (against_the_order, "layout/a.py", "from metaseq_plugin.models.opt import OPTConfig"),
    (against_the_order, "layout/a.py", "import metaseq_plugin.models.opt"),
    (against_the_order, "layout/a.py", "from metaseq_plugin import models"),
    (against_the_order, "layout/a.py", "from ..models import opt"),
    (against_the_order, "layout/a.py", "def f():\n    from metaseq_plugin.models import opt"),
    (against_the_order, "layout/a.py", "if TYPE_CHECKING:\n    import metaseq_plugin.models.opt"),
    (against_the_order, "layout/a.py", "import_module('metaseq_plugin.models.opt')"),
    (against_the_order, "layout/a.py", "import_module(f'metaseq_plugin.models.{name}')"),
    (against_the_order, "compat/door.py", "import metaseq_plugin.layout.piece"),
    (against_the_order, "compat/door.py", "import metaseq_plugin.cli"),
    (against_the_order, "hub.py", "import metaseq_plugin"),
    # sideways
    (against_the_order, "layout/a.py", "import metaseq_plugin.sizes"),
    (against_the_order, "tokenizers/a.py", "import metaseq_plugin.layout.piece"),
    (against_the_order, "models/opt.py", "import metaseq_plugin.distributed.run"),
    (against_the_order, "models/opt.py", "import metaseq_plugin.checkpoint.save"),
    (against_the_order, "criterions/a.py", "import metaseq_plugin.models.opt"),
    (against_the_order, "checkpoint/load.py", "import metaseq_plugin.data.files"),
    (against_the_order, "data/files.py", "import metaseq_plugin.checkpoint.save"),
    (against_the_order, "distributed/run.py", "import metaseq_plugin.checkpoint.save"),
    (against_the_order, "formats/a.py", "import metaseq_plugin.generation.generator"),
    (against_the_order, "launch/a.py", "import metaseq_plugin.tasks.opt_dummy_lm"),
    # past the door, and to where no room is
    (against_the_order, "serve/a.py", "from metaseq_plugin.models.opt import OPTConfig"),
    (against_the_order, "evaluate/a.py", "from metaseq_plugin.models.opt import OPTConfig"),
    (against_the_order, "cellar/a.py", "import metaseq_plugin.sizes"),
    # round in a circle: with what the package of ``faults`` imports
    (cycles, "layout/piece.py", "import metaseq_plugin.models.opt"),
    (cycles, "distributed/run.py", "def f():\n    import metaseq_plugin.checkpoint.save"),
    # names that are another room's own
    (underscored_across_rooms, "layout/a.py", "from metaseq_plugin.compat.door import _stand_in"),
    (underscored_across_rooms, "layout/a.py", "from metaseq_plugin.compat import _door"),
    (underscored_across_rooms, "layout/a.py", "from metaseq_plugin.compat import door\ndoor._x()"),
    (underscored_across_rooms, "hub.py", "import metaseq_plugin.compat.door as d\nd._x = 1"),
    # state
    (state_in_modules, "a.py", "_runs = []\ndef f(): _runs.append(1)"),
    (state_in_modules, "a.py", "_runs: List[int] = [0]\ndef f(): _runs[:] = [1]"),
    (state_in_modules, "a.py", "RUNS = {}\nclass A:\n    def f(self): RUNS[self] = 1"),
    (state_in_modules, "a.py", "RUNS = {}\ndef f(key): return RUNS.pop(key)"),
    (state_in_modules, "a.py", "RUNS = defaultdict(list)\ndef f(): RUNS.update(a=1)"),
    (state_in_modules, "a.py", "RUNS = collections.deque()\nf = lambda: RUNS.popleft()"),
    (state_in_modules, "a.py", "RUNS = {1: 2}\ndef f():\n    del RUNS[1]"),
    (state_in_modules, "a.py", "RUN = None\ndef f():\n    global RUN\n    RUN = 1"),
    (state_in_modules, "a.py", "class Now:\n    run = None\ndef f(): Now.run += 1"),
    (state_in_modules, "a.py", "now = Run()\ndef f(): now.rank = 1"),
]
ALLOWED: List[Tuple[Check, str, str]] = [
    (against_the_order, "models/opt.py", "import metaseq_plugin.modules.linear"),
    (against_the_order, "checkpoint/load.py", "import metaseq_plugin.distributed.run"),
    (against_the_order, "storage/a.py", "import metaseq_plugin.layout.piece"),
    (against_the_order, "serve/a.py", "import metaseq_plugin.hub"),
    (against_the_order, "compat/commands/a.py", "load('metaseq_plugin.cli')"),
    (against_the_order, "layout/a.py", "import torch, metaseq_plugin_other"),
    (against_the_order, "layout/a.py", '"""Not metaseq_plugin.models.opt."""'),
    (cycles, "checkpoint/load.py", "import metaseq_plugin.distributed.run"),
    (underscored_across_rooms, "hub.py", "from metaseq_plugin import compat\ncompat.__path__"),
    (underscored_across_rooms, "compat/a.py", "from metaseq_plugin.compat.door import _stand_in"),
    (state_in_modules, "a.py", "TABLE = {1: 2}\ndef f(): return TABLE[1]"),
    (state_in_modules, "a.py", "TABLE = {}\nTABLE['a'] = 1"),
    (state_in_modules, "a.py", "RUNS = []\ndef f(RUNS): RUNS.append(1)"),
    (state_in_modules, "a.py", "RUNS = []\ndef f():\n    RUNS = []\n    RUNS.append(1)"),
    (state_in_modules, "a.py", "class A:\n    def f(self): self.x = 1\ndef g(a): a.x = A.y"),
]


def faults(check: Check, path: str, source: str) -> List[str]:
    """What ``check`` finds once ``source`` stands at ``path`` in a package of a few files."""
    sources = {
        **dict.fromkeys(("__init__.py", "sizes.py", "hub.py", "cli.py", "models/__init__.py"), ""),
        **dict.fromkeys(("compat/__init__.py", "compat/door.py", "compat/_door.py"), ""),
        "models/opt.py": "from metaseq_plugin.layout.piece import Piece",
        "checkpoint/save.py": "from metaseq_plugin.distributed.run import prepare",
        path: source,
    }
    return list(check({f"metaseq_plugin/{place}": text for place, text in sources.items()}))


@pytest.mark.parametrize(("check", "path", "source"), PLANTED)
def test_the_check_finds_what_was_planted(check: Check, path: str, source: str) -> None:
    assert len(faults(check, path, source)) == 1


@pytest.mark.parametrize(("check", "path", "source"), ALLOWED)
def test_the_check_lets_pass_what_is_allowed(check: Check, path: str, source: str) -> None:
    assert faults(check, path, source) == []


@pytest.mark.parametrize(
    "check", [against_the_order, cycles, underscored_across_rooms, state_in_modules]
)
def test_the_package_keeps_the_rules(check: Check) -> None:
    found = list(check(package_sources()))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("place", KEPT)
def test_what_is_kept_in_a_module_is_still_changed(place: str) -> None:
    path, _, name = place.partition(":")
    tree = ast.parse(package_sources()[path])
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    assert name in holders_of_state(tree)
    assert any(name in changed_names(function) for function in functions)


def test_the_page_shows_the_package_as_it_is() -> None:
    command = [sys.executable, "scripts/architecture.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_page_that_is_out_of_date_is_drawn_anew() -> None:
    page, sources = PAGE.read_text("utf-8"), package_sources()
    assert page == redrawn(page, sources)
    path = "metaseq_plugin/layout/piece.py"
    planted = {**sources, path: sources[path] + "import metaseq_plugin.hub\n"}
    assert page != redrawn(page, planted)
    assert redrawn(redrawn(page, planted), sources) == page
