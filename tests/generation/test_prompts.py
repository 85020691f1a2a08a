"""What ``fairseq-interactive`` makes of a typed line: the ids of the Python door, to the last space."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fairseq.data import Dictionary

from metaseq_plugin.hub import OPT
from metaseq_plugin.tokenizers.open import TOKENIZER_FILES, from_folder
from metaseq_plugin.tokenizers.train import train_byte_level_bpe, train_sentence_pieces
from tests.fairseq_runs import Ended, run_fairseq, train, write_data, write_split

TEXTS = ["def f(x):\n    return x\n", "the cat's  naïve café ☕\n", "\tindented\r\n"] * 8
VOCAB_SIZE = 320
LINES = (
    "    return x", "return x", "the cat  ", " ", "   ", "\t", "", "a\rb", "x\x0b\x0c\x1c y",
    "\xa0caf\u00e9\u2028 \u2603", "\r", "</s>", "a  b",
)  # fmt: skip


class Model(NamedTuple):
    """A model with a tokenizer, and a data folder without its files."""

    folder: Path
    data: Path
    checkpoint: Path
    opt: OPT


@pytest.fixture(scope="module", params=["opt_bpe", "opt_sentencepiece"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp(request.param)
    data = folder / "data"
    data.mkdir()
    if request.param == "opt_bpe":
        train_byte_level_bpe(TEXTS, VOCAB_SIZE, data)
    else:
        train_sentence_pieces(TEXTS, VOCAB_SIZE, data, exact_size=False)
    tokenizer = from_folder(data)
    tokenizer.save(data)
    for split in ("train", "valid"):
        write_split(data, split, [tokenizer.encode(text).tolist() for text in TEXTS])
    ended = train(data, folder / "run", "--max-update", 1, "--init-std", 0.1)
    assert ended.status == 0, ended.output
    checkpoint = folder / "run" / "checkpoint_last.pt"
    return Model(folder, data, checkpoint, OPT.from_pretrained(checkpoint))


def interactive(model: Model, *options: Any, data: Any = None, lines: Any = LINES) -> Ended:
    typed = model.folder / "typed.txt"
    typed.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return run_fairseq(
        "interactive", data or model.data, "--user-dir", "metaseq_plugin",
        "--task", "opt_language_modeling", "--cpu", "--path", model.checkpoint, "--beam", 1,
        "--max-len-b", 1, "--input", typed, *options, log_dir=model.folder,
    )  # fmt: skip


def ids_of(model: Model, ended: Ended) -> list[list[int]]:
    """The ids of every prompt, by the symbols of the S- lines."""
    assert ended.status == 0, ended.output
    dictionary = Dictionary.load(str(model.data / "dict.txt"))
    lines = re.findall(r"^S-\d+\t(.*)$", ended.output, re.MULTILINE)
    return [[dictionary.index(symbol) for symbol in line.split(" ") if symbol] for line in lines]


def test_a_prompt_is_the_whole_line(model: Model) -> None:
    expected = [model.opt.encode(line) for line in LINES]
    assert expected[0] != expected[1]
    ended = interactive(model)
    assert ids_of(model, ended) == expected
    assert "<unk>" not in ended.output
    (back,) = re.findall(r"^D-0\t\S+\t(.*)$", ended.output, re.MULTILINE)
    assert back.startswith("    return x")
    together = interactive(model, "--buffer-size", 5, "--batch-size", 5)
    assert ids_of(model, together) == expected


def test_standard_input_is_read_alike(model: Model) -> None:
    common = ("--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--cpu", "--path",
              model.checkpoint, "--beam", 1, "--max-len-b", 1)  # fmt: skip
    ended = run_fairseq("interactive", model.data, *common, log_dir=model.folder, stdin="  a \n\nb")
    assert ids_of(model, ended) == [model.opt.encode(line) for line in ("  a ", "", "b")]


@pytest.mark.parametrize(
    "where", ["beside the checkpoint", "in the run's data folder", "DATA is the run"]
)
def test_the_tokenizer_of_the_model_is_found(model: Model, tmp_path: Path, where: str) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "dict.txt").write_bytes((model.data / "dict.txt").read_bytes())
    beside = model.checkpoint.parent
    copied = []
    if where == "beside the checkpoint":
        copied = [beside / name for name in (*TOKENIZER_FILES, "dict.txt")]
        copied = [path for path in copied if (model.data / path.name).is_file()]
        for path in copied:
            path.write_bytes((model.data / path.name).read_bytes())
    ended = interactive(model, data=beside if where == "DATA is the run" else bare)
    for path in copied:
        path.unlink()
    assert ids_of(model, ended) == [model.opt.encode(line) for line in LINES]


def options_of(folder: Path) -> tuple[Any, ...]:
    """``--bpe`` and its options, for the tokenizer in ``folder``."""
    if (folder / "vocab.json").is_file():
        files = (
            "--opt-bpe-vocab",
            folder / "vocab.json",
            "--opt-bpe-merges",
            folder / "merges.txt",
        )
        return ("--bpe", "opt_bpe", *files)
    model = folder / "sentencepiece.model"
    return ("--bpe", "opt_sentencepiece", "--opt-sentencepiece-model", model)


def test_options_that_name_the_same_tokenizer_are_taken(model: Model) -> None:
    ended = interactive(model, *options_of(model.data))
    assert ids_of(model, ended) == [model.opt.encode(line) for line in LINES]


@pytest.mark.slow
def test_contradictions_are_refused(model: Model, tmp_path: Path) -> None:
    train_byte_level_bpe([text[::-1] for text in TEXTS], VOCAB_SIZE, tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "dict.txt").write_bytes((model.data / "dict.txt").read_bytes())
    other = "`--opt-bpe-vocab` must be the tokenizer in .*, but gives other ids"
    cases: list[tuple[tuple[Any, ...], Path, str]] = [
        (
            ("--bpe", "gpt2"),
            model.data,
            "`--bpe` must be opt_.* but is gpt2. Leave it out",
        ),
        (options_of(tmp_path), model.data, other),
        (options_of(tmp_path), bare, other),  # the model's own is in the run's data folder
    ]
    for options, data, sentence in cases:
        ended = interactive(model, *options, data=data)
        assert (ended.status, "Traceback" in ended.output) == (2, False), ended.output
        assert re.search(sentence, ended.last_line), ended.last_line


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose data folder has a dictionary and no tokenizer."""
    folder = tmp_path_factory.mktemp("words")
    data = write_data(folder / "data")
    ended = train(data, folder / "run", "--max-update", 1)
    assert ended.status == 0, ended.output
    return Model(
        folder, data, folder / "run" / "checkpoint_last.pt", OPT.from_pretrained(folder / "run")
    )


