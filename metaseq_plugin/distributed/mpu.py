"""``fairseq.model_parallel.megatron.mpu``, the git submodule that no release of fairseq contains.

The start-up finder serves this file under that name. It has what fairseq's trainer and its distributed
utilities import, answered by the grid of ``metaseq_plugin.distributed``. Names that only fairseq's own
model-parallel transformer uses are missing on purpose: fairseq takes their absence as its absence.
"""

from typing import Any, Dict


def initialize_model_parallel(model_parallel_size: int) -> None:
    """Make the groups; fairseq calls it once torch.distributed is initialised."""
    from metaseq_plugin.layout import grid

    grid.build(model_parallel_size, grid.backend_device())


def _grid() -> Any:
    from metaseq_plugin.layout import grid

    return grid.current()


def get_data_parallel_group() -> Any:
    return _grid().data_group


def get_data_parallel_rank() -> int:
    rank: int = _grid().data_parallel_rank
    return rank


def get_data_parallel_world_size() -> int:
    size: int = _grid().data_parallel_size
    return size


def get_model_parallel_group() -> Any:
    return _grid().model_group


def get_model_parallel_src_rank() -> int:
    """The global rank of this tensor-parallel group's first rank."""
    ranks = _grid()
    return int(ranks.data_parallel_rank * ranks.model_parallel_size)


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
