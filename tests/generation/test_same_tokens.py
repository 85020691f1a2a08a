"""Greedy tokens are those of Hugging Face's ``generate`` and of fairseq's own generator, however batched.

Fifty prompts join a running batch a few at a time, in any order, beside sampled ones that are not
compared. Both others continue each prompt alone.
"""

import random
from typing import Any

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from metaseq_plugin.generation.batch import Batch, Request, Row
from metaseq_plugin.generation.settings import Settings
from metaseq_plugin.models.opt import OPTLanguageModel
from metaseq_plugin.modules import kv_cache
from tests.generation.test_generator import EOS, GREEDY, random_prompts
from tests.opt_models import PAD, TINY, VOCAB_SIZE, config, decoder, dictionary, hf_twin

COUNT = 50
TINY_SHAPE = {**TINY, "decoder_max_positions": 80}
# The 125M's layers, dimensions and heads, with few words and positions.
REAL_SHAPE = {"decoder_max_positions": 80}
CASES = [
    pytest.param(TINY_SHAPE, 0.4, 16, id="tiny", marks=pytest.mark.slow),
    pytest.param(REAL_SHAPE, 0.06, 8, id="125m", marks=pytest.mark.slow),
]


def hugging_faces(theirs: Any, prompt: list[int], count: int) -> list[int]:
    found = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long(),
        max_new_tokens=count, do_sample=False, suppress_tokens=[PAD],
    )  # fmt: skip
    return found[0, len(prompt) :].tolist()


def fairseqs(model: OPTLanguageModel, prompt: list[int], count: int) -> list[int]:
    """It counts the prompt's tokens too, and forces ``</s>`` behind the last."""
    others = len(prompt) - 1
    machine = SequenceGenerator(
        [model], dictionary(), beam_size=1, max_len_b=others + count, min_len=0
    )
    sample = {"net_input": {
        "src_tokens": torch.tensor([prompt]), "src_lengths": torch.tensor([len(prompt)]),
    }}  # fmt: skip
    prefix = torch.tensor([prompt[1:]]) if others else None
    ((best,),) = machine.generate([model], sample, prefix_tokens=prefix, bos_token=EOS)
    return best["tokens"].tolist()[others:][:count]


def joined_mid_flight(
    model: OPTLanguageModel, prompts: list[list[int]], limits: list[int], seed: int
) -> list[Row]:
    """The prompts' rows, in order; they were admitted in another, at chance steps and in chance company."""
    chance = random.Random(seed)
    batch = Batch([model], PAD, EOS)
    waiting = list(range(len(prompts)))
    chance.shuffle(waiting)
    rows: dict[int, Row] = {}
    while waiting or batch.rows:
        if waiting and (not batch.rows or chance.random() < 0.4):
            taken = [waiting.pop() for _ in range(min(len(waiting), chance.randint(1, 6)))]
            wanted = [Request(prompts[index], limits[index], GREEDY) for index in taken]
            company = Request([EOS, 7], chance.randint(1, 30), Settings(num_samples=2))
            rows.update(zip(taken, batch.admit([*wanted, company])))
        batch.step()
    return [rows[index] for index in range(len(prompts))]


@pytest.mark.parametrize(("shape", "std", "count"), CASES)
def test_fifty_prompts_as_hugging_face_and_fairseq(
    shape: dict[str, Any], std: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_cache, "SMALLEST_ROOM", 16)
    model = OPTLanguageModel(decoder(VOCAB_SIZE, std, **shape))
    prompts = random_prompts(COUNT, longest=40, seed=5)
    limits = [count - index % 5 for index in range(COUNT)]
    theirs = hf_twin(model.decoder, config(**shape))
    expected = [hugging_faces(theirs, *pair) for pair in zip(prompts, limits)]
    assert len({token for tokens in expected for token in tokens}) > 10
    for seed in (1, 2):
        rows = joined_mid_flight(model, prompts, limits, seed)
        assert [row.tokens for row in rows] == expected
    plain_forward = model.decoder.forward
    monkeypatch.setattr(
        model.decoder, "forward", lambda ids, encoder_out=None: (plain_forward(ids)[0], None)
    )
    assert [fairseqs(model, *pair) for pair in zip(prompts, limits)] == expected
