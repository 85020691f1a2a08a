"""Jobs: ranks started through submitit, watched, stopped in time and started again.

``submit`` gives runs to submitit; ``agent`` is what it runs, once a node; ``keep`` keeps a run alive, start after
start, each of which is an ``attempt``.
"""

from metaseq_plugin.launch.jobs.submit import sbatch_script, submit

__all__ = ["sbatch_script", "submit"]
