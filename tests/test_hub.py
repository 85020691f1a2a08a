"""The Python door: what it loads, what it returns, and what it refuses."""

from fractions import Fraction
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from torch import Tensor
from transformers import OPTForCausalLM

from metaseq_plugin import hub
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.hub import OPT
from metaseq_plugin.modules.half_weight import HAS_FBGEMM
from metaseq_plugin.tokenizers.open import from_folder
from metaseq_plugin.tokenizers.train import train_byte_level_bpe
from tests.fairseq_runs import train, write_data, write_split
from tests.formats import metaseq_forms as forms
from tests.formats.folders import run_convert

VOCAB_SIZE = 40
# Model parts, shards, and the path that is given.
METASEQ_FORMS = [
    (1, 1, "checkpoint_last.pt"),
    (2, 1, "checkpoint_last-model_part-1.pt"),
    (1, 3, "checkpoint_last.pt"),
    (2, 3, "."),
]
TEXTS = ["the cat sat on the mat\n", "a dog ate the cat's dinner\n", "naïve café ☕\n"] * 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a tiny model without tokenizer files."""
    folder = tmp_path_factory.mktemp("run")
    ended = train(write_data(folder / "data", VOCAB_SIZE), folder / "run", "--max-update", 20,
                  "--init-std", 0.3)  # fmt: skip
    assert ended.status == 0, ended.output
    return folder / "run"


@pytest.fixture(scope="module")
def opt(run: Path) -> OPT:
    return OPT.from_pretrained(run)


@pytest.fixture(scope="module")
def text_opt(tmp_path_factory: pytest.TempPathFactory) -> OPT:
    """A tiny model with a byte-level BPE that was trained on ``TEXTS``."""
    folder = tmp_path_factory.mktemp("text")
    data = folder / "data"
    data.mkdir()
    train_byte_level_bpe(TEXTS, 300, data)
    tokenizer = from_folder(data)
    tokenizer.dictionary.save(str(data / "dict.txt"))
    for split in ("train", "valid"):
        write_split(data, split, [tokenizer.encode(text).tolist() for text in TEXTS])
    ended = train(data, folder / "run", "--max-update", 30, "--init-std", 0.1)
    assert ended.status == 0, ended.output
    return OPT.from_pretrained(folder / "run")


PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16], [2, 8]]


def test_every_source_gives_the_same_model(run: Path, opt: OPT, tmp_path: Path) -> None:
    run_convert(run, tmp_path / "hf", "--to", "hf")
    expected = opt.generate(PROMPTS, 8, min_new_tokens=8, temperature=0.0)
    for path in (run / "checkpoint_best.pt", run / "checkpoint_last.pt", tmp_path / "hf"):
        found = OPT.from_pretrained(path, device="cpu", dtype="float32")
        assert found.generate(PROMPTS, 8, min_new_tokens=8, temperature=0.0) == expected
    sampled = opt.generate(PROMPTS, 8, seed=3)
    assert OPT.from_pretrained(tmp_path / "hf").generate(PROMPTS, 8, seed=3) == sampled
    assert len({t for completions in sampled for t in completions[0].tokens}) > 5


@pytest.mark.skipif(not HAS_FBGEMM, reason="needs FBGEMM, whose blocks are of 16 bits")
def test_float16_on_a_cpu_is_of_the_weights_only(run: Path, tmp_path: Path) -> None:
    run_convert(run, tmp_path / "half", "--to", "hf", "--dtype", "float16")
    model: Any = OPTForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)  # rounded
    expected = model.generate(
        torch.tensor([[2, *PROMPTS[0]]]), max_new_tokens=8, min_new_tokens=8, do_sample=False,
        suppress_tokens=[1],
    )[0, 4:].tolist()  # fmt: skip
    for path, dtype in ((run, "float16"), (tmp_path / "half", None)):
        opt = OPT.from_pretrained(path, device="cpu", dtype=dtype)
        assert str(opt.dtype) == f"torch.{dtype or 'float32'}"
        assert opt.model.decoder.head is not None
        assert opt.model.output_weight.dtype == torch.float32
        found = opt.generate(PROMPTS, 8, min_new_tokens=8, temperature=0.0)
        assert found[0][0].tokens == expected


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[forms.Weights, Tensor]:
    """A model's weights, and its logits read from fairseq's checkpoint of them."""
    folder, weights = tmp_path_factory.mktemp("plain"), forms.weights()
    forms.write_set(folder / "src", weights)
    run_convert(folder / "src", folder / "ours", "--to", "fairseq")
    return weights, logits(OPT.from_pretrained(folder / "ours" / "checkpoint.pt"))


@torch.no_grad()
def logits(opt: OPT) -> Tensor:
    return opt.model.decoder(torch.arange(2, 34).view(2, 16))[0]


@pytest.mark.parametrize(("parts", "shards", "name"), METASEQ_FORMS)
def test_metaseqs_files_give_the_logits_of_fairseqs(
    plain: tuple[forms.Weights, Tensor], tmp_path: Path, parts: int, shards: int, name: str
) -> None:
    weights, expected = plain
    forms.write_set(tmp_path, weights, parts, shards, fused=parts > 1, stem="checkpoint_last")
    (tmp_path / "gpt2-vocab.json").touch()
    (tmp_path / "dict.txt").write_text("50118 1\n")  # as in Meta's folders, of no use
    opt = OPT.from_pretrained(tmp_path / name)
    assert torch.equal(logits(opt), expected)
    held = [tensor.untyped_storage() for tensor in opt.model.state_dict().values()]
    assert sum(s.nbytes() for s in held) == sum(t.nbytes for t in weights.values())


def test_metaseqs_classes_are_refused_unless_trusted(
    plain: tuple[forms.Weights, Tensor], tmp_path: Path
) -> None:
    weights, expected = plain
    (path,) = forms.write_set(tmp_path, weights)
    state = torch.load(path, weights_only=True)
    torch.save({**state, "task_state": Fraction(1, 2)}, path)
    with pytest.raises(UserError, match=r"asks for fractions\.Fraction, and loading a class"):
        OPT.from_pretrained(path)
    assert torch.equal(logits(OPT.from_pretrained(path, trust_pickle=True)), expected)


def test_weights_are_the_checkpoints(run: Path, opt: OPT) -> None:
    saved = load_checkpoint_to_cpu(str(run / "checkpoint_best.pt"))["model"]
    held = opt.model.state_dict()
    assert held.keys() == saved.keys()
    assert all(torch.equal(held[name], saved[name]) for name in saved)
    assert not any(parameter.requires_grad for parameter in opt.model.parameters())


def test_score_is_what_generation_said(opt: OPT) -> None:
    found = opt.generate(PROMPTS, 6, temperature=0.0)
    prompts = [prompt[1:] if prompt[0] == 2 else prompt for prompt in PROMPTS]
    scored = opt.score([p + c[0].tokens for p, c in zip(prompts, found)])
    for prompt, completions, score in zip(prompts, found, scored):
        assert score.tokens == prompt + completions[0].tokens
        assert score.scores[len(prompt) :] == pytest.approx(completions[0].scores, abs=1e-5)


def test_scores_are_log_probabilities_of_full_forward_passes(opt: OPT) -> None:
    (scored, *_) = opt.score([[5, 6, 7, 8], [5]], batch_size=2)
    with torch.no_grad():
        logits, _ = opt.model.decoder(torch.tensor([[2, 5, 6, 7]]))
    expected = logits[0].log_softmax(-1)[range(4), [5, 6, 7, 8]]
    assert scored.scores == pytest.approx(expected.tolist(), abs=1e-5)


def test_order_of_prompts_and_size_of_batches_do_not_matter(opt: OPT) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 9, "top_p": 0.9, "seed": 4, "num_samples": 2}
    together = opt.generate(PROMPTS, **settings)
    for size in (1, 3):
        found = opt.generate(PROMPTS[::-1], batch_size=size, **settings)[::-1]
        for one, other in zip(found, together):
            assert [c.tokens for c in one] == [c.tokens for c in other]
    assert [len(completions) for completions in together] == [2, 2, 2, 2]


def test_equal_prompts_get_different_samples_in_whatever_batches(opt: OPT) -> None:
    whole = opt.generate([[5, 6]] * 4, 12, seed=1)
    split = opt.generate([[5, 6]] * 4, 12, seed=1, batch_size=1)
    assert [c[0].tokens for c in whole] == [c[0].tokens for c in split]
    assert len({tuple(c[0].tokens) for c in whole}) == 4


def test_beam_returns_its_hypotheses_best_first(opt: OPT) -> None:
    for completions in opt.generate(PROMPTS, 7, beam=3):
        means = [sum(c.scores) / len(c.scores) for c in completions]
        assert len(completions) == 3
        assert means == sorted(means, reverse=True)


def test_text(text_opt: OPT) -> None:
    prompts = ["the cat", "naïve"]
    assert text_opt.decode(text_opt.encode(TEXTS[2])) == TEXTS[2]
    assert text_opt.encode("the cat")[0] != 2
    for prompt, (completion,) in zip(prompts, text_opt.generate(prompts, 12, seed=0)):
        ids = text_opt.encode(prompt)
        assert completion.text == text_opt.decode(ids + completion.tokens)[len(prompt) :]
        (same,) = text_opt.generate([ids], 12, seed=0)[0]
        assert (same.text, same.tokens) == (completion.text, completion.tokens)
        assert same.scores == pytest.approx(completion.scores, abs=1e-5)


def test_stop_cuts_the_text_and_ends_the_row(text_opt: OPT) -> None:
    options: dict[str, Any] = {"temperature": 0.0, "logit_bias": {2: -100.0}}
    (free,) = text_opt.generate(["the cat"], 30, **options)[0]
    assert free.text is not None
    stop = free.text[6:8]
    where = free.text.find(stop)
    (cut,) = text_opt.generate(["the cat"], 30, stop=["no such text", stop], **options)[0]
    assert cut.text == free.text[:where]
    assert cut.finish_reason == "stop"
    assert cut.tokens == free.tokens[: len(cut.tokens)]
    assert stop in text_opt.decode(cut.tokens)
    assert stop not in text_opt.decode(cut.tokens[:-1])
    (late,) = text_opt.generate(["the cat"], 30, temperature=0.0, min_new_tokens=30, stop=stop)[0]
    assert late.tokens == free.tokens  # complete too early to end it


def test_stop_text_completed_by_the_last_allowed_token(text_opt: OPT) -> None:
    settings: dict[str, Any] = {"temperature": 0.0, "min_new_tokens": 12}
    (free,) = text_opt.generate(["the cat"], 12, **settings)[0]
    assert free.text is not None
    assert free.finish_reason == "length"
    stop = free.text[-2:]
    where = free.text.find(stop)
    size = next(n for n in range(1, 13) if stop in text_opt.decode(free.tokens[:n]))
    (cut,) = text_opt.generate(["the cat"], size, temperature=0.0, min_new_tokens=size, stop=stop)[
        0
    ]
    assert (cut.text, cut.finish_reason) == (free.text[:where], "stop")
    assert cut.tokens == free.tokens[:size]


def test_without_tokenizer_text_is_none(opt: OPT) -> None:
    (completion,) = opt.generate([[5]], 3)[0]
    assert completion.text is None
    assert len(completion.scores) == len(completion.tokens)
    assert opt.generate([[5]], 3, with_scores=False)[0][0].scores == []


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no prompts": (lambda o: o.generate([]), "`prompts` must be a list of at least one prompt, but is empty"),
    "one string": (lambda o: o.generate("text"), "`prompts` must be a list .* but is one string"),
    "prompt without tokens": (lambda o: o.generate([[5], []]), "prompt 1 has none"),
    "string without tokenizer": (lambda o: o.generate(["text"]), "must be a list of token ids, but is a string"),
    "id beyond the vocabulary": (lambda o: o.generate([[VOCAB_SIZE]]), "must be from 0 to 39, but it holds 40"),
    "id negative": (lambda o: o.generate([[-3]]), "must be from 0 to 39, but it holds -3"),
    "prompt too long": (lambda o: o.generate([[5] * 2048]), "must have at most 2048 tokens .* it has 2049"),
    "temperature negative": (lambda o: o.generate([[5]], temperature=-0.1), "`temperature` must be 0 .greedy. or more, but is -0.1"),
    "temperature not a number": (lambda o: o.generate([[5]], temperature=float("nan")), "`temperature` must"),
    "top_p of 2": (lambda o: o.generate([[5]], top_p=2.0), "`top_p` must be between 0 and 1, but is 2.0"),
    "top_p negative": (lambda o: o.generate([[5]], top_p=-0.1), "`top_p` must be between 0 and 1"),
    "top_k negative": (lambda o: o.generate([[5]], top_k=-1), "`top_k` must be 0 .all tokens. or more, but is -1"),
    "beam of 0": (lambda o: o.generate([[5]], beam=0), "`beam` must be at least 1, but is 0"),
    "beam as wide as the vocabulary": (lambda o: o.generate([[5]], beam=40), "`beam` must be below the vocabulary's 40"),
    "beam and samples": (lambda o: o.generate([[5]], beam=2, num_samples=2), "`beam` must be 1 when sampling"),
    "no samples": (lambda o: o.generate([[5]], num_samples=0), "`num_samples` must be at least 1, but is 0"),
    "equal samples": (lambda o: o.generate([[5]], num_samples=2, temperature=0.0), "`num_samples` must be 1 at temperature 0"),
    "no new tokens": (lambda o: o.generate([[5]], max_new_tokens=0), "`max_new_tokens` must be at least 1, but is 0"),
    "min beyond max": (lambda o: o.generate([[5]], 4, min_new_tokens=5), r"`min_new_tokens` must be at most `max_new_tokens` \(4\), but is 5"),
    "max_new_tokens of 5.5": (lambda o: o.generate([[5]], max_new_tokens=5.5), "`max_new_tokens` must be a whole number, but is 5.5"),
    "max_new_tokens of 5.0": (lambda o: o.generate([[5]], max_new_tokens=5.0), "`max_new_tokens` must be a whole number, but is 5.0"),
    "max_new_tokens as text": (lambda o: o.generate([[5]], max_new_tokens="5"), "`max_new_tokens` must be a whole number, but is '5'"),
    "min_new_tokens None": (lambda o: o.generate([[5]], min_new_tokens=None), "`min_new_tokens` must be a whole number, but is None"),
    "top_k of 2.5": (lambda o: o.generate([[5]], top_k=2.5), "`top_k` must be a whole number, but is 2.5"),
    "beam as bool": (lambda o: o.generate([[5]], beam=True), "`beam` must be a whole number, but is True"),
    "num_samples as text": (lambda o: o.generate([[5]], num_samples="2"), "`num_samples` must be a whole number"),
    "temperature as text": (lambda o: o.generate([[5]], temperature="0.7"), "`temperature` must be a number, but is '0.7'"),
    "top_p as bool": (lambda o: o.generate([[5]], top_p=True), "`top_p` must be a number, but is True"),
    "length_penalty None": (lambda o: o.generate([[5]], length_penalty=None), "`length_penalty` must be a number"),
    "length_penalty of 1000": (lambda o: o.generate([[5]], beam=2, length_penalty=1000.0), "`length_penalty` must be within"),
    "length_penalty NaN": (lambda o: o.generate([[5]], beam=2, length_penalty=float("nan")), "`length_penalty` must be within"),
    "seed of 1.5": (lambda o: o.generate([[5]], seed=1.5), "`seed` must be a whole number or None, but is 1.5"),
    "with_scores of 1": (lambda o: o.generate([[5]], with_scores=1), "`with_scores` must be True or False, but is 1"),
    "batch_size of 2.5": (lambda o: o.generate([[5]], batch_size=2.5), "`batch_size` must be a whole number or None, but is 2.5"),
    "two wrong types": (lambda o: o.generate([[5]], top_k="a", seed="b"), r"`top_k` must .*\n`seed` must"),
    "stop of numbers": (lambda o: o.generate([[5]], stop=[5]), r"`stop` must be a text or a list of texts, but is \[5\]"),
    "stop None": (lambda o: o.generate([[5]], stop=None), "`stop` must be a text or a list of texts, but is None"),
    "id with a fraction": (lambda o: o.generate([[3.7]]), "must be whole numbers, but it holds 3.7"),
    "id as text": (lambda o: o.generate([[5], ["5"]]), "must be whole numbers, but prompt 1 holds '5'"),
    "id as bool": (lambda o: o.generate([[True]]), "must be whole numbers, but it holds True"),
    "ids one level too deep": (lambda o: o.generate([[[5]]]), r"must be whole numbers, but it holds \[5\]"),
    "ids one level too high": (lambda o: o.generate([5, 6]), "A prompt must be a text or a list of token ids, but prompt 0 is 5"),
    "tensor of fractions": (lambda o: o.generate([torch.tensor([5.0])]), "must be whole numbers, but it holds 5.0"),
    "no list": (lambda o: o.generate(None), "`prompts` must be a list of at least one prompt, but is None"),
    "score of a fraction": (lambda o: o.score([[5, 3.7]]), "must be whole numbers, but it holds 3.7"),
    "score in batches of 2.5": (lambda o: o.score([[5]], batch_size=2.5), "`batch_size` must be a whole number or None"),
    "batch of 0": (lambda o: o.generate([[5]], batch_size=0), "`batch_size` must be at least 1, but is 0"),
    "stop without tokenizer": (lambda o: o.generate([[5]], stop="."), "`stop` must be left out"),
    "score without tokens": (lambda o: o.score([[]]), "it has none"),
    "score too long": (lambda o: o.score([[5] * 2049]), "must have at most 2049 tokens .* it has 2050"),
    "score beyond the vocabulary": (lambda o: o.score([[5, 40]]), "must be from 0 to 39"),
    "decode without tokenizer": (lambda o: o.decode([5]), "`decode` must have tokenizer files"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(opt: OPT, name: str) -> None:
    use, sentence = REFUSED[name]
    with pytest.raises(UserError, match=sentence) as refusal:
        use(opt)
    assert str(refusal.value).endswith(".")


def test_numbers_of_numpy_and_torch_are_numbers(opt: Any) -> None:
    expected = opt.generate([[5, 6]], 4, top_k=3, seed=1, top_p=0.5)
    found = opt.generate(
        [np.array([5, 6], dtype=np.int32)], np.int64(4), top_k=np.uint8(3), seed=np.int64(1),
        top_p=np.float32(0.5), with_scores=np.bool_(True), batch_size=np.int16(2),
    )  # fmt: skip
    assert found == expected
    for ids in (torch.tensor([5, 6]), (5, 6), [np.int64(5), 6]):
        assert opt.generate([ids], 4, top_k=3, seed=1, top_p=0.5) == expected
        assert opt.score([ids]) == opt.score([[5, 6]])


def test_longest_inputs_are_taken(opt: OPT) -> None:
    assert len(opt.score([[5] * 2048])[0].scores) == 2048
    assert len(opt.generate([[5] * 2047], 9, min_new_tokens=9)[0][0].tokens) == 1


def without_16_bits(run: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "computes_in", lambda dtype: dtype == torch.float32)
        OPT.from_pretrained(run, device="cpu", dtype="bfloat16")


def as_float16(path: Path) -> None:
    """Whatever this CPU computes in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "computes_in", lambda dtype: True)
        OPT.from_pretrained(path, device="cpu", dtype="float16")


