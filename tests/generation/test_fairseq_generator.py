"""Our generator under ``fairseq-interactive``, ``fairseq-generate`` and their options."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.dataclass.configs import GenerationConfig
from fairseq.sequence_generator import SequenceGenerator

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.generation.fairseq_generator import FairseqGenerator, settings_from
from metaseq_plugin.models.opt import OPTLanguageModel
from tests.fairseq_runs import Ended, run_fairseq, train, write_data
from tests.opt_models import PAD, TINY, VOCAB_SIZE, decoder, dictionary

EOS = 2


class Run:
    """A trained tiny model and its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_data(folder / "data")
        ended = train(self.data, folder / "run", "--max-update", 30, "--init-std", 0.3)
        assert ended.status == 0, ended.output
        self.checkpoint = folder / "run" / "checkpoint_best.pt"

    def __call__(self, command: str, *options: Any, stdin: str = "") -> Ended:
        ended = run_fairseq(
            command, self.data, "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling",
            "--path", self.checkpoint, "--cpu", *options, log_dir=self.folder, stdin=stdin,
        )  # fmt: skip
        assert ended.status == 0, ended.output
        return ended


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("generate"))


def lines(output: str, letter: str) -> list[list[str]]:
    """The tab-separated fields of ``H-0 …`` lines and their like, in order."""
    return [line.split("\t") for line in re.findall(rf"^{letter}-\d+\t.*$", output, re.MULTILINE)]


def test_interactive_prints_prompt_and_continuation_with_their_scores(run: Run) -> None:
    ended = run("interactive", "--beam", 1, "--max-len-b", 5, stdin="w1 w2\nw3\n\n")
    hypotheses, scores = lines(ended.output, "H"), lines(ended.output, "P")
    assert [row[0] for row in hypotheses] == ["H-0", "H-1", "H-2"]
    for (_, rank, text), (_, values), prompt in zip(hypotheses, scores, ("w1 w2", "w3", "")):
        given, numbers = prompt.split(), [float(value) for value in values.split()]
        assert text.split()[: len(given)] == given
        assert 0 <= len(numbers) - len(text.split()) <= 1  # </s> is scored, not printed
        new = numbers[len(given) :]
        assert 1 <= len(new) <= 5
        assert float(rank) == pytest.approx(sum(new) / len(new), abs=1e-4)


@pytest.mark.slow
def test_interactive_gives_the_same_in_batches(run: Run) -> None:
    typed = "w1 w2\nw3\nw9 w8 w7 w6\n"
    for options in (("--beam", 3, "--nbest", 2), ("--sampling", "--beam", 2, "--nbest", 2)):
        common = (*options, "--max-len-b", 8)
        alone = run("interactive", *common, stdin=typed)
        together = run("interactive", *common, "--buffer-size", 3, "--batch-size", 3, stdin=typed)
        texts = [row[2] for row in lines(alone.output, "H")]
        assert texts == [row[2] for row in lines(together.output, "H")]
        assert len(texts) == 6


@pytest.mark.slow
def test_seed(run: Run) -> None:
    def sampled(*options: Any) -> list[str]:
        common = ("--sampling", "--beam", 1, "--max-len-b", 12)
        return [
            row[2] for row in lines(run("interactive", *common, *options, stdin="w1\n").output, "H")
        ]

    assert sampled("--seed", 5) == sampled("--seed", 5)
    assert sampled("--seed", 5) != sampled("--seed", 6)
    assert sampled() == sampled("--seed", 1)  # fairseq's default


def test_without_seed_each_time_differs() -> None:
    model = OPTLanguageModel(decoder(std=0.1, **TINY))
    sample = {"net_input": {"src_tokens": torch.tensor([[EOS, 5]])}}
    cfg = options(sampling=True, max_len_b=20)
    found = [FairseqGenerator([model], dictionary(), cfg, seed) for seed in (None, None, 3, 3)]
    texts = [machine.generate(sample, None)[0][0]["tokens"].tolist() for machine in found]
    assert texts[0] != texts[1]
    assert texts[2] == texts[3]


@pytest.mark.parametrize("mode", ["none", "eos"])
def test_generate_continues_prefixes_of_a_split(run: Run, mode: str) -> None:
    ended = run(
        "generate", "--gen-subset", "valid", "--prefix-size", 3, "--beam", 2, "--max-len-b", 6,
        "--tokens-per-sample", 32, "--sample-break-mode", mode, "--batch-size", 4,
    )  # fmt: skip
    targets, hypotheses = lines(ended.output, "T"), lines(ended.output, "H")
    assert len(targets) == len(hypotheses) > 2
    found = {row[0][2:]: row[2].split() for row in hypotheses}
    for name, text in ((row[0][2:], row[1].split()) for row in targets):
        assert found[name][:2] == text[:2]
        assert len(found[name]) <= 3 + 6


def test_generate_scores_references_as_eval_lm_does(run: Run) -> None:
    options = ("--gen-subset", "valid", "--tokens-per-sample", 32, "--sample-break-mode", "eos")
    scored = run("generate", "--score-reference", *options, "--batch-size", 4)
    numbers = [float(v) for row in lines(scored.output, "P") for v in row[1].split()]
    evaluated = run("eval-lm", *options)
    loss = re.search(r"Loss \(base 2\): ([\d.]+)", evaluated.output)
    assert loss is not None
    assert -sum(numbers) / len(numbers) == pytest.approx(float(loss[1]), abs=1e-3)


