"""Silence what every start of a stock command prints about fairseq's and fairscale's own old calls.

A user can do nothing about them. Each filter names the module that warns and the message; they are
appended, so that ``-W`` and ``PYTHONWARNINGS`` still decide first. One fairseq module of another trade
also logs, at import, that tensorboardX should be installed; it keeps its warnings and errors.
"""

import logging
import re
import warnings

# (message starts with, the module that warns, category)
FILTERS: tuple[tuple[str, str, type[Warning]], ...] = (
    # decorators that run while fairscale is imported
    ("`torch.cuda.amp.custom_fwd(args...)` is deprecated", "fairscale", FutureWarning),
    ("`torch.cuda.amp.custom_bwd(args...)` is deprecated", "fairscale", FutureWarning),
    # fairseq's training step
    ("`torch.cuda.amp.autocast(args...)` is deprecated", "fairseq", FutureWarning),
    ("`torch.cuda.amp.GradScaler(args...)` is deprecated", "fairseq", FutureWarning),
    # fairseq asks for pinned memory whether or not there is a GPU
    ("'pin_memory' argument is set as true but no", "torch.utils.data.dataloader", UserWarning),
    # fairseq gives DistributedDataParallel an argument that is about to get another name
    ("`broadcast_buffers` is deprecated", "metaseq_plugin.compat.cpu_ranks", FutureWarning),
    # fairseq waits for all ranks at the end of a run, and has chosen each rank's GPU before
    ("barrier(): using the device under current context", "torch.distributed", UserWarning),
    # fairseq's own transformer passes a boolean and a float mask
    ("Support for mismatched key_padding_mask and attn_mask", "torch.nn.functional", UserWarning),
)

# Packages whose files Python 3.12 warns of where it compiles them: escapes that are none. Such a warning names a path.
COMPILED = ("fairseq", "fairseq_cli", "fairscale")


def silence() -> None:
    for message, module, category in FILTERS:
        warnings.filterwarnings(
            "ignore", re.escape(message), category, rf"{re.escape(module)}(\.|$)", append=True
        )
    folders = "|".join(COMPILED)
    warnings.filterwarnings("ignore", "", SyntaxWarning, rf".*[/\\](?:{folders})[/\\]", append=True)
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
