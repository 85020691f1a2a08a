"""``fairseq.model_parallel.megatron.mpu``, the git submodule that no release of fairseq contains.

The start-up finder serves this file under that name. It has what fairseq's trainer and its distributed
utilities import, answered by the registered host. Names that only fairseq's own model-parallel
transformer uses are missing on purpose: fairseq takes their absence as its absence.
"""

from typing import Any, Dict

from metaseq_plugin.compat.host import Host, registered


def _host() -> Host:
    host = registered()
    if host is None:
        raise ImportError("--model-parallel-size needs --user-dir metaseq_plugin")
    return host


def initialize_model_parallel(model_parallel_size: int) -> None:
    """Make the groups; fairseq calls it once torch.distributed is initialised."""
    _host().make_groups(model_parallel_size)


def get_data_parallel_group() -> Any:
    return _host().grid().data_group


def get_data_parallel_rank() -> int:
    return int(_host().grid().data_parallel_rank)


def get_data_parallel_world_size() -> int:
    return int(_host().grid().data_parallel_size)


def get_model_parallel_group() -> Any:
    return _host().grid().model_group


def get_model_parallel_src_rank() -> int:
    """The global rank of this tensor-parallel group's first rank."""
    grid = _host().grid()
    return int(grid.data_parallel_rank * grid.model_parallel_size)


def model_parallel_cuda_manual_seed(seed: int) -> None:
    """Nothing: a cut block's dropout follows from the seed that fairseq sets at each update."""


class NoStates:
    """Megatron's tracker of random streams, of which none outlives an update here."""

    def get_states(self) -> Dict[str, Any]:
        return {}

    def set_states(self, states: Dict[str, Any]) -> None:
        """Nothing is kept."""


def get_cuda_rng_tracker() -> NoStates:
    return NoStates()
