"""Whether a checkpoint's tensors fit a model, said before anything is copied."""

from typing import Any, Mapping

from metaseq_plugin.compat.errors import UserError


def check_fits(
    model: Mapping[str, Any], checkpoint: Mapping[str, Any], strict: bool, where: Any = ""
) -> None:
    """Refuse a checkpoint with a tensor of another shape; if ``strict``, also a missing or extra one.

    Args:
        model, checkpoint: name -> tensor.
        where: the checkpoint's path, if it is known.
    """
    problem = ""
    for name, tensor in model.items():
        if not problem and name in checkpoint and checkpoint[name].shape != tensor.shape:
            problem = (
                f"`{name}` must have shape {tuple(tensor.shape)}, "
                f"but is {tuple(checkpoint[name].shape)}"
            )
    strangers = sorted(model.keys() ^ checkpoint.keys()) if strict else []
    if strangers and not problem:
        holder = "the model" if strangers[0] in model else "the checkpoint"
        problem = f"`{strangers[0]}` must be in both, but is only in {holder}"
    if problem:
        raise UserError(
            f"The checkpoint{f' {where}' if where else ''} must fit the model and its dictionary: "
            f"{problem}. "
            "Set the --arch and the data folder (dict.txt) that it was trained with."
        )
