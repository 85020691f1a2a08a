"""The GPU's softmax kernel without a GPU: its values in Triton's interpreter, and that a compiler for an H100 accepts it.

The interpreter is chosen when triton is imported, hence a process of its own.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 300

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None,
    reason="needs triton, which PyTorch's CPU build does not bring and which is too large (over 600 MB) "
    "to be a requirement of the tests; pip install triton",
)


@needs_triton
@pytest.mark.slow
def test_its_values_in_the_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/modules/interpreted_softmax.py"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert run.returncode == 0, run.stdout[-3_000:]


@needs_triton
@pytest.mark.parametrize("kind", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["_whole_rows", "_statistics", "_gradient"])
def test_it_compiles_for_an_h100(name: str, kind: str) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from metaseq_plugin.modules import softmax_kernel

    kernel: Any = getattr(softmax_kernel, name)
    types = {
        "logits": f"*{kind}",
        "stride": "i64",
        "num_columns": "i32",
        "target": "*i64",
        "scale": "fp32",
    }
    constants = {"BLOCK": softmax_kernel.BLOCK, "WITH_GRADIENT": True}
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature = {
        key: "constexpr" if key in constants else types.get(key, "*fp32")
        for key in kernel.arg_names
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": softmax_kernel.WARPS}
    )
    assert compiled.asm["cubin"]
    assert "local" not in compiled.asm["ptx"], "registers do not suffice"
