"""README, docs/ and benchmarks/README.md as steps that can be run: what a reader would type, in order.

(1) ``read_page`` finds the blocks (indented by four blanks) and the commands in cells of tables that begin with one;
(2) a block becomes steps: one for each command of a shell block, one for Python, one for a file whose
    first line is a comment with its path, one for what is only shown;
(3) ``shape`` and ``missing_lines`` compare what a page shows with what was printed, numbers left out.

    $ command       in a block: the lines below it, up to the next one, are what it prints
"""

import re
from pathlib import Path
from typing import Iterator, List, NamedTuple, Sequence, Tuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))), "benchmarks/README.md"]  # fmt: skip
PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:fairseq-[\w-]+|metaseq|torchrun|tensorboard|bash|source|pip|python|mkdir|cp|printf|curl|lm_eval) "
)
MISTAKE = re.compile(r"[a-z][\w-]*(?: [a-z]+)*: error: ")  # by the command itself, not quoted by it
FILE = re.compile(r"# ([\w./-]+\.\w+)$")


class Step(NamedTuple):
    """One thing that a reader does or sees; ``kind`` is shell, python, file or shown."""

    page: str
    line: int  # from 1
    kind: str
    text: str
    prints: Tuple[str, ...] = ()  # what the page says that this command prints

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}: {self.text.splitlines()[0]}"

    @property
    def is_mistake(self) -> bool:
        return any(MISTAKE.match(line) for line in self.prints)


def read_page(page: str) -> List[Step]:
    """The steps of ``page``, a path from the root, in order."""
    return list(_steps(page, (ROOT / page).read_text("utf-8").splitlines()))


def _steps(page: str, lines: Sequence[str]) -> Iterator[Step]:
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("|"):
            yield from _cell_steps(page, number + 1, line)
        elif line.startswith("    ") and not lines[number - 1].strip():
            first = number
            while number < len(lines) and (
                lines[number].startswith("    ") or not lines[number].strip()
            ):
                number += 1
            block = "\n".join(lines[first:number]).rstrip()
            margin = len(line) - len(line.lstrip())
            yield from _block_steps(
                page, first + 1, [text[margin:].rstrip() for text in block.split("\n")]
            )
            continue
        number += 1


def _cell_steps(page: str, number: int, row: str) -> Iterator[Step]:
    cells = [cell.strip() for cell in row.split(" | ")]
    spans = [
        span
        for cell in cells
        if cell.lstrip("| ").startswith("`")
        for span in re.findall(r"`([^`]+)`", cell)
    ]
    for span in spans:
        if PROGRAM.match(span):
            yield Step(page, number, "shell", span)
        elif span.startswith("from "):
            yield Step(page, number, "python", span)


def _block_steps(page: str, number: int, lines: List[str]) -> Iterator[Step]:
    if lines[0].startswith(("from ", "import ")):
        yield Step(page, number, "python", "\n".join(lines))
    elif FILE.match(lines[0]):
        yield Step(page, number, "file", "\n".join(lines))
    elif lines[0].startswith("$ ") or PROGRAM.match(lines[0]):
        yield from _commands(page, number, lines)
    else:
        yield Step(page, number, "shown", "\n".join(lines))


def _commands(page: str, number: int, lines: List[str]) -> Iterator[Step]:
    """One step for each command; a line that ends in a backslash goes on."""
    with_output = lines[0].startswith("$ ")
    at = 0
    while at < len(lines):
        first = at
        while lines[at].endswith("\\"):
            at += 1
        at += 1
        command = "\n".join(lines[first:at]).removeprefix("$ ")
        prints = []
        while with_output and at < len(lines) and not lines[at].startswith("$ "):
            prints.append(lines[at])
            at += 1
        if command.strip():
            yield Step(page, number + first, "shell", command, tuple(prints))


def shape(line: str) -> str:
    """``line`` without its numbers, alignment and the length of its bars."""
    line = re.sub(r"\d+(?:[,.:]\d+)*", "0", line)
    return re.sub(r"([-█])\1+", r"\1", " ".join(line.split()))


def missing_lines(shown: Sequence[str], printed: str) -> List[str]:
    """The lines of ``shown`` that have no line of their shape in ``printed``; ``…`` stands for anything."""
    shapes = [shape(line) for line in printed.splitlines()]
    missing = []
    for line in shown:
        pattern = re.compile(".*".join(re.escape(part) for part in shape(line).split("…")))
        if not any(pattern.fullmatch(candidate) for candidate in shapes):
            missing.append(line)
    return missing
