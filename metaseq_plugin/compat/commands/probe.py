"""What ``metaseq doctor`` asks a child process: import everything with a seam, and tell what was seen.

    python -c "from metaseq_plugin.compat.commands import probe; probe()"

It runs apart from the doctor, so that a library that crashes the interpreter ends the child only.
The answer is one line of JSON, the last of its standard output.
"""

import json
import sys
from importlib import import_module
from typing import Any

# Names, not modules: `from metaseq_plugin.compat import x` would import the parent package.
from metaseq_plugin.compat.startup import REPORT, SEAMS


def devices() -> dict[str, Any]:
    """CPU threads, and every CUDA device with its memory in bytes and whether it computes in bf16."""
    import torch

    return {
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


def main() -> None:
    for target in dict.fromkeys(seam.target for seam in SEAMS):
        import_module(target)
    answer = {"report": REPORT, "devices": devices()}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
