"""The model and its engine, made while the server answers already that it is loading.

The steps: (1) the hub reads the weights; or, with ``--model-parallel-size``, each rank its
part of them; (2) a batch of rows is made over the model; (3) an engine is started on it.
"""

from pathlib import Path
from typing import NamedTuple, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.batch import Batch
from metaseq_plugin.generation.engine import Engine
from metaseq_plugin.hub import OPT
from metaseq_plugin.modules.kv_cache import bytes_per_token
from metaseq_plugin.serve.options import Options


class Source(NamedTuple):
    """Where the model lies and how it is wanted, as ``OPT.from_pretrained`` takes it."""

    path: Path
    data: Optional[Path] = None
    device: Optional[str] = None
    dtype: Optional[str] = None
    trust_pickle: bool = False
    model_parallel_size: int = 1


def load(source: Source, options: Options) -> tuple[OPT, Engine]:
    """A model, and an engine that runs it; on ranks other than 0 it ends the process.

    Raises:
        UserError: what is wrong with the files, or that no tokenizer's are among them.
    """
    opt = OPT.from_pretrained(*source)
    if opt.tokenizer is None:
        opt.close()
        raise UserError(
            f"`--path` must have tokenizer files beside the weights, but {source.path} has none. "
            "Set `--data` to the folder that has them."
        )
    batch = make_batch(opt, options.max_batch_tokens)
    return opt, Engine(batch, options.max_batch_tokens, options.max_waiting)


def make_batch(opt: OPT, max_tokens: int) -> Batch:
    """A batch with memory for the keys and values of ``max_tokens`` tokens."""
    return Batch([opt.model], opt.generator.pad, opt.generator.eos, max_tokens)


def report(opt: OPT, source: Source, options: Options) -> list[str]:
    """What was loaded, in a few lines."""
    parameters = sum(parameter.numel() for parameter in opt.model.parameters())
    num_ranks = source.model_parallel_size
    weight = opt.model.output_weight
    decoder = opt.model.decoder
    positions = decoder.embed_positions.weight  # (positions, features)
    each = bytes_per_token(len(decoder.layers), positions.size(1), positions.dtype)
    memory = options.max_batch_tokens * each / num_ranks / 2**20
    place = f"on {weight.device}" if num_ranks == 1 else f"on each of {num_ranks} ranks"
    return [
        f"model: {options.name}, from {source.path}",
        f"parameters: {parameters:,}, {str(opt.dtype).removeprefix('torch.')} {place}",
        f"keys and values: at most {memory:,.0f} MiB for {options.max_batch_tokens:,} tokens "
        "(--max-batch-tokens)",
    ]
