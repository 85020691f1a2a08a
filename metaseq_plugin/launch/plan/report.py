"""A plan as one screen of 80 columns: a line or two for each question, and what each answer is from.

print("\\n".join(lines(result)))
"""

import math
from typing import Iterator, Sequence

from metaseq_plugin.launch.plan.communication import HOST, NETWORK, NODE
from metaseq_plugin.launch.plan.estimate import Estimate
from metaseq_plugin.launch.plan.suggest import Suggestion, Suggestions
from metaseq_plugin.ledger.words import duration

GB = 1e9
INDENT = " " * 14
WIDTH = 80
PARTS = (
    ("weights", "parameters"),
    ("gradients", "gradients"),
    ("optimizer", "optimizer"),
    ("gathered weights", "gathered"),
    ("gradient buffers", "gradient_buffers"),
    ("activations", "activations"),
    ("the layer at work", "layer"),
    ("loss", "loss"),
    ("workspace", "workspace"),
)
SHOWN = 5  # suggestions


def lines(result: Estimate) -> Iterator[str]:
    """The whole screen."""
    for title, texts in (
        ("model", model(result)),
        ("layout", layout(result)),
        ("FLOPs", flops(result)),
        ("time", time(result)),
        ("exchange", exchange(result)),
        ("checkpoints", checkpoints(result)),
        ("energy", energy(result)),
    ):
        yield from entry(title, list(texts))
    yield ""
    yield from memory(result)


def entry(title: str, texts: Sequence[str]) -> Iterator[str]:
    """A title, and its lines beside it."""
    for number, text in enumerate(texts):
        yield f"{'' if number else title:13} {text}"


def model(result: Estimate) -> Iterator[str]:
    planned, size = result.planned, result.planned.size
    yield (
        f"{planned.arch}: {planned.num_parameters:,} parameters, {size.layers} layers × "
        f"{size.embed_dim} wide"
    )


def layout(result: Estimate) -> Iterator[str]:
    planned, settings = result.planned, result.planned.settings
    kind = (
        "plain"
        if not settings.fully_sharded
        else f"ZeRO-{3 if settings.reshard_after_forward else 2}"
    )
    where = "CPU" if planned.device is None else planned.device.name
    yield f"{planned.num_ranks:,} × {where}, {planned.num_nodes:,} {'node' if planned.num_nodes == 1 else 'nodes'} of {planned.ranks_per_node}"
    yield (
        f"{planned.model_parallel_size} model {'part' if planned.model_parallel_size == 1 else 'parts'} × "
        f"{planned.data_parallel_size:,} data-parallel "
        f"({kind}), {settings.precision.replace('_', ' ')}"
    )
    batch = planned.batch
    yield (
        f"an update: {batch.batch_tokens:,} tokens = {planned.data_parallel_size:,} × --batch-size "
        f"{batch.batch_size} ×"
    )
    yield f"--update-freq {batch.update_freq} × {settings.tokens_per_sample:,} tokens"
    count = settings.checkpointed_layers(planned.size.layers)
    if settings.is_selective:
        yield f"norms and dropout of {count} layers are computed again"
    elif settings.checkpoint_layers is not None:
        yield f"{count} of the layers are run again"
    if planned.asked_tokens:
        yield f"({planned.asked_tokens:,} were asked for: this is the nearest that divides)"


def flops(result: Estimate) -> Iterator[str]:
    planned = result.planned
    full, causal = planned.flops, planned.flops_by(causal=True)
    this = " (this run)"
    share = planned.recomputed_share
    yield "of a token, attention as a full square (6N + 12LDT), or causal"
    yield (
        f"model {number(full.training)}, {number(causal.training)}{'' if share else this}; recomputing "
        f"{number(full.hardware(share or 1))}, {number(causal.hardware(share or 1))}{this if share else ''}"
    )
    yield f"{planned.tokens:,.0f} tokens: {result.total_flops:.3g} in all"


def time(result: Estimate) -> Iterator[str]:
    took, planned = result.time, result.planned
    yield (
        f"{took.tokens_per_second:,.0f} tokens/s: {planned.num_updates:,} updates of "
        f"{took.update_seconds:.3g} s"
    )
    whole = f"{result.wall_days:.1f}" if math.isfinite(result.wall_days) else "never done"
    yield f"{took.days:.1f} days; {whole} with saves and failures"
    shares = ""
    if planned.device is not None:
        shares = (
            f": HFU {took.rate.flops / planned.peak:.1%}, MFU {took.model_rate / planned.peak:.1%}"
        )
    yield f"at {rate(took.rate.flops)} a rank{shares}, from"
    yield from wrapped(took.rate.source)


def exchange(result: Estimate) -> Iterator[str]:
    sent, planned = result.exchange, result.planned
    if not sent.sent:
        yield "none: one rank"
        return
    for each in sent.sent:
        yield f"{each.what} {each.num_bytes / GB:,.3g} GB, {each.link}" + (
            f": {each.seconds:.2g} s" if planned.device is not None else ""
        )
    if planned.device is not None:
        sources, links = planned.device.sources, {each.link for each in sent.sent}
        rates = {NODE: "link_rate", NETWORK: "node_rate", HOST: "host_rate"}
        slowest = [sources[rates[link]] for link in rates if link in links or link == NODE]
        hidden = sent.hidden_share(result.time.update_seconds)
        yield f"by a rank, an update, at full rate; computing can hide {hidden:.0%} of it"
        yield from wrapped(f"from {', '.join(slowest)}")


