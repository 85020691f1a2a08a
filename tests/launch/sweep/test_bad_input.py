"""Wrong sweep files: one sentence with file, line and key, and what to write; never a traceback."""

import re
from pathlib import Path

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.sweep.reading import read_sweep
from tests.launch.sweep.conftest import Write

HEAD = """\
base: opt_125m
data: data
save_dir: runs
resources: {gpus_per_node: 8}
"""  # the next line is 5

# fmt: off
# name -> (lines after HEAD, or without it where they begin with a blank line; what the sentence says)
YAML = {
    "tab": ("grid:\n\tlr: [1]", r"line 6: the file must be YAML, but is not: found character '\\t' that cannot start any token. Indent with blanks."),
    "bracket open": ("grid: {lr: [1, 2}", "line 5: the file must be YAML, but is not: expected"),
    "key twice": ("options: {lr: 1}\ngrid: {seed: [1]}\noptions: {lr: 2}", r"line 7: `options` must stand there once, but is there again \(first in line 5\)"),
    "key twice below": ("options:\n  lr: 1\n  lr: 2", "line 7: `options.lr` must stand there once"),
    "number as key": ("options: {1: 2}", "line 5: `options` must have text as keys"),
    "unknown key": ("gird: {lr: [1]}", "line 5: `gird` must be a known key, but is unknown. Write `grid`"),
    "nothing": ("\n# nothing", "sweep.yaml: the file must hold keys with values, but is empty"),
    "a list": ("\n- lr: 1", "line 2: the file must hold keys with values, but is a list"),
    "two documents": ("---\ngrid: {lr: [1]}", "the file must be YAML, but is not: found another document"),
    "code": ("options: {lr: !!python/object/apply:os.system [ls]}", "line 5: `options.lr` must be plain data without a tag, but is tag:yaml.org,2002:python/object/apply:os.system"),
    "own tag": ("options: {lr: !thing 1}", "line 5: `options.lr` must be plain data without a tag, but is !thing"),
    "tag that is not so": ("options: {lr: !!int x}", "line 5: `options.lr` must be of type int, but is x"),
    "alias of nothing": ("options: *x", "line 5: the file must be YAML, but is not: found undefined alias"),
    "alias of itself": ("options: &x {lr: *x}", "at most 20 times"),
    "merge of a value": ("options: {<<: 3}", "line 5: `options` must merge mappings with `<<`"),
    "deep": ("options: " + "[" * 5000, "must be nested at most 20 times|must be YAML"),
    "deep within limits of the parser": ("options: {lr: " + "[" * 30 + "]" * 30 + "}", "line 5: the file must be nested at most 20 times"),
    "control characters": ("options: {lr: \x07}", "the file must be YAML, but is not: unacceptable character"),

    "grid no mapping": ("grid: [1]", "line 5: `grid` must hold keys with values, but is a list"),
    "grid empty": ("grid: {}", "line 5: `grid` must vary something, but is empty"),
    "grid without value": ("grid:\n  lr:", "line 6: `grid.lr` must be a list of values, but is empty"),
    "grid of one value": ("grid:\n  lr: 0.1", r"line 6: `grid.lr` must be a list of values, but is 0.1. Write `\[0.1\]`"),
    "grid of no value": ("grid:\n  lr: []", "line 6: `grid.lr` must hold at least one value, but is an empty list"),
    "grid of lists": ("grid:\n  adam-betas:\n  - [0.9, 0.95]", r"line 7: `grid.adam-betas` must be one value, but is a list. Write text in quotes, as in \"\(0.9, 0.95\)\""),
    "zip of unequal lengths": ("zip:\n  lr: [1, 2]\n  seed: [1, 2, 3]", r"line 7: `zip.seed` must have as many values as lr \(2\), but is of 3"),
    "key in two sections": ("grid: {lr: [1]}\nzip: {lr: [2]}", "line 6: `lr` must vary in one section, but does in sweep.yaml, line 5 too"),
    "list of values": ("list: [1]", "line 5: `list` must hold keys with values, but is 1"),
    "list with an empty point": ("list:\n- {}", "line 6: `list` must vary something, but is empty"),
    "too many": ("grid: {seed: [" + ",".join(map(str, range(101))) + "]}\nzip: {lr: [" + ",".join(map(str, range(100))) + "]}", "line 6: `zip` must leave at most 10,000 runs, but is 10,100. Vary less, or draw some"),
    "random without number": ("random: {seed: 1, draw: {lr: {uniform: [0, 1]}}}", "line 5: `random` must have `number`, but is without"),
    "random without seed": ("random: {number: 1, draw: {lr: {uniform: [0, 1]}}}", "line 5: `random` must have `seed`, but is without"),
    "random of nothing": ("random: {number: 1, seed: 1}", "line 5: `random` must have `draw`, but is without"),
    "random number 0": ("random: {number: 0}", "line 5: `random.number` must be a whole number of at least 1, but is 0"),
    "random of an endless number": ("random: {number: 10001}", "line 5: `random` must leave at most 10,000 runs, but is 10,001"),
    "random seed as text": ("random: {number: 1, seed: a}", "line 5: `random.seed` must be a whole number of at least 0, but is a"),
    "distribution unknown": ("random: {number: 1, seed: 1, draw: {lr: {loguniform: [1, 2]}}}", "line 5: `random.draw.lr.loguniform` must be a known key, but is unknown. Write `log-uniform`"),
    "two distributions": ("random: {number: 1, seed: 1, draw: {lr: {uniform: [1, 2], choice: [1]}}}", "line 5: `random.draw.lr` must name one distribution, but is 2"),
    "range the wrong way": ("random: {number: 1, seed: 1, draw: {lr: {uniform: [2, 1]}}}", r"line 5: `random.draw.lr.uniform` must be a range \[LOW, HIGH\] with LOW below HIGH, but is \[2, 1\]"),
    "logarithm of 0": ("random: {number: 1, seed: 1, draw: {lr: {log-uniform: [0, 1]}}}", "line 5: `random.draw.lr.log-uniform` must begin above 0, but is 0"),
    "range of text": ("random: {number: 1, seed: 1, draw: {lr: {uniform: [a, 1]}}}", "line 5: `random.draw.lr.uniform` must be a number, but is a"),
    "integers that are none": ("random: {number: 1, seed: 1, draw: {seed: {integer: [0.5, 1.5]}}}", "line 5: `random.draw.seed.integer` must be a whole number"),
    "range without end": ("random: {number: 1, seed: 1, draw: {lr: {uniform: [0, 1e999]}}}", "line 5: `random.draw.lr.uniform` must be a finite number, but is inf"),

    "option unknown": ("options:\n  lrr: 1", r"line 6: \(all as fixed\) `--lrr` must be an option of fairseq-train .* Did you mean --lr\?"),
    "option with dashes": ("options:\n  --lr: 1", "line 6: .*`----lr` must be an option of fairseq-train"),
    "varied option unknown": ("grid:\n  seeds: [1]", "line 6: .*`--seeds` must be an option of fairseq-train .* Did you mean --seed"),
    "value of another type": ("grid:\n  seed: [1, two]", "line 6: .*`--seed` must be a whole number, but is two"),
    "flag with a value": ("options:\n  bf16: yes", "line 6: .*`--bf16` must have no value, but has yes"),
    "save-dir as an option": ("options:\n  save-dir: x", "line 6: `save-dir` must be left out of the options, but is there. Set `save_dir` of the file"),
    "restore-file as an option": ("grid:\n  restore-file: [x]", "line 6: `restore-file` must be left out of the options, but is there. Set `survival.restore_file`"),
    "resource as an option": ("grid:\n  nodes: [1]", "line 6: `nodes` must be left out of the options, but is there. Set `resources.nodes`"),
    "varied resource unknown": ("grid:\n  resources.node: [1]", "line 6: `resources.node` must be .* Write `resources.nodes`"),
    "batch that does not divide": ("grid:\n  batch-size: [3]", "line 6: .*`--batch-tokens` must be a multiple"),
    "base unknown": ("grid:\n  base: [opt_126m]", r"line 6: \(base opt_126m\) A baseline must be one of .* Did you mean opt_125m\?"),
    "two runs of one name": ("grid:\n  adam-betas: ['(0.9,0.95)', '(0.9, 0.95)']", r"line 5: every run must have a name of its own, but adam-betas0.9_0.95 is that of two: adam-betas \(0.9,0.95\) \(sweep.yaml, line 5\), and adam-betas \(0.9, 0.95\)"),

    "resource unknown": ("survival: {max_restart: 1}", "line 5: `survival.max_restart` must be a known key, but is unknown. Write `max_restarts`"),
    "restarts below 0": ("survival: {max_restarts: -1}", "line 5: `survival.max_restarts` must be a whole number of at least 0, but is -1"),
    "hang factor of 1": ("survival: {hang_factor: 0.5}", "line 5: `survival.hang_factor` must be above 1, or 0 for never, but is 0.5"),
    "restore file missing": ("survival: {restore_file: none.pt}", "line 5: `survival.restore_file` must name a checkpoint that exists, but is none.pt"),
    "signal before the job": ("survival: {signal_seconds: 1000000}", "line 1: .*`--signal-seconds` must be less than --time"),
    "varied resource bad": ("grid:\n  resources.nodes: [0]", "line 5: `resources.nodes` must be a whole number of at least 1, but is 0"),

    "start without after": ("stages:\n  a: {grid: {seed: [1]}, start: each}", "line 6: `stages.a.start` must come with `after`"),
    "checkpoint without start": ("stages:\n  a: {}\n  b: {after: a, checkpoint: x.pt}", "line 7: `stages.b.checkpoint` must come with `start`"),
    "after an unknown stage": ("stages:\n  first: {grid: {seed: [1]}}\n  b: {after: frist}", "line 7: `stages.b.after` must be one of first, but is frist. Write `first`"),
    "after itself": ("stages:\n  a: {after: a}", "line 6: `stages.a.after` must name a stage that stands before, but is a"),
    "start of another kind": ("stages:\n  a: {}\n  b: {after: a, start: bset}", "line 7: `stages.b.start` must be one of each, best, but is bset. Write `best`"),
    "start and finetune-from-model": ("stages:\n  a: {}\n  b: {after: a, start: each, options: {finetune-from-model: x}}", "line 7: `finetune-from-model` must be left out of the options, but is there. It is the checkpoint of `start`"),
    "too many from each": ("stages:\n  a: {grid: {seed: [" + ",".join(map(str, range(101))) + "]}}\n  b: {after: a, start: each, grid: {seed: [" + ",".join(map(str, range(100))) + "]}}", "line 7: `stages.b` must leave at most 10,000 runs, but is 10,100"),
    "grid beside stages": ("grid: {lr: [1]}\nstages: {a: {}}", "line 5: `grid` must stand in a stage where there are stages"),
    "no stages": ("stages: {}", "line 5: `stages` must vary something, but is empty"),
    "stage with a path as name": ("stages:\n  ../a: {}", "line 6: `stages.../a` must be a name of letters, digits"),
    "stage with an unknown key": ("stages:\n  a: {girds: {}}", "line 6: `stages.a.girds` must be a known key"),
    "after in a file without stages": ("after: a", "line 5: `after` must be a known key, but is unknown"),

    "save_dir missing": ("\ndata: data", "line 2: the file must have `save_dir`, but is without"),
    "save_dir a number": ("\ndata: data\nsave_dir: 3", "line 3: `save_dir` must be text, but is 3"),
    "data missing": ("\nbase: opt_125m\nsave_dir: runs\nresources: {gpus_per_node: 1}", "line 2: the sweep must have `data`, but has none"),
    "data not there": ("\nbase: opt_125m\nsave_dir: runs\nresources: {gpus_per_node: 1}\ndata: date", "line 5: .*`--data` must be a folder, but date is not"),
    "no resources": ("\nbase: opt_125m\ndata: data\nsave_dir: runs", "line 2: `resources` must have gpus_per_node, or on CPUs ranks_per_node, but has neither"),
    "GPUs and ranks": ("\nsave_dir: runs\ndata: data\nresources: {gpus_per_node: 1, ranks_per_node: 1}", "line 4: `resources.ranks_per_node` must be left out with gpus_per_node"),
    "nodes 0": ("\nsave_dir: runs\ndata: data\nresources: {nodes: 0, gpus_per_node: 1}", "line 4: `resources.nodes` must be a whole number of at least 1, but is 0"),
    "nodes true": ("\nsave_dir: runs\ndata: data\nresources: {nodes: true, gpus_per_node: 1}", "line 4: `resources.nodes` must be a whole number of at least 1, but is true"),
    "time malformed": ("\nsave_dir: runs\ndata: data\nresources: {gpus_per_node: 1, time: 3 days}", "line 4: `resources.time` must be HOURS:MINUTES:SECONDS, DAYS-HOURS or minutes, but is 3 days"),
    "executor unknown": ("\nsave_dir: runs\ndata: data\nresources: {gpus_per_node: 1, executor: slrum}", "line 4: `resources.executor` must be one of auto, slurm, local, debug, but is slrum. Write `slurm`"),
    "partition of two lines": ("\nsave_dir: runs\ndata: data\nresources: {gpus_per_node: 1, partition: \"a\\nb\"}", "line 4: `resources.partition` must be text on one line"),
    "sbatch option of ours": ("\nsave_dir: runs\ndata: data\nresources: {gpus_per_node: 1, slurm: {array: 1-3}}", "line 4: `resources.slurm.array` must be none that the launcher sets itself, but is one. Set --max-jobs"),
    "sbatch option with dashes": ("\nsave_dir: runs\ndata: data\nresources: {gpus_per_node: 1, slurm: {--nice: 1}}", "line 4: `resources.slurm.--nice` must be a long option of sbatch without dashes"),
}
# fmt: on


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_sweep(path)
    return str(caught.value)


