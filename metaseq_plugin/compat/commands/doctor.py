"""``metaseq doctor``: say whether this environment can train, and what to mend.

    metaseq doctor

The steps, none of which imports a library into this process:
(1) the Python version, the start-up hook, and every distribution's version against what was measured;
(2) a child process imports everything that a seam repairs (``probe``) and reports seams and devices;
    where it fails, one child for each library finds the first one that cannot be imported;
(3) free disk space;
(4) the table, then each problem with its remedy. The exit status is 1 when something that training
    needs is broken, else 0.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence

# Names, not modules: `from metaseq_plugin.compat import x` would import the parent package.
from metaseq_plugin.compat.startup import REPORT, SEAMS, SWITCH

SUPPORTED_PYTHON = ((3, 10), (3, 12))
ENOUGH_DISK_BYTES = 2 << 30
FAIRSEQ_PINS = (
    "antlr4-python3-runtime==4.8",
    "fairseq==0.12.2",
    "hydra-core==1.0.7",
    "omegaconf==2.0.6",
)
SETUP = "Run `bash scripts/setup.sh` in a checkout"
FAIRSEQ_REMEDY = (
    f"{SETUP}, or: {{python}} -m pip install 'pip<24.1' && "
    f"{{python}} -m pip install --no-deps {' '.join(FAIRSEQ_PINS)}"
)
# The folder first: `import` of a module below one that is not loaded yet imports the package, too.
PROBE = """
from metaseq_plugin.compat.commands import main
from metaseq_plugin.compat.commands.doctor import probe
probe()
"""
REINSTALL = f"{SETUP}, or reinstall metaseq-plugin with pip."


class Library(NamedTuple):
    """A distribution that the doctor looks at, by what it is called and what it is imported as."""

    distribution: str
    module: str
    measured: Optional[str] = None  # the only version that the seams were measured with
    minimum: Optional[tuple[int, ...]] = None
    needed: bool = True
    remedy: str = REINSTALL


LIBRARIES = (
    Library("torch", "torch", minimum=(2, 8)),
    Library("numpy", "numpy", minimum=(1, 24)),
    Library("antlr4-python3-runtime", "antlr4", measured="4.8", remedy=FAIRSEQ_REMEDY),
    Library("omegaconf", "omegaconf", measured="2.0.6", remedy=FAIRSEQ_REMEDY),
    Library("hydra-core", "hydra", measured="1.0.7", remedy=FAIRSEQ_REMEDY),
    Library("fairscale", "fairscale", measured="0.4.13"),
    Library("bitarray", "bitarray"),
    Library("sacrebleu", "sacrebleu"),
    Library("fairseq", "fairseq", measured="0.12.2", remedy=FAIRSEQ_REMEDY),
    Library("tiktoken", "tiktoken", minimum=(0, 7)),
    Library("tokenizers", "tokenizers", minimum=(0, 19)),
    Library("sentencepiece", "sentencepiece", minimum=(0, 2)),
    Library("safetensors", "safetensors", minimum=(0, 4)),
    Library("backports.zstd", "backports.zstd"),
    Library("datasketch", "datasketch", minimum=(2, 0)),
    Library("tabulate", "tabulate"),
    Library(
        "tensorboard", "tensorboard", needed=False, remedy="{python} -m pip install tensorboard"
    ),
    Library(
        "torchaudio", "torchaudio", needed=False, remedy="{python} -m pip uninstall torchaudio"
    ),
    Library(
        "lm-eval",
        "lm_eval",
        needed=False,
        remedy="{python} -m pip install 'metaseq-plugin[lm-eval]'",
    ),
    Library("apex", "apex", needed=False, remedy="{python} -m pip uninstall apex"),
)


class Row(NamedTuple):
    """A line of the table; ``problem`` is a sentence with its remedy, empty when all is well."""

    section: str
    name: str
    value: str
    state: str
    problem: str = ""


def installed_version(distribution: str) -> Optional[str]:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def as_numbers(version: str) -> tuple[int, ...]:
    """``"2.13.0+cpu"`` as (2, 13, 0); parts that are not numbers end it."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def run_child(code: str) -> tuple[str, str]:
    """Run Python ``code`` in a child: its standard output and, when it failed, the reason in one line."""
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if child.returncode == 0:
        return child.stdout, ""
    lines = [line for line in child.stderr.splitlines() if line.strip()]
    return "", lines[
        -1
    ].strip() if lines else f"the interpreter ended with status {child.returncode}"


