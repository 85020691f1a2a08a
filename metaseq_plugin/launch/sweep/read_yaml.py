"""YAML as plain data with places: what ``yaml.compose`` finds, without a constructor that could run anything.

The steps: (1) the text is read, within limits; (2) PyYAML makes nodes of it, each with its line; (3) nodes become
``Marked`` values. Text is taken for a number, true, false or null by the rules of YAML 1.2: ``1e-4`` is a number
(PyYAML's own rules want 1.0e-4), ``72:00:00`` and ``no`` are text (they make 259200 and false of them).
"""

import re
from pathlib import Path
from typing import Callable, Iterator

import yaml

from metaseq_plugin.launch.spec import Value
from metaseq_plugin.launch.sweep.marked import MAX_DEPTH, MAX_VALUES, Marked, SweepError, checked

MAX_BYTES = 1 << 20
TAG = "tag:yaml.org,2002:"
# tag -> its texts, and the characters that they begin with
CORE = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
BOOLEANS = {"true": True, "false": False}
PLAIN: dict[str, Callable[[str], Value]] = {
    "null": lambda text: None,
    "bool": lambda text: BOOLEANS[text.lower()],
    "int": int,
    "float": float,
    "str": str,
}


class CoreLoader(yaml.SafeLoader):
    """PyYAML's parser with the rules of YAML 1.2 for plain text; only its nodes are used."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  filled once, below


for _tag, (_texts, _first) in CORE.items():
    CoreLoader.add_implicit_resolver(TAG + _tag, re.compile(rf"(?:{_texts})\Z"), _first)


def read_yaml(path: Path) -> Marked:
    """The whole file.

    Raises:
        SweepError: with the line: no YAML, a key twice, a tag, more than the limits.
    """
    text = read_text(path)
    try:
        node = yaml.compose(text, CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = error.problem or error.context
        remedy = "Indent with blanks." if "\\t" in str(problem) else "Mend that line."
        raise SweepError(
            f"{path}{line}: the file must be YAML, but has {problem}. {remedy}"
        ) from None
    except yaml.YAMLError as error:  # characters that no YAML has
        problem = str(error).splitlines()[0]
        raise SweepError(f"{path}: the file must be YAML, but has {problem}. Save it as UTF-8 text.") from None  # fmt: skip
    except RecursionError:
        raise too_much(str(path), f"be nested at most {MAX_DEPTH} times", "is deeper") from None
    if node is None:
        raise SweepError(
            f"{path}: the file must hold keys with values, but is empty. Write a sweep."
        )
    return Reader(path).marked(node)


def read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise too_much(str(path), f"have at most {MAX_BYTES:,} bytes", "has more")
        return data.decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
        raise SweepError(f"{path}: the file must be readable, but is not: {reason}. Name another.") from None  # fmt: skip
    except UnicodeDecodeError as error:
        raise SweepError(f"{path}: the file must be UTF-8 text, but byte {error.start} is not. Save it as UTF-8.") from None  # fmt: skip


def too_much(place: str, rule: str, found: str) -> SweepError:
    return SweepError(f"{place}: the file must {rule}, but {found}. Write a Python file that makes the values.")  # fmt: skip


class Reader:
    """Nodes to values; counts what aliases unfold to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def place(self, node: yaml.Node) -> str:
        return f"{self.path}, line {node.start_mark.line + 1}"

    def marked(self, node: yaml.Node, key: str = "", place: str = "", depth: int = 0) -> Marked:
        """The value of ``node``; ``place`` of a key's value is the key's."""
        place = place or self.place(node)
        self.count += 1
        if depth > MAX_DEPTH:
            raise too_much(place, f"be nested at most {MAX_DEPTH} times", "is deeper")
        if self.count > MAX_VALUES:
            raise too_much(place, f"hold at most {MAX_VALUES:,} values, with what aliases repeat", "holds more")  # fmt: skip
        if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
            return Marked(self.mapping(node, key, depth), place, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
            items = [self.marked(item, key, self.place(item), depth + 1) for item in node.value]
            return Marked(items, place, key)
        return checked(Marked(self.scalar(node, place, key), place, key))

    def mapping(self, node: yaml.MappingNode, key: str, depth: int) -> dict[str, Marked]:
        entries, own = {}, {}
        for key_node, value in node.value:
            place = self.place(key_node)
            if key_node.tag == f"{TAG}merge":
                for source in self.merged(value, key, depth):
                    entries = {**source, **entries}
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{TAG}str":
                raise Marked("another", place, key).refused(
                    "have text as keys", "Write it in quotes."
                )
            name = key_node.value
            full = f"{key}.{name}" if key else name
            if name in own:
                first = own[name].place.rpartition(" ")[2]
                raise Marked(f"there again (first in line {first})", place, full).refused(
                    "stand there once", "Leave one out."
                )
            own[name] = self.marked(value, full, place, depth + 1)
        return {**entries, **own}

    def merged(self, value: yaml.Node, key: str, depth: int) -> Iterator[dict[str, Marked]]:
        """What ``<<: *other`` brings in: a mapping or a list of them, the first of which counts."""
        sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for source in sources:
            if not isinstance(source, yaml.MappingNode) or depth > MAX_DEPTH:
                raise Marked("not one", self.place(value), key).refused(
                    "merge mappings with `<<`", "Name the anchor of a mapping."
                )
            self.count += 1
            if self.count > MAX_VALUES:
                raise too_much(
                    self.place(value), f"hold at most {MAX_VALUES:,} values", "holds more"
                )
            yield self.mapping(source, key, depth + 1)

    def scalar(self, node: yaml.Node, place: str, key: str) -> Value:
        name = node.tag.removeprefix(TAG)
        if not isinstance(node, yaml.ScalarNode) or name not in PLAIN:
            raise Marked(node.tag, place, key).refused(
                "be plain data without a tag", "Leave the tag out."
            )
        try:
            return PLAIN[name](node.value)
        except (ValueError, KeyError):  # `!!int x`, or of more digits than Python reads
            raise Marked(node.value, place, key).refused(
                f"be of type {name}", "Leave the tag out."
            ) from None