@pytest.mark.parametrize("name", YAML)
def test_yaml(write: Write, name: str) -> None:
    text, sentence = YAML[name]
    said = refusal(write(text if text.startswith("\n") else HEAD + text))
    assert re.match(r"sweep\.yaml(, line \d+)?: .*", said), said
    assert re.search(sentence, said), said
    assert said.endswith((".", "?"))
    assert "\n" not in said
    assert not Path("runs").exists()


def test_a_bomb_of_aliases(write: Write) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    said = refusal(write("\n".join(lines)))
    assert re.search(r"line \d+: the file must hold at most 200,000 values", said), said


def test_a_bomb_of_merges(write: Write) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    assert "must hold at most 200,000 values" in refusal(write("\n".join(lines)))


def test_a_file_that_is_too_large(write: Write) -> None:
    assert "must have at most 1,048,576 bytes" in refusal(write("# " + "x" * (1 << 20)))


def test_bytes_that_are_no_text(write: Write) -> None:
    path = write("")
    path.write_bytes(b"data: \xff")
    assert refusal(path) == (
        "sweep.yaml: the file must be UTF-8 text, but byte 6 is not. Save it as UTF-8."
    )


@pytest.mark.parametrize(("name", "why"), [("none.yaml", "No such file"), ("data.yaml", "Is a directory")])  # fmt: skip
def test_a_file_that_cannot_be_read(write: Write, name: str, why: str) -> None:
    Path("data.yaml").mkdir()
    assert f"{name}: the file must be readable, but is not: {why}" in refusal(Path(name))


