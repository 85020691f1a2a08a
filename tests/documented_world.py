"""The folder in which the commands of the pages run: what a page supposes to be there, tiny, and what makes it quick.

(1) ``make_given`` makes the text, data and checkpoints that pages speak of, once;
(2) ``enter`` gives a page a folder with what it supposes, which looks like a checkout with an environment;
(3) ``run`` types a step into bash there. It is the page's command: SMALLER and MORE make it small, nothing else.
"""

import csv
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

from backports import zstd

from metaseq_plugin.cli import main as metaseq
from metaseq_plugin.evaluate.bias.crows_pairs import CATEGORIES
from tests.documented import ROOT, Step
from tests.fairseq_runs import Ended, train

TIMEOUT_SECONDS = 300
TINY = (
    "--decoder-layers 1 --decoder-embed-dim 32 --decoder-ffn-embed-dim 64 "
    "--decoder-attention-heads 2"
)

# What is written -> what is run. Only numbers, and where things go; the sizes but for the smallest become tiny.
SMALLER: List[Tuple[str, str]] = [
    (r"--arch opt_(?!8m)[\w.]+", rf"\g<0> {TINY}"),
    (r"--nproc_per_node \d+", "--nproc_per_node 2"),
    (r"--vocab-size \d+", "--vocab-size 300"),
    (r"--update-freq \d+", "--update-freq 2"),
    (
        r"bash scripts/quickstart\.sh",
        r'\g<0> --text corpus.jsonl --max-update 20 --run-dir "$PWD/runs/quickstart"',
    ),
    (r"--data eval-data", r"\g<0> --any-data"),  # a look-alike has another checksum
]
# Options behind those of the page, by program; the last one of a kind counts.
MORE: Dict[str, str] = {
    "fairseq-train": "--tokens-per-sample 32 --max-update {updates}",
    "torchrun": "--tokens-per-sample 32 --max-update {updates} --cpu --distributed-backend gloo --log-interval 2",
    "fairseq-hydra-train": "optimization.max_update={updates} optimization.update_freq=[1] "
    "task.tokens_per_sample=32 +model.decoder_layers=1 +model.decoder_embed_dim=32 "
    "+model.decoder_ffn_embed_dim=64 +model.decoder_attention_heads=2",
}
# What a page supposes to be there.
GIVEN: Dict[str, List[str]] = {
    "README.md": [
        "DATA",
        "PAIRS",
        "vocab.json",
        "merges.txt",
        "opt-125m",
        "OPT-13B",
        "prompts.jsonl",
    ],
    "docs/checkpoints.md": ["data"],
    "docs/convert.md": ["OPT-13B"],
    "docs/data.md": ["DATA"],
    "docs/energy.md": ["data"],
    "docs/evaluate.md": ["eval-data"],
    "docs/fairseq.md": ["data"],
    "docs/launch.md": ["data"],
    "docs/launched-runs.md": ["data"],
    "docs/parallelism.md": ["data"],
    "docs/report.md": ["data"],
    "docs/sweep.md": ["data"],
    "docs/streaming.md": ["DATA", "PAIRS", "vocab.json", "merges.txt", "opt-125m"],
    "docs/train.md": ["books", "articles.jsonl.zst", "vocab.json", "merges.txt", "opt-125m"],
    "docs/watch.md": ["data"],
    "docs/watching.md": ["data"],
}
WITH_QUICKSTART = (
    "docs/card.md",
    "docs/convert.md",
    "docs/evaluate.md",
    "docs/generate.md",
    "docs/ledger.md",
)
CHECKOUT = (
    "scripts", "requirements", "setup.py", "pyproject.toml", "metaseq_plugin", "benchmarks", "hubconf.py"
)  # fmt: skip