def checkpoints(result: Estimate) -> Iterator[str]:
    saves, assumed = result.checkpoints, result.assumed
    yield (
        f"{saves.num_bytes / GB:,.4g} GB in {saves.num_writers:,} {'file' if saves.num_writers == 1 else 'files'}, {duration(saves.save_seconds)} "
        f"at {assumed.write_rate / GB:g} GB/s a rank"
    )
    yield (
        f"a failure every {duration(saves.mtbf_seconds)}: save every "
        f"{duration(saves.interval_seconds)} (Young: {duration(saves.young_seconds)}),"
    )
    updates = max(1, round(saves.interval_seconds / result.time.update_seconds))
    yield f"--save-interval-updates {updates:,}; {saves.lost_share:.1%} of the time is lost"
    basis = "--mtbf" if assumed.mtbf_hours else f"a device's {assumed.device_mtbf_hours:,.0f} hours"
    yield f"from {basis}, and {duration(assumed.restart_seconds)} to start again"


def energy(result: Estimate) -> Iterator[str]:
    used, assumed, device = result.energy, result.assumed, result.planned.device
    if used is None or device is None or result.carbon_kg is None:
        yield "not known of a CPU"
        return
    if not math.isfinite(used.device_kwh):
        yield "not known of a run that is never done"
        return
    yield (
        f"{used.device_kwh:,.0f} kWh at the devices, {used.facility_kwh:,.0f} kWh with PUE "
        f"{assumed.pue:g}:"
    )
    yield f"{result.carbon_kg / 1000:,.3g} t CO2e at {assumed.intensity:g} g/kWh"
    yield f"from {device.watts:g} W rated × {assumed.power_share:g} × the days with failures"


def memory(result: Estimate) -> Iterator[str]:
    """A table: the parts at the peak, and what another setting would make of it."""
    names = list(result.memories)
    yield f"{'GB of a rank at the peak':26}" + "".join(f"{name:>13}" for name in names)
    peaks = [each.at_peak for each in result.memories.values()]
    for title, part in PARTS:
        sizes = [getattr(peak, part) for peak in peaks]
        if any(sizes):
            yield f"  {title:24}" + "".join(f"{size / GB:13,.2f}" for size in sizes)
    yield f"  {'together':24}" + "".join(f"{peak.total / GB:13,.2f}" for peak in peaks)
    yield f"  {'when':24}" + "".join(f"{peak.name:>13}" for peak in peaks)
    device = result.planned.device
    if device is None:
        return
    verdicts = ("fits" if peak.total <= device.memory else "DOES NOT FIT" for peak in peaks)
    yield f"  {f'of {device.memory / GB:g} GB':24}" + "".join(f"{text:>13}" for text in verdicts)
    yield "  without the process itself: CUDA's context and NCCL's buffers come on top"


def suggestions(found: Suggestions, device_bytes: float) -> Iterator[str]:
    """The fastest of what fits, with why; or why nothing does."""
    yield ""
    if not found.fitting:
        yield (
            f"None of {found.tried} layouts fits {device_bytes / GB:g} GB; the smallest takes "
            f"{found.smallest_peak / GB:,.1f} GB at the peak."
        )
        return
    yield f"{len(found.fitting)} of {found.tried} layouts fit; the fastest (comparable with each other only):"
    yield "  parts  ZeRO  recompute  cut  batch × freq  GB peak  s/update  of it exchange"
    yield from map(suggestion, found.fitting[:SHOWN])
    yield from reasons(found.fitting)


def suggestion(each: Suggestion) -> str:
    planned, settings = each.planned, each.planned.settings
    zero = 0 if not settings.fully_sharded else 3 if settings.reshard_after_forward else 2
    recompute = settings.recompute if settings.checkpoint_activations else "no"
    cuts = "yes" if settings.sequence_parallel else "no"
    batch = f"{planned.batch.batch_size} × {planned.batch.update_freq}"
    return (
        f"{planned.model_parallel_size:7}{zero:6}{recompute:>11}{cuts:>5}{batch:>14}"
        f"{each.peak / GB:9.1f}{each.update_seconds:10.3g}{each.exposed_seconds:16.3g}"
    )


def reasons(fitting: Sequence[Suggestion]) -> Iterator[str]:
    """What the first has over the next that differs in it."""
    best = fitting[0]
    for text, differs in (
        ("recomputing the other way", lambda s: s.layers_run_again(1)),
        ("sharding the other way", lambda s: (s.fully_sharded, s.reshard_after_forward)),
    ):
        other = next((s for s in fitting if differs(s.planned.settings) != differs(best.planned.settings)), None)  # fmt: skip
        if other is None:
            yield f"  {text} fits in no layout"
        else:
            yield f"  {text} takes {other.update_seconds / best.update_seconds - 1:.1%} longer at best"
    parts = best.planned.model_parallel_size
    other = next((s for s in fitting if s.planned.model_parallel_size != parts), None)
    if other is not None:
        yield (
            f"  {other.planned.model_parallel_size} model parts take "
            f"{other.update_seconds / best.update_seconds - 1:.1%} longer at best"
        )


def wrapped(text: str) -> Iterator[str]:
    """``text`` in lines that leave room for the indent."""
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > WIDTH - len(INDENT):
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line


def number(value: float) -> str:
    """FLOPs with a unit: 1.076 T."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g}"


def rate(value: float) -> str:
    return f"{number(value)}FLOP/s"