LOADING: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "nothing there": (lambda run, tmp: OPT.from_pretrained(tmp / "none"), "The model must exist, but .*none does not"),
    "empty folder": (lambda run, tmp: OPT.from_pretrained(tmp), "must be a Hugging Face folder with config.json or hold a checkpoint such as checkpoint_best.pt"),
    "data folder missing": (lambda run, tmp: OPT.from_pretrained(run, data=tmp / "none"), "`data` must be a folder"),
    "other dictionary": (lambda run, tmp: OPT.from_pretrained(run, data=write_data(tmp, 64)), "must give the model's 40 types, but in .* gives 64"),
    "dtype unknown": (lambda run, tmp: OPT.from_pretrained(run, dtype="int8"), "`dtype` must be one of float32, float16, bfloat16, but is int8"),
    "weights of NaN": (lambda run, tmp: OPT.from_pretrained(with_embedding(run, tmp, float("nan"))), "`decoder.embed_tokens.weight` in .*large.pt holds nan"),
    "dtype emulated": (lambda run, tmp: without_16_bits(run), "`dtype` must be one that this CPU has instructions for .float32., but is bfloat16, which it would emulate"),
    "weights beyond float16": (lambda run, tmp: as_float16(with_embedding(run, tmp, 1e6)), "`dtype` must hold every weight, but `decoder.embed_tokens.weight` reaches 1e.06 .* Set dtype bfloat16"),
    "truncated": (lambda run, tmp: OPT.from_pretrained(truncated(run, tmp)), "damaged.pt"),
}  # fmt: skip


def with_embedding(run: Path, folder: Path, number: float) -> Path:
    state = torch.load(run / "checkpoint_best.pt")
    state["model"]["decoder.embed_tokens.weight"][7, 3] = number
    state["cfg"]["task"]["data"] = str(run.parent / "data")
    torch.save(state, folder / "large.pt")
    return folder / "large.pt"


def truncated(run: Path, folder: Path) -> Path:
    path = folder / "damaged.pt"
    path.write_bytes((run / "checkpoint_best.pt").read_bytes()[:2000])
    return path


@pytest.mark.parametrize("name", LOADING)
def test_loading_refused(run: Path, tmp_path: Path, name: str) -> None:
    load, sentence = LOADING[name]
    with pytest.raises(UserError, match=sentence):
        load(run, tmp_path)


def test_nothing_behind_the_separator_has_no_scores(opt: OPT) -> None:
    assert opt.score([[2], [2]]) == [([], [], []), ([], [], [])]
    assert [len(scored.scores) for scored in opt.score([[2], [5, 6]])] == [0, 2]