def version_row(library: Library) -> Row:
    name, version = library.distribution, installed_version(library.distribution)
    remedy = library.remedy.format(python=sys.executable)
    if version is None:
        if not library.needed:
            return Row("Versions", name, "-", "optional, not installed")
        return Row(
            "Versions", name, "-", "MISSING", f"{name} must be installed, but is not. {remedy}"
        )
    if library.measured is not None and version != library.measured:
        problem = f"{name} must be version {library.measured}, but is {version}. {remedy}"
        return Row("Versions", name, version, f"unknown version, not {library.measured}", problem)
    if library.minimum is not None and as_numbers(version) < library.minimum:
        wanted = ".".join(map(str, library.minimum))
        problem = f"{name} must be at least {wanted}, but is {version}. {remedy}"
        return Row("Versions", name, version, f"TOO OLD, below {wanted}", problem)
    return Row("Versions", name, version, "ok")


def python_row() -> Row:
    version, (oldest, newest) = platform.python_version(), SUPPORTED_PYTHON
    if oldest <= sys.version_info[:2] <= newest:
        return Row("Versions", "python", version, f"ok ({sys.executable})")
    problem = (
        f"Python must be 3.10, 3.11 or 3.12, but is {version}. {SETUP} with PYTHON=python3.11."
    )
    return Row("Versions", "python", version, "UNSUPPORTED", problem)


def hook_row() -> Row:
    """Whether a child started outside every checkout has the finder, as ``fairseq-train`` would."""
    if os.environ.get(SWITCH) == "0":
        problem = f"{SWITCH} must not be 0 for training, but is. Unset it."
        return Row("Start-up hook", "hook", "-", "SWITCHED OFF", problem)
    code = "import sys; print([f for f in sys.meta_path if type(f).__name__ == 'SeamFinder'] != [])"
    output, _ = run_child(code)
    home = str(Path(__file__).parents[2])
    if output.strip() == "True":
        return Row("Start-up hook", "hook", home, "ok")
    problem = (
        f"The start-up hook must be installed, but {sys.executable} starts without it. {REINSTALL}"
    )
    return Row("Start-up hook", "hook", home, "MISSING", problem)


def import_rows(probe_failure: str) -> list[Row]:
    """The rows of the installed libraries that cannot be imported; at least one when the probe failed."""
    rows: list[Row] = []
    reasons: set[str] = set()  # what fails only because of a library named before is left out
    for library in LIBRARIES:
        if installed_version(library.distribution) is None:
            continue
        _, reason = run_child(f"import {library.module}")
        if reason and reason not in reasons:
            reasons.add(reason)
            name, remedy = library.distribution, library.remedy.format(python=sys.executable)
            problem = f"{name} must be importable, but fails with: {reason}. {remedy}"
            rows.append(Row("Imports", name, "", "BROKEN", problem))
    if not rows and probe_failure:
        problem = f"A seam into fairseq must apply, but fails with: {probe_failure}. {REINSTALL}"
        rows.append(Row("Imports", "seams", "", "BROKEN", problem))
    return rows


def host_of(target: str) -> Library:
    """The library that the module ``target`` is of."""
    module = target.partition(".")[0].removesuffix("_cli")
    return next(library for library in LIBRARIES if library.module == module)


def is_absent(library: Library) -> bool:
    """Whether it is not installed, and need not be."""
    return not library.needed and installed_version(library.distribution) is None


def seam_rows(report: dict[str, dict[str, str]]) -> list[Row]:
    """One row for each seam: what it said, or that its host is a version nobody measured."""
    rows = []
    for seam in SEAMS:
        host = host_of(seam.target)
        unreached = (
            f"not needed ({host.distribution} is not installed)"
            if is_absent(host)
            else "not reached"
        )
        said = report.get(seam.target, {}).get(seam.name, unreached)
        version = installed_version(host.distribution)
        if host.measured is not None and version != host.measured:
            said = f"unknown version ({host.distribution} {version}, measured with {host.measured}); {said}"
        rows.append(Row("Seams", seam.name, seam.target, said))
    return rows