def test_without_tokenizer_files_unknown_words_are_told(words: Model) -> None:
    ended = interactive(words, lines=["w1  w2", "w1 hello w3 world", "w9"])
    assert ids_of(words, ended) == [[5, 6], [5, 3, 7, 3], [13]]
    told = [line for line in ended.output.splitlines() if "become <unk>" in line]
    assert len(told) == 1
    assert "2 of the 4 words of the prompt 'w1 hello w3 world' are not in dict.txt" in told[0]
    assert "'hello' first" in told[0]


def test_a_tokenizer_of_other_ids_than_the_dictionary_is_refused(
    words: Model, tmp_path: Path
) -> None:
    train_byte_level_bpe(TEXTS, VOCAB_SIZE, tmp_path)
    ended = interactive(words, *options_of(tmp_path))
    assert ended.status == 2
    assert "`--opt-bpe-vocab` must number its tokens as dict.txt of `DATA` does" in ended.last_line


@pytest.mark.slow
def test_input_that_cannot_be_read_is_refused(words: Model, tmp_path: Path) -> None:
    bad = tmp_path / "latin1.txt"
    bad.write_bytes(b"w1\nw2 caf\xe9\n")
    for path, sentence in (
        (bad, "A prompt must be UTF-8 text, but line 2 is not (byte 7 of it)"),
        (tmp_path / "none.txt", "`--input` must be a file that can be read, but is"),
    ):
        ended = interactive(words, "--input", path)
        assert ended.status == 2, ended.output
        assert sentence in ended.last_line


@pytest.mark.slow
def test_stock_tasks_read_lines_as_ever(tmp_path: Path) -> None:
    """fairseq's own task, and its own model, which strips what is typed."""
    data = write_data(tmp_path / "data")
    stock = ("--task", "language_modeling", "--cpu")
    ended = run_fairseq(
        "train", data, *stock, "--user-dir", "metaseq_plugin", "--arch", "transformer_lm",
        "--decoder-layers", 1, "--decoder-embed-dim", 16, "--decoder-attention-heads", 2,
        "--tokens-per-sample", 32, "--batch-size", 4, "--optimizer", "adam", "--max-update", 1,
        "--save-dir", tmp_path / "run", log_dir=tmp_path,
    )  # fmt: skip
    assert ended.status == 0, ended.output
    typed = tmp_path / "typed.txt"
    typed.write_bytes(b"  w1 w2 \r\nw3\rw4\n")
    ended = run_fairseq(
        "interactive", data, *stock, "--user-dir", "metaseq_plugin", "--beam", 1, "--max-len-b", 3,
        "--path", tmp_path / "run" / "checkpoint_last.pt", "--input", typed, log_dir=tmp_path,
    )  # fmt: skip
    assert ended.status == 0, ended.output
    assert re.findall(r"^S-\d+\t(.*)$", ended.output, re.MULTILINE) == ["w1 w2", "w3", "w4"]
