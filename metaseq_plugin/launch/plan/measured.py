"""The rate that a run of yours reached, from its folder: ``--measured runs/a``.

    rate = tokens/s · hardware FLOPs of its token / ranks

(1) ``SAVE_DIR/config.yaml`` says what it trained and on how many ranks; (2) its log says how fast: the median of
``wps`` over its ``train_inner`` lines without the first, which holds the start; (3) the log's line of the model says
how many parameters, from which the size of the vocabulary follows. The log is ``SAVE_DIR/launch/logs/rank-0.log`` of
``metaseq launch``, or else the ``--log-file`` of the run.
"""

import re
import statistics
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.plan.utilisation import Rate
from metaseq_plugin.launch.rank_bytes import rank_elements
from metaseq_plugin.launch.spec import LAUNCH
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.ledger.flops import VOCAB_SIZE, model_flops, recomputed_share
from metaseq_plugin.sizes import OPTSize, size_of

CONFIGURATION = "config.yaml"
RANK_LOG = Path(LAUNCH) / "logs" / "rank-0.log"
# "wps": "4614.7" or wps=4614.7, of train_inner: neither valid_wps nor train_wps.
SPEED = re.compile(r"(?<![a-z_])wps(?:\": \"|=)(\d+(?:\.\d+)?)")
PARAMETERS = re.compile(r"model +\S+: .* heads, ([\d,]+) parameters")
DEVICE = re.compile(r"precision +\S.* on (\S.*)")
POSITION_OFFSET = 2  # rows of the position table before the first token's


def measured(run: Path) -> Rate:
    """Hardware FLOPs a second of one rank of ``run``.

    Raises:
        UserError: the folder does not say; says what is missing.
    """
    config = read_configuration(run)
    log = find_log(run, config)
    lines = list(read_lines(log))
    speeds = [float(found[1]) for line in lines for found in SPEED.finditer(line)]
    speeds = [speed for speed in (speeds[1:] or speeds) if speed > 0]
    if not speeds:
        raise UserError(
            f"`--measured` must name a run that logged its speed, but {log} holds no wps. "
            "Train it for some lines of --log-interval."
        )
    speed = statistics.median(speeds)
    try:
        ranks = max(1, int(config["distributed_training"]["distributed_world_size"]))
        rate = speed * hardware_flops(config, first(PARAMETERS, lines)) / ranks
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"`--measured` must name a run of an OPT, but {run / CONFIGURATION} is of none "
            f"({type(error).__name__}: {error}). Name another."
        ) from error
    on = first(DEVICE, lines)
    return Rate(
        rate,
        f"{run}: {speed:,.0f} tokens/s, median of {len(speeds)}, {ranks} "
        f"{'rank' if ranks == 1 else 'ranks'}{f' on {on}' if on else ''}",
    )


def read_configuration(run: Path) -> Mapping[str, Any]:
    """The options of the run, as it wrote them at its start."""
    import yaml  # slow to load, and seldom needed

    path = run / CONFIGURATION
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"`--measured` must name the folder of a run, but {path} does not exist. Name a --save-dir."
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"`--measured` must name a run whose {CONFIGURATION} can be read, but: {error}. Name another."
        ) from error
    wanted = ("common", "distributed_training", "model", "task")
    if not isinstance(config, dict) or not all(isinstance(config.get(n), dict) for n in wanted):
        raise UserError(
            f"{path} must hold the options of a run ({', '.join(wanted)}), but does not. Name another run."
        )
    return config


def find_log(run: Path, config: Mapping[str, Any]) -> Path:
    """The log with the run's lines of speed."""
    named = config["common"].get("log_file")
    places = [run / RANK_LOG, *([Path(named), run / Path(named).name] if named else [])]
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"`--measured` must name a run with a log ({' or '.join(map(str, places))}), but {run} has none. "
        "Start it with metaseq launch, or with --log-file."
    )


def read_lines(log: Path) -> Iterator[str]:
    try:
        with log.open(encoding="utf-8", errors="replace") as stream:
            yield from stream
    except OSError as error:
        raise UserError(f"{log} must be readable, but: {error.strerror}. Name another.") from error


def first(pattern: "re.Pattern[str]", lines: list[str]) -> Optional[str]:
    """What the first line of the pattern says."""
    return next((found[1].strip() for line in lines if (found := pattern.search(line))), None)


def hardware_flops(config: Mapping[str, Any], parameters: Optional[str]) -> float:
    """Of a token of the run."""
    model, task = config["model"], config["task"]
    size = size_of(model)
    positions = int(model["decoder_max_positions"]) + POSITION_OFFSET
    vocab_size = VOCAB_SIZE
    if parameters is not None:
        vocab_size = vocabulary(size, int(parameters.replace(",", "")), positions)
    flops = model_flops(
        size, int(task["tokens_per_sample"]), vocab_size, dropout=float(model["dropout"])
    )
    return flops.hardware(recomputed_share(model, size.layers))


def vocabulary(size: OPTSize, parameters: int, position_rows: int) -> int:
    """V of a model of so many parameters: what the rest leaves, in rows of E."""
    rest = sum(rank_elements(size, Layout(1, 1), rank=0, vocab_size=0, position_rows=position_rows))
    return (parameters - rest) // (size.word_embed_dim or size.embed_dim)
