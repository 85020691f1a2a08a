"""Whoever is to be evaluated, from a command line: files on this machine, or the address of a server.

add_model_arguments(parser)
model = open_model(parser.parse_args())
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.requests import Model
from metaseq_plugin.generation.generator import MAX_BATCH_TOKENS

VALUES_LOOKED_AT = 16  # of each tensor


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which model is meant; an option that is not given is None."""
    add = parser.add_argument_group("the model").add_argument
    add("--path", metavar="PATH", help="a run folder, a checkpoint, a Hugging Face folder, metaseq's "
        "files, or http://HOST:PORT of a server")  # fmt: skip
    add("--tokenizer", metavar="DIR", help="the tokenizer's folder; default: PATH's, or its data's")
    add("--device", help="cpu, cuda or cuda:N; default: a GPU if any")
    add("--dtype", metavar="TYPE", help="float32, float16 or bfloat16; default: float32 on CPUs")
    add("--model-parallel-size", type=int, default=1, metavar="N",
        help="devices over which each matrix is cut (1)")  # fmt: skip
    add("--batch-tokens", type=int, metavar="N",
        help=f"most tokens of a batch, padding and new ones included ({MAX_BATCH_TOKENS:,})")  # fmt: skip
    add("--trust-pickle", action="store_true",
        help="read files that can run any program on this machine")  # fmt: skip
    add("--served-model", metavar="NAME", help="of a server with several models: which")
    add("--api-key-file", type=Path, metavar="FILE", help="holds the key that the server asks for")


def open_model(args: argparse.Namespace) -> Model:
    """The model that ``add_model_arguments`` were given.

    Raises:
        UserError: what is wrong with the files, the server or the options.
    """
    if is_url(args.path):
        return open_endpoint(args)
    for name in ("served_model", "api_key_file"):
        if vars(args)[name] is not None:
            raise UserError(
                f"`--{name.replace('_', '-')}` must go with a server's address, but --path is {args.path}. "
                "Leave it out."
            )
    return open_local(args)


def is_url(path: str) -> bool:
    """Whether ``--path`` is an address."""
    return path.startswith(("http://", "https://"))


def open_endpoint(args: argparse.Namespace) -> Model:
    from metaseq_plugin.evaluate.endpoint import EndpointModel

    given = {
        "tokenizer": args.tokenizer,
        "device": args.device,
        "dtype": args.dtype,
        "batch_tokens": args.batch_tokens,
        "trust_pickle": args.trust_pickle or None,
        "model_parallel_size": None if args.model_parallel_size == 1 else args.model_parallel_size,
    }
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"`--{name.replace('_', '-')}` must be left out where a server is asked, but is {value}. "
                "The server has its own."
            )
    key = None if args.api_key_file is None else read_key(args.api_key_file)
    return EndpointModel(args.path, key, args.served_model)


def open_local(args: argparse.Namespace) -> Model:
    from metaseq_plugin.evaluate.model import LocalModel
    from metaseq_plugin.formats.model import read_model
    from metaseq_plugin.hub import OPT

    opt = OPT.from_pretrained(
        args.path, args.tokenizer, args.device, args.dtype, args.trust_pickle, args.model_parallel_size
    )  # fmt: skip
    folder = None if args.tokenizer is None else Path(args.tokenizer)
    source = read_model(Path(args.path), folder, args.trust_pickle)  # mapped, not read again
    about = {
        "path": args.path,
        "checkpoint": source.label,
        "num_parameters": sum(twin.numel() for twin in source.tensors.twins.values()),
        "fingerprint": fingerprint(source),
    }
    return LocalModel(opt, args.batch_tokens, about=about)


def fingerprint(source: Any) -> str:
    """SHA-256 of a model's settings, and its tensors' names, shapes and first values (``formats.model.Model``).

    Every update changes each tensor, so that two checkpoints of a run differ; a copy in another place does not.
    """
    from omegaconf import OmegaConf

    from metaseq_plugin.layout.piece import Piece

    settings = OmegaConf.to_container(source.cfg)
    found = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, twin in source.tensors.twins.items():
        # The beginning of the last row: the first one may be that of a token which never occurs.
        piece = Piece.whole(twin.shape)
        for dim, size in enumerate(twin.shape[:-1]):
            piece = piece.narrow(dim, size - 1, 1)
        piece = piece.narrow(twin.dim() - 1, 0, min(VALUES_LOOKED_AT, twin.shape[-1]))
        values = source.tensors.piece(name, piece).flatten().float().tolist()
        found.update(f"{name} {list(twin.shape)} {values}".encode())
    return found.hexdigest()


def read_key(path: Path) -> Optional[str]:
    """The first key of a file as ``metaseq serve --api-key-file`` reads it.

    Raises:
        UserError: there is none.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"`--api-key-file` must be a text file, but {path} cannot be read ({error}). "
            "Write the key into it."
        ) from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys or not keys[0].isascii() or not keys[0].isprintable():
        raise UserError(
            f"`--api-key-file` must hold a key of ASCII characters, but {path} does not. Write the key into it."
        )
    return keys[0]
