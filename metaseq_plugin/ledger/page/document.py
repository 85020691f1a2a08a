"""The account of runs as plain JSON, as the page's scripts take it: texts are written, numbers of curves are columns.

    document([account])         # {"title": "a", "made": "…", "runs": [{"name": "a", …}], "plots": […]}

Of several runs it also has a table that compares them. All times of day are UTC.
"""

import time
from typing import Any, Iterable, Mapping, Sequence

from metaseq_plugin.ledger.account import Account, Number, Start
from metaseq_plugin.ledger.page.marks import marks
from metaseq_plugin.ledger.page.plots import plots, tables

Json = dict[str, Any]
FIGURES = {  # the account's numbers that stand first, each with its label
    "loss": "Loss",
    "ppl": "Perplexity",
    "tokens_per_second": "Tokens a second",
    "tflops": "Model FLOPs a device",
    "mfu": "MFU",
    "hfu": "HFU",
    "kwh": "Energy",
    "co2e": "CO₂e",
}
NUMBERS = {  # those of the section on energy, in the order in which they follow from one another
    "model_flops": "Model FLOPs, attention as a full square",
    "model_flops_causal": "Model FLOPs, causal attention",
    "hardware_flops": "Hardware FLOPs, with recomputation",
    "device_hours": "Device-hours",
    "device_kwh": "Energy of the devices",
    "pue": "PUE",
    "kwh": "Energy at the building's meter",
    "intensity": "Carbon intensity",
    "co2e": "CO₂e",
}
SPENT = {
    "starting": "starting",
    "computing": "computing",
    "waiting": "waiting for data",
    "saving": "saving",
    "validating": "validating",
    "rewinding": "rewinding",
    "restarting": "restarting",
    "idle": "idle between starts",
    "lost": "updates that were lost",
    "unknown": "unknown",
}