def device_rows(devices: dict[str, Any]) -> list[Row]:
    cores = len(os.sched_getaffinity(0))
    rows = [Row("Devices", "CPU", f"{cores} cores", f"{devices['threads']} threads used by torch")]
    for index, cuda in enumerate(devices["cuda"]):
        memory = f"{cuda['memory_bytes'] / (1 << 30):.0f} GiB"
        capability = ".".join(map(str, cuda["capability"]))
        rows.append(
            Row("Devices", f"cuda:{index}", cuda["name"], f"{memory}, capability {capability}")
        )
    if not devices["cuda"]:
        build = (
            f"built for CUDA {devices['cuda_build']}" if devices["cuda_build"] else "a CPU build"
        )
        rows.append(Row("Devices", "CUDA", "none", f"torch is {build}; train with --cpu"))
    return rows


def disk_row() -> Row:
    folder = Path.cwd()
    free_bytes = shutil.disk_usage(folder).free
    free = f"{free_bytes / (1 << 30):.1f} GiB free"
    if free_bytes >= ENOUGH_DISK_BYTES:
        return Row("Disk", free, str(folder), "ok")
    problem = f"The free disk space must be at least 2 GiB for checkpoints, but {folder} has {free}. Free some, or pass --save-dir on a larger disk."
    return Row("Disk", free, str(folder), "LOW", problem)


def probe() -> None:
    """What the child runs: import everything with a seam; the last line it prints is JSON of what it saw."""
    for target in dict.fromkeys(seam.target for seam in SEAMS):
        if not is_absent(host_of(target)):
            import_module(target)
    import torch

    devices = {
        "threads": torch.get_num_threads(),
        "cuda_build": torch.version.cuda,
        "cuda": [
            {
                "name": torch.cuda.get_device_name(index),
                "memory_bytes": torch.cuda.get_device_properties(index).total_memory,
                "capability": torch.cuda.get_device_capability(index),
            }
            for index in range(torch.cuda.device_count())
        ],
    }
    sys.stdout.write("\n" + json.dumps({"report": REPORT, "devices": devices}) + "\n")


def examine() -> list[Row]:
    """Every row of the table, in order."""
    hook = hook_row()
    rows = [python_row(), *map(version_row, LIBRARIES), hook, disk_row()]
    if hook.problem:  # without it most imports fail on Python >= 3.11, for no other reason
        return rows
    output, failure = run_child(PROBE)
    tokenizers = (
        "import tiktoken, tokenizers, sentencepiece, safetensors, backports.zstd, datasketch"
    )
    extra_failure = failure or run_child(tokenizers)[1]
    if extra_failure:
        rows += import_rows(failure)
    if output:
        answer = json.loads(output.splitlines()[-1])
        rows += device_rows(answer["devices"]) + seam_rows(answer["report"])
    return rows


def as_text(rows: Sequence[Row]) -> str:
    """The table, a section after the other, and the problems below it."""
    name_width = max(len(row.name) for row in rows)
    value_width = min(40, max(len(row.value) for row in rows))
    lines = []
    for section in dict.fromkeys(row.section for row in rows):
        lines.append(section)
        for row in rows:
            if row.section == section:
                lines.append(
                    f"  {row.name:<{name_width}}  {row.value:<{value_width}}  {row.state}".rstrip()
                )
        lines.append("")
    problems = [row.problem for row in rows if row.problem]
    if problems:
        lines.append(f"{len(problems)} problem{'s' * (len(problems) > 1)} to mend:")
        lines += [f"  {number}. {problem}" for number, problem in enumerate(problems, 1)]
    else:
        lines.append("Everything that training needs works.")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Print the table; 1 when something that training needs is broken, else 0."""
    doc = __doc__ or ""
    argparse.ArgumentParser(
        prog="metaseq doctor",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    rows = examine()
    sys.stdout.write(as_text(rows) + "\n")
    return 1 if any(row.problem for row in rows) else 0
