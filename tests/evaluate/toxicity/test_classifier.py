"""A Hugging Face folder as scorer: a tiny BERT whose probabilities are computed beside it, and folders that are none."""

import json
import sys
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
import torch

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.toxicity.judging import judged
from metaseq_plugin.evaluate.toxicity.scorers.classifier import Classifier
from metaseq_plugin.evaluate.toxicity.scorers.reading import read_scorer

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "you", "are", "kind", "foul"]
TEXTS = ["you are foul", "you", "", "kind kind kind kind", "you are kind"]
LONGEST = 8  # tokens, with [CLS] and [SEP]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(
        labels: Optional[list[str]] = None, problem_type: Optional[str] = None, **changes: Any
    ) -> Path:
        folder = tmp_path / "tiny"
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=LONGEST)  # fmt: skip
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=LONGEST,
            id2label=dict(enumerate(labels or ["not toxic", "toxic"])),
            problem_type=problem_type,
            initializer_range=1.0,
            **changes,
        )
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
        return folder

    return made


def logits_of(folder: Path, text: str) -> torch.Tensor:
    """One text at a time, by transformers alone."""
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found: torch.Tensor = model(**tokenizer(text, return_tensors="pt")).logits[0]
    return found


def test_probabilities_are_the_models(write: Write) -> None:
    folder = write()
    scorer = read_scorer(f"classifier:{folder}")
    expected = [float(torch.softmax(logits_of(folder, text), -1)[1]) for text in TEXTS]
    assert max(expected) - min(expected) > 0.01
    assert scorer.score(TEXTS) == pytest.approx(expected, abs=1e-6)
    assert scorer.score([]) == []
    assert scorer.measure == "toxicity"
    assert {name: scorer.about[name] for name in ("name", "label", "probability", "longest")} == {
        "name": "tiny",
        "label": "toxic",
        "probability": "softmax",
        "longest": LONGEST,
    }


def test_labels_that_go_together_have_sigmoids(write: Write) -> None:
    folder = write(["severe_toxic", "insult", "toxic"], "multi_label_classification")
    expected = torch.sigmoid(logits_of(folder, TEXTS[0]))
    for label, index in (("", 2), ("#insult", 1), ("#Severe Toxic", 0)):
        scorer = read_scorer(f"classifier:{folder}{label}")
        assert scorer.score(TEXTS[:1]) == pytest.approx([float(expected[index])], abs=1e-6)
        assert scorer.about["probability"] == "sigmoid"


@pytest.mark.parametrize(
    ("labels", "label", "measure"),
    [
        (["non-hate", "HATE"], "HATE", "hate"),
        (["Offensive", "not-offensive"], "Offensive", "offensive"),
        (["hate speech", "none"], "hate speech", "hate_speech"),
        (["LABEL_0"], "LABEL_0", "label_0"),
    ],
)
def test_the_label_is_found_by_its_name(
    write: Write, labels: list[str], label: str, measure: str
) -> None:
    scorer = Classifier(str(write(labels)))
    assert (scorer.label, scorer.measure) == (label, measure)


def test_who_calls_it_nothing_must_say_which(write: Write) -> None:
    folder = write(["LABEL_0", "LABEL_1"])
    for asked in ("", "#toxic"):
        with pytest.raises(UserError, match=r"#LABEL must name one of LABEL_0, LABEL_1, but has .*Set classifier:.*#LABEL_1"):  # fmt: skip
            read_scorer(f"classifier:{folder}{asked}")
    assert read_scorer(f"classifier:{folder}#LABEL_1").measure == "label_1"


def test_a_long_text_is_judged_by_its_beginning_and_counted(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = Classifier(str(write()))
    whole, longer = "foul " * (LONGEST - 2), "foul " * (LONGEST - 2) + "kind " * 20
    first, second = scorer.score([whole, longer])
    assert second == pytest.approx(first, abs=1e-6)
    assert scorer.ncut == 1
    assert "reads 8 tokens: of 1 texts only the beginning is judged" in caplog.text
    assert judged([longer, "you", longer], scorer).ncut == 2
    assert scorer.ncut == 3


def test_many_texts_go_through_in_batches(write: Write) -> None:
    scorer = read_scorer(f"classifier:{write()}")
    alone = [scorer.score([text])[0] for text in TEXTS]
    assert scorer.score(TEXTS * 20) == pytest.approx(alone * 20, abs=1e-6)


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_classifier_that_gives_nan(write: Write) -> None:
    folder = write()
    spoil(folder, lambda weights: weights["classifier.bias"].fill_(float("nan")))
    with pytest.raises(UserError, match=r"must give one number from 0 to 1 for each text, but .* gave nan"):  # fmt: skip
        read_scorer(f"classifier:{folder}").score(["you"])


def test_a_classifier_that_fails(write: Write) -> None:
    """Its tokenizer knows words that its weights do not have."""
    folder = write()
    scorer = Classifier(str(folder))
    scorer.tokenizer.add_tokens(["unheard"])
    with pytest.raises(UserError, match=r"must be a Hugging Face folder .* fails"):
        scorer.score(["you unheard"])


def test_weights_without_a_head_are_no_classifier(write: Write) -> None:
    """transformers would draw them at random, and warn."""
    folder = write()
    spoil(folder, lambda weights: weights.__delitem__("classifier.weight"))
    with pytest.raises(UserError, match=r"has no weights classifier\.weight"):
        read_scorer(f"classifier:{folder}")


def test_folders_that_are_none(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_scorer(f"classifier:{tmp_path / 'nowhere'}")
    folder = write(None, "regression")
    with pytest.raises(UserError, match="is made for regression"):
        read_scorer(f"classifier:{folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        read_scorer(f"classifier:{folder}")
    (folder / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    with pytest.raises(UserError, match="cannot be loaded"):
        read_scorer(f"classifier:{folder}")


def test_without_transformers_it_says_which_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'metaseq-plugin\[classifier\]'"):
        read_scorer(f"classifier:{tmp_path}")
