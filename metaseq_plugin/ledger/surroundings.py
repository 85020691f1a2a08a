"""What a run was launched in: versions, GPUs, host, variables; for ``SAVE_DIR/launch/environment.json``.

Nothing is imported to look: the versions stand in the metadata of the distributions, CUDA's in a file of torch,
the GPUs are asked of nvidia-smi. The launcher's host is often a login node without GPUs, so the agent of each node
records ``node_fields`` of its own as an event.
"""

import ast
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Optional

DISTRIBUTIONS = (
    "metaseq-plugin", "torch", "fairseq", "fairscale", "hydra-core", "omegaconf", "numpy", "submitit",
    "tokenizers", "safetensors",
)  # fmt: skip
# What steers Python, torch and its libraries, and the cluster.
VARIABLES = re.compile(
    r"(CUDA|NVIDIA|NCCL|GLOO|UCX|FI|TORCH|PYTORCH|TORCHINDUCTOR|TRITON|OMP|MKL|KMP|OPENBLAS|SLURM|SBATCH|"
    r"SRUN|SUBMITIT|METASEQ|PYTHON|CONDA|TOKENIZERS|WANDB|HIP|ROCR|HSA|MASTER)_?[A-Z0-9_]*|"
    r"PATH|LD_LIBRARY_PATH|LD_PRELOAD|VIRTUAL_ENV|LANG|LC_ALL|TMPDIR|HOSTNAME"
)
SECRET = re.compile(
    r"TOKEN(?!IZERS)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH|COOKIE|JWT|KEYS?(?=_|$)"
)
LEFT_OUT = "(left out)"
SMI_FIELDS = ("index", "name", "memory.total", "driver_version")
SMI_SECONDS = 20.0  # a driver that hangs is worth a word, not a launch


def surroundings() -> dict[str, Any]:
    """All of it, as JSON has it; bytes, and what nvidia-smi prints."""
    return {
        "host": socket.gethostname(),
        "folder": os.getcwd(),
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "versions": versions(),
        "cuda": torch_cuda(),
        **gpus(),
        "cpu": {"model": cpu_model(), "cores": os.cpu_count()},
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "variables": variables(),
    }


def node_fields() -> dict[str, Any]:
    """What the agent of a node records at its start: its host and its GPUs."""
    return {"node": socket.gethostname(), **gpus()}


def versions() -> dict[str, Optional[str]]:
    """Version of each distribution that matters, None if it is missing; NVIDIA's (NCCL, cuDNN) if installed."""
    found: dict[str, Optional[str]] = dict.fromkeys(DISTRIBUTIONS)
    for distribution in metadata.distributions():
        name = str(distribution.metadata["Name"])
        if name in found or name.startswith("nvidia-"):
            found[name] = distribution.version
    return found


def torch_cuda() -> Optional[str]:
    """The CUDA that torch was built with; None for a build without."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin).with_name("version.py").read_text("utf-8")
    for node in ast.parse(source).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else []
        targets = node.targets if isinstance(node, ast.Assign) else targets  # type: ignore[assignment]
        if [ast.unparse(target) for target in targets] == ["cuda"]:
            return ast.literal_eval(node.value)  # type: ignore[attr-defined]
    return None


def gpus() -> dict[str, Any]:
    """``gpus``, a mapping for each, and why there are none where nvidia-smi cannot say."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"gpus": []}
    command = [program, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SMI_SECONDS, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"gpus": [], "gpus_problem": f"nvidia-smi: {error}"}
    if done.returncode:
        return {
            "gpus": [],
            "gpus_problem": f"nvidia-smi: {(done.stderr or done.stdout).strip()[:500]}",
        }
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    names = [field.replace(".", "_") for field in SMI_FIELDS]
    return {"gpus": [dict(zip(names, row)) for row in rows if len(row) == len(names)]}


def cpu_model() -> str:
    """The model of the first core, as Linux names it."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1) if match else platform.processor()


def variables() -> dict[str, str]:
    """The variables that steer a run; of those whose names say that they are secret, only that they are set."""
    chosen = {
        name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)
    }
    return {
        name: LEFT_OUT if SECRET.search(name) else without_password(value)
        for name, value in chosen.items()
    }


def without_password(value: str) -> str:
    """``value``, whose addresses have no ``user:password@``."""
    return re.sub(r"(?<=://)[^/\s@]*@", f"{LEFT_OUT}@", value)
