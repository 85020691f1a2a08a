"""What a command does not import before it needs it: ``--user-dir metaseq_plugin`` costs little beside fairseq."""

import subprocess
from typing import Callable

RunPython = Callable[..., subprocess.CompletedProcess[str]]
# Beside what fairseq imports itself. FSDP2 and DTensors bring sympy and torch's tracer, which took longer than
# all of ours together; the rest belongs to other commands.
NOT_FOR_HELP = (
    "torch.distributed.fsdp", "torch.distributed.tensor", "torch.fx.experimental.symbolic_shapes", "sympy",
    "torch._inductor", "transformers", "pandas", "matplotlib", "flask", "numpy.typing",
)  # fmt: skip
HELP = f"""
import contextlib, io, sys
import fairseq_cli.train
before = set(sys.modules)
sys.argv = ["fairseq-train", "--user-dir", "metaseq_plugin", "--help"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    fairseq_cli.train.cli_main()
assert "metaseq_plugin.tasks.opt_dummy_lm" in sys.modules
print(sorted(set({NOT_FOR_HELP}) & (set(sys.modules) - before)))
"""


def test_help_imports_nothing_heavy_beside_fairseq(run_python: RunPython) -> None:
    ended = run_python(HELP)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "[]"