def options(**settings: Any) -> GenerationConfig:
    return replace(GenerationConfig(beam=1), **settings)


@pytest.mark.parametrize("beam", [1, 4])
def test_tokens_and_scores_are_those_of_fairseqs_own_generator(
    beam: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fairseq's runs the whole prefix each step, counts the prompt, and forces </s> at the end."""
    model = OPTLanguageModel(decoder(**TINY))
    prompt, new = [EOS, 5, 9, 30], 12
    ours = FairseqGenerator(
        [model], dictionary(), options(beam=beam, max_len_b=new, min_len=new), 1
    )
    sample = {"net_input": {"src_tokens": torch.tensor([prompt])}}
    (found,) = ours.generate(sample, None)
    plain_forward = model.decoder.forward
    monkeypatch.setattr(
        model.decoder, "forward", lambda ids, encoder_out=None: (plain_forward(ids)[0], None)
    )
    theirs = SequenceGenerator(
        [model], dictionary(), beam_size=beam, max_len_b=new + 3, min_len=new + 3,
        normalize_scores=False,
    )  # fmt: skip
    sample["net_input"]["src_lengths"] = torch.tensor([4])
    prefix = torch.tensor([prompt[1:]])
    (expected,) = theirs.generate([model], sample, prefix_tokens=prefix, bos_token=EOS)
    # The best before </s> is forced upon all of them.
    best = max(expected, key=lambda h: float(h["positional_scores"][:-1].sum()))
    assert found[0]["tokens"].tolist() == best["tokens"].tolist()[:-1]
    torch.testing.assert_close(
        found[0]["positional_scores"], best["positional_scores"][:-1], rtol=0, atol=1e-5
    )
    assert float(found[0]["score"]) == pytest.approx(
        float(found[0]["positional_scores"][3:].mean()), abs=1e-6
    )


def test_maximum_depends_on_the_prompt() -> None:
    model = OPTLanguageModel(decoder(**TINY))
    cfg = options(max_len_a=1.5, max_len_b=2, min_len=1)
    machine = FairseqGenerator([model], dictionary(), replace(cfg, unnormalized=True), None)
    source = torch.tensor([[EOS, 5, 9, 30], [EOS, 7, PAD, PAD]])
    found = machine.generate({"net_input": {"src_tokens": source}}, None)
    for prompt, hypotheses in zip((4, 2), found):
        new = len(hypotheses[0]["tokens"]) - (prompt - 1)
        assert new == 1.5 * prompt + 2 or hypotheses[0]["tokens"][-1] == EOS
        total = hypotheses[0]["positional_scores"][prompt - 1 :].sum()
        assert float(hypotheses[0]["score"]) == pytest.approx(float(total), abs=1e-5)


def test_a_block_from_the_middle_of_a_document_keeps_its_context() -> None:
    model = OPTLanguageModel(decoder(**TINY))
    machine = FairseqGenerator([model], dictionary(), options(max_len_b=3), None)
    sample = {"net_input": {"src_tokens": torch.tensor([[17, 5, 9, 30]])}}
    (found,) = machine.generate(sample, torch.tensor([[5, 9]]))
    assert found[0]["tokens"][:2].tolist() == [5, 9]
    with torch.no_grad():
        expected = model.decoder(torch.tensor([[17, 5]]))[0][0].log_softmax(-1)
    assert found[0]["positional_scores"][0] == pytest.approx(float(expected[0, 5]), abs=1e-5)


REFUSED = {
    "--diverse-beam-groups": options(diverse_beam_groups=2),
    "--constraints": options(constraints="ordered"),
    "--print-alignment": options(print_alignment="hard"),
    "--lm-path": options(lm_path="lm.pt"),
    "--no-repeat-ngram-size": options(no_repeat_ngram_size=3),
    "--match-source-len": options(match_source_len=True),
    "--replace-unk": options(replace_unk="@@ "),
    "--sampling-topk": options(sampling_topk=5),
    "--sampling-topp": options(sampling=True, sampling_topp=1.5),
    "--temperature": options(sampling=True, temperature=-1.0),
    "--min-len": options(min_len=9, max_len_b=3),
    "--max-len-b": options(max_len_b=0),
    "--max-len-a": options(max_len_a=-1.0),
    "--lenpen": options(lenpen=math.inf),
    "--nbest": options(nbest=2),
    "--beam": options(beam=0, nbest=0),
}


@pytest.mark.parametrize("option", REFUSED)
def test_options_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"^`{option}` must .*, but .*\\.$"):
        settings_from(REFUSED[option], None, VOCAB_SIZE)


def test_no_top_k_of_zero() -> None:
    with pytest.raises(UserError, match="`--sampling-topk` must be at least 1, but is 0"):
        settings_from(options(sampling=True, sampling_topk=0), None, VOCAB_SIZE)


def test_settings() -> None:
    sampled = settings_from(
        options(sampling=True, beam=3, nbest=3, sampling_topk=9, temperature=0.7, lenpen=0.5), 8, 99
    )
    assert (sampled.num_samples, sampled.beam, sampled.top_k, sampled.top_p) == (3, 1, 9, 1.0)
    assert (sampled.temperature, sampled.seed, sampled.length_penalty) == (0.7, 8, 0.5)
    assert settings_from(options(), None, 99).is_greedy
    assert settings_from(options(beam=5), None, 99).beam == 5
