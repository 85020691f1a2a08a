"""Draw which room of the package imports which into docs/architecture.md, or look whether it is drawn.

    python scripts/architecture.py            # draw
    python scripts/architecture.py --check    # exit status 1 where the page shows another graph

A room is a folder of metaseq_plugin, or a module beside them. The steps:
(1) read what every file may load: imports at its top, inside functions and under TYPE_CHECKING, and
    modules that it names in full as a string, as for ``import_module``;
(2) find the room of each;
(3) write one line for each room, in the order of LEVELS, and a matrix of who imports whom, with nothing
    above its diagonal. ``tests/test_rooms.py`` holds the rules, on the same reading.
"""

import argparse
import ast
import sys
from importlib.util import resolve_name
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, NamedTuple, Set, Tuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- drawn by scripts/architecture.py -->", "<!-- end of the drawing -->"
PACKAGE = "metaseq_plugin"
CONSOLE = "compat/commands"  # the console script lies in compat, but stands above everything

# From the bottom to the top. A room imports rooms of lower levels; of its own, tests/test_rooms.py
# names the few that it may.
LEVELS = (
    ("compat",),
    ("sizes", "layout", "tokenizers"),
    ("storage", "modules"),
    ("pages", "models", "data", "distributed", "checkpoint", "criterions"),
    ("optim", "formats", "generation", "ledger"),
    ("tasks", "launch", "host"),
    ("hub", "serve", "evaluate", "report"),
    ("cli",),
    (CONSOLE, PACKAGE),
)


class Import(NamedTuple):
    """One module that a file may load."""

    path: str  # the file that does
    line: int
    module: str
    name: str = ""  # what is taken from the module, if not the module itself
    bound: str = ""  # what the file calls it

    @property
    def importer(self) -> str:
        return room_of(module_at(self.path))

    @property
    def imported(self) -> str:
        return room_of(self.module)


def package_sources() -> Dict[str, str]:
    """path -> source of every file of the package."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in files}


def module_at(path: str) -> str:
    """``metaseq_plugin.data`` for metaseq_plugin/data/__init__.py."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(module: str) -> str:
    """The room that ``module`` lies in; of the package itself its name."""
    if f"{module}.".startswith(f"{PACKAGE}.{CONSOLE.replace('/', '.')}."):
        return CONSOLE
    return module.split(".")[1] if "." in module else PACKAGE


def read_imports(sources: Mapping[str, str]) -> List[Import]:
    """Everything of the package that the files of ``sources`` (path -> source) may load, by line."""
    modules = {module_at(path) for path in sources}
    return [
        found
        for path, source in sources.items()
        for node in ast.walk(ast.parse(source))
        for found in imports_of(node, path, modules)
    ]


def imports_of(node: ast.AST, path: str, modules: Set[str]) -> Iterator[Import]:
    """What of the package the statement or string ``node`` of the file ``path`` names."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == PACKAGE:
                yield Import(path, node.lineno, alias.name, bound=alias.asname or alias.name)
    elif isinstance(node, ast.ImportFrom):
        folder = path.rpartition("/")[0].replace("/", ".")
        module = resolve_name("." * node.level + (node.module or ""), folder)
        for alias in node.names if module.split(".")[0] == PACKAGE else ():
            bound, inner = alias.asname or alias.name, f"{module}.{alias.name}"
            if inner in modules:
                yield Import(path, node.lineno, inner, bound=bound)
            else:
                yield Import(path, node.lineno, module, alias.name, bound)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        module = node.value.rstrip(".")  # also the fixed part of f"metaseq_plugin.compat.{name}"
        if module in modules and module != PACKAGE:
            yield Import(path, node.lineno, module)


def edges(imports: Iterable[Import]) -> Set[Tuple[str, str]]:
    """(importing room, imported room), each pair once."""
    return {(i.importer, i.imported) for i in imports if i.importer != i.imported}


def drawing(sources: Mapping[str, str]) -> str:
    """The rooms with the first line of their docstrings, and the matrix of imports, in Markdown."""
    table = ["| level | room | what it is for |", "| --- | --- | --- |"]
    rooms = []
    for level, members in enumerate(LEVELS):
        for room in members:
            home = PACKAGE if room == PACKAGE else f"{PACKAGE}/{room}"
            for path, shown in ((f"{home}/__init__.py", f"{room}/"), (f"{home}.py", f"{room}.py")):
                if path in sources:
                    doc = ast.get_docstring(ast.parse(sources[path])) or ""
                    first_line = doc.partition("\n")[0].replace("``", "`")
                    table.append(f"| {level} | `{shown}` | {first_line} |")
                    rooms.append(room)
    drawn = edges(read_imports(sources))
    matrix = [" " * 24 + "".join(f"{column:3}" for column in range(1, len(rooms) + 1))]
    for number, importer in enumerate(rooms, 1):
        marks = ["x" if (importer, imported) in drawn else " " for imported in rooms]
        marks[number - 1] = "."
        matrix.append(f"    {number:2}  {importer:16}  {'  '.join(marks)}".rstrip())
    return "\n".join([*table, "", *matrix])


def redrawn(page: str, sources: Mapping[str, str]) -> str:
    """``page`` with the drawing between its two marks as it should be."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{drawing(sources)}\n\n{END}{rest.split(END)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing, say whether it is current"
    )
    is_check = parser.parse_args().check
    page = PAGE.read_text("utf-8")
    current = redrawn(page, package_sources())
    if page == current:
        return 0
    if is_check:
        print(
            "docs/architecture.md is out of date. Run python scripts/architecture.py.",
            file=sys.stderr,
        )
        return 1
    PAGE.write_text(current, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
