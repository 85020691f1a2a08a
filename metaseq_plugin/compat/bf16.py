"""``--bf16`` means bf16, not a TPU.

``fairseq.options.parse_args_and_arch`` sets ``tpu`` wherever ``bf16`` is set, from the days when only
TPUs had the type, and the trainer then imports torch_xla. The option stays what the user typed.
"""

import sys
from functools import wraps
from typing import Any, Callable, Optional, Sequence


def keeping_the_device(parse_args_and_arch: Callable[..., Any]) -> Callable[..., Any]:
    """``parse_args_and_arch``, with ``tpu`` set only by ``--tpu``."""

    @wraps(parse_args_and_arch)
    def wrapper(
        parser: Any, input_args: Optional[Sequence[str]] = None, *more: Any, **named: Any
    ) -> Any:
        result = parse_args_and_arch(parser, input_args, *more, **named)
        args = result[0] if isinstance(result, tuple) else result  # with the unknown ones beside
        if "tpu" in args:  # the parser of overrides leaves out what was not typed
            args.tpu = "--tpu" in (sys.argv[1:] if input_args is None else input_args)
        return result

    return wrapper
