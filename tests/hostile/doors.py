"""The doors of a model's folder, and what each must do with a stranger's: read it, or one sentence."""

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

from safetensors.torch import save_file

from metaseq_plugin.compat.errors import MAX_CHARACTERS, UserError
from metaseq_plugin.formats.hf.config import to_hf_config
from metaseq_plugin.formats.hf.names import to_hf
from metaseq_plugin.formats.tokenizer import fairseq_tokenizer, hf_tokenizer, metaseq_tokenizer
from metaseq_plugin.hub import OPT
from metaseq_plugin.tokenizers.dictionary import DICTIONARY_FILE, load_dictionary
from metaseq_plugin.tokenizers.open import from_folder
from tests.formats.folders import VOCAB_SIZE, write_tokenizer
from tests.opt_models import KINDS, config, decoder

MAX_SECONDS = 10
SHAPE = KINDS["pre-norm"]
Door = Callable[[Path, Path], Any]  # the folder, and one to write to


def write_model(folder: Path) -> None:
    """A sound Hugging Face folder with a tokenizer, without the help of transformers."""
    folder.mkdir()
    ours = decoder(vocab_size=VOCAB_SIZE, **SHAPE)
    held = {to_hf(f"decoder.{name}"): tensor for name, tensor in ours.state_dict().items()}
    save_file(held, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps(to_hf_config(config(**SHAPE), VOCAB_SIZE, "float32"))
    )
    write_tokenizer(folder)


def open_model(folder: Path, out: Path) -> None:
    OPT.from_pretrained(folder).score([[5, 6]])


def open_tokenizer(folder: Path, out: Path) -> None:
    tokenizer = from_folder(folder)
    tokenizer.decode(tokenizer.encode("the cat\u2581 sat \U0001f600"))
    tokenizer.save(out)


def write_for_fairseq(folder: Path, out: Path) -> None:
    fairseq_tokenizer(folder, out, VOCAB_SIZE)


def write_for_hf(folder: Path, out: Path) -> None:
    has_dictionary = (folder / DICTIONARY_FILE).is_file()
    hf_tokenizer(folder, out, load_dictionary(folder).indices if has_dictionary else None, 40)


def write_for_metaseq(folder: Path, out: Path) -> None:
    metaseq_tokenizer(folder, out, VOCAB_SIZE, None)


def open_dictionary(folder: Path, out: Path) -> None:
    load_dictionary(folder).save(str(out / "dict.txt"))


TOKENIZER_DOORS: tuple[Door, ...] = (
    open_tokenizer,
    write_for_fairseq,
    write_for_hf,
    write_for_metaseq,
)


def complaints(
    folder: Path, file: str, cases: Iterable[tuple[str, bytes]], doors: Iterable[Door], out: Path
) -> Iterator[str]:
    """What is wrong with the way in which ``doors`` take each case of ``file`` in ``folder``."""
    out.mkdir(exist_ok=True)
    for name, raw in cases:
        (folder / file).write_bytes(raw)
        for door in doors:
            what = f"{file}, {name}, {door.__name__}"
            started, printed = time.perf_counter(), io.StringIO()
            try:
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                    door(folder, out)
            except UserError as error:
                said = str(error)
                if not said.isprintable() or len(said) > MAX_CHARACTERS + 10 or "." not in said:
                    yield f"{what}: {said!r}"
            except BaseException as error:  # noqa: BLE001 (a panic of Rust's is no Exception)
                yield f"{what}: {type(error).__name__}: {error!s:.200}"
            if time.perf_counter() - started > MAX_SECONDS:
                yield f"{what}: took {time.perf_counter() - started:.0f} s"