def test_a_file_of_another_kind(write: Write) -> None:
    assert "A sweep must be a .yaml, .yml or .py file, but is sweep.json" in refusal(
        Path("sweep.json")
    )


# fmt: off
PROGRAMS = {
    "not there": (None, "sweep.py: the file must be readable, but is not there"),
    "no function": ("x = 1", r"sweep.py: the file must define `def sweep\(\):`, but does not"),
    "syntax": ("x = 1\ndef sweep(:", "sweep.py, line 2: the program must run, but ends with SyntaxError: "),
    "exception": ("def sweep():\n    return 1 / 0", "sweep.py, line 2: the program must run, but ends with ZeroDivisionError: division by zero"),
    "arguments": ("def sweep(x): return x", "sweep.py: the program must run, but ends with TypeError"),
    "nothing returned": ("def sweep(): pass", "sweep.py: the file must hold keys with values, but is empty"),
    "unknown key": ("def sweep(): return {'save_dir': 'x', 'grd': {}}", "sweep.py: `grd` must be a known key, but is unknown. Write `grid`"),
    "keys that are no text": ("def sweep(): return {1: 2}", "sweep.py: the file must have text as keys, but is 1"),
    "objects": ("def sweep(): return {'data': object()}", "sweep.py: `data` must be text, a number, True, False, None, a list or a dict, but is of type object"),
    "not a number": ("def sweep(): return {'options': {'lr': float('nan')}}", "sweep.py: `options.lr` must be a finite number, but is nan"),
    "endless": ("def sweep():\n    x = []\n    x.append(x)\n    return x", "sweep.py: the file must be nested at most 20 times"),
}
# fmt: on


@pytest.mark.parametrize("name", PROGRAMS)
def test_python(write: Write, name: str) -> None:
    text, sentence = PROGRAMS[name]
    path = Path("sweep.py") if text is None else write(text, "sweep.py")
    said = refusal(path)
    assert re.match(sentence, said), said
    assert said.endswith(".")