def write_jsonl(path: Path, texts: List[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def make_texts(count: int) -> List[str]:
    """``count`` documents of 20 to 90 words, of a language of 200."""
    chance = random.Random(0)
    words = ["".join(chance.choices("aeinorst", k=chance.randint(2, 8))) for _ in range(200)]
    return [" ".join(chance.choices(words, k=chance.randint(20, 90))) for _ in range(count)]


def write_crows_pairs(folder: Path, texts: List[str]) -> None:
    """A look-alike of the evaluation set, with pairs of each of its categories."""
    rows = [("sent_more", "sent_less", "stereo_antistereo", "bias_type")]
    for number, category in enumerate(sorted(CATEGORIES) * 3):
        rows.append((f"We {texts[number]}", f"They {texts[number]}", "stereo", category))
    path = folder / "eval-data/crows_pairs/crows_pairs_anonymized.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def make_given(folder: Path) -> Path:
    """All that pages suppose, in ``folder``."""
    texts = make_texts(400)
    write_jsonl(folder / "corpus.jsonl", texts)
    (folder / "articles.jsonl.zst").write_bytes(
        zstd.compress((folder / "corpus.jsonl").read_bytes())
    )
    (folder / "books").mkdir()
    (folder / "books/one.txt").write_text("\n\n\n".join(texts[:50]))

    write_crows_pairs(folder, texts)
    (folder / "prompts.jsonl").write_text('{"prompt": "Once upon a time"}\n{"prompt": ""}\n')

    assert metaseq(["prepare", f"{folder}/corpus.jsonl", "--destdir", f"{folder}/data"]) == 0
    ended = train(
        folder / "data", folder / "trained", "--arch", "opt", *TINY.split(), "--max-update", 2, "--no-epoch-checkpoints",
        "--decoder-max-positions", 2048, "--valid-subset", "valid",
    )  # fmt: skip
    assert ended.status == 0, ended.output
    assert metaseq(["convert", f"{folder}/trained", f"{folder}/OPT-13B", "--to", "metaseq"]) == 0
    (folder / "opt-125m").mkdir()
    shutil.copy(folder / "trained/checkpoint_best.pt", folder / "opt-125m/checkpoint.pt")

    raw, pairs = folder / "DATA", folder / "PAIRS"
    for part, name in ((0, "train/00/wiki"), (1, "train/01/wiki"), (2, "valid/wiki/00/wiki"), (3, "valid/books/00/books")):  # fmt: skip
        write_jsonl(raw / f"{name}.jsonl", texts[50 * part : 50 * part + 50])
    with gzip.open(raw / "train/00/books.txt.gz", "wt") as stream:
        stream.write("\n\n\n".join(texts[200:250]))
    for name in ("train/00", "valid/pairs/00"):
        (pairs / name).mkdir(parents=True)
        rows = [json.dumps({"src": text[:30], "tgt": text[30:50]}) for text in texts[:40]]
        (pairs / name / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    for file in ("vocab.json", "merges.txt"):
        for place in (folder, raw, pairs):
            shutil.copy(folder / "data" / file, place)
    return folder


def enter(page: str, given: Path, home: Path) -> Path:
    """``home``, made into the folder of ``page``."""
    home.mkdir()
    for name in ("corpus.jsonl", *GIVEN.get(page, ())):
        source = given / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, home / name)
    for name in CHECKOUT:
        (home / name).symlink_to(ROOT / name)
    # The environment of this interpreter, which scripts/setup.sh finds current.
    environment = home / ".venv"
    environment.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != "setup.stamp":
            (environment / entry.name).symlink_to(entry)
    script = home / "scripts/setup.sh"
    definitions = script.read_text().removesuffix("\nmetaseq_setup\n")
    names = definitions.replace("${BASH_SOURCE[0]}", str(script))
    stamp = in_bash(f"{names}\nmetaseq_wanted_stamp", home)
    (environment / "setup.stamp").write_text(stamp.output)
    return home


def in_bash(script: str, home: Path) -> Ended:
    left_out = ("PYTHON", "METASEQ_VENV", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment.update(
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        PYTHONPATH=str(ROOT),
        CUDA_VISIBLE_DEVICES="",
        OMP_NUM_THREADS="1",
        TOKENIZERS_PARALLELISM="false",
        WANDB_MODE="offline",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(home / ".cache"),
        MPLBACKEND="agg",
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    return Ended(done.returncode, done.stdout.replace(f"{home}/", ""))  # as one sees it from there


def script_of(step: Step, updates: int) -> str:
    """What bash is given for a shell step: the page's command, and a function for each of MORE."""
    # A mistake is refused before anything large begins; a plan builds nothing.
    if step.is_mistake or step.text.startswith("metaseq plan "):
        return step.text
    command = step.text
    for pattern, replacement in SMALLER:
        command = re.sub(pattern, replacement, command)
    functions = [
        f'{program}() {{ command {program} "$@" {options.format(updates=updates)}; }}'
        for program, options in MORE.items()
    ]
    return "\n".join([*functions, command])


def run(step: Step, home: Path, updates: int) -> Ended:
    """Do what ``step`` says in ``home``; training goes up to ``updates``."""
    if step.kind == "file":
        path = home / step.text.split("\n", 1)[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text + "\n")
        return Ended(0, "")
    if step.kind == "python":
        return in_bash(f"python - <<'END'\n{step.text}\nEND", home)
    return in_bash(script_of(step, updates), home)
