"""fairseq's stock Trainer with our model, criterion and optimizer in every precision it has."""

from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils, metrics, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer

import metaseq_plugin  # noqa: F401 (registers)

MODES = {
    "fp32": [],
    "fp16": ["--fp16", "--fp16-no-flatten-grads"],
    "bf16": ["--bf16"],
    "memory-efficient-fp16": ["--memory-efficient-fp16"],
    "memory-efficient-bf16": ["--memory-efficient-bf16"],
}
WORDS = 59


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(WORDS)))
    return tmp_path


def make_trainer(data: Path, *arguments: str, criterion: str = "chunked_cross_entropy") -> Trainer:
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(
        parser,
        [
            *(str(data), "--task", "opt_language_modeling", "--tokens-per-sample", "12"),
            *("--arch", "opt", "--decoder-layers", "2", "--decoder-embed-dim", "16"),
            *("--decoder-attention-heads", "2", "--decoder-ffn-embed-dim", "32"),
            *("--decoder-max-positions", "16", "--criterion", criterion, "--cpu"),
            *("--optimizer", "adamw", "--lr", "1e-2", "--clip-norm", "1.0", *arguments),
        ],
    )
    args.tpu = False  # fairseq's parser takes --bf16 for a TPU run
    cfg = convert_namespace_to_omegaconf(args)
    torch.manual_seed(1)
    metrics.reset()
    task = tasks.setup_task(cfg.task)
    return Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))


def make_sample(seed: int, padded: int = 0) -> dict:
    """(2, 12) tokens; the second row ends in ``padded`` pads."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, WORDS, (2, 13), generator=generator)
    if padded:
        tokens[1, -padded:] = 1
    source, target = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    lengths = source.ne(1).sum(1)
    return {
        "id": torch.arange(2),
        "nsentences": 2,
        "ntokens": int(target.ne(1).sum()),
        "net_input": {"src_tokens": source, "src_lengths": lengths},
        "target": target,
    }


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.get_model().parameters()]


def train(trainer: Trainer, updates: range) -> list:
    return [
        trainer.train_step([make_sample(2 * u), make_sample(2 * u + 1, padded=4)]) for u in updates
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_trains_and_resumes_bit_for_bit(mode: str, data: Path) -> None:
    trainer = make_trainer(data, *MODES[mode])
    with metrics.aggregate("train"):
        logs = train(trainer, range(4))
    assert float(logs[-1]["loss"]) < float(logs[0]["loss"])
    path = data / "checkpoint.pt"
    trainer.consolidate_optimizer()  # as fairseq does before
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})
    torch.load(path, weights_only=True)
    train(trainer, range(4, 7))

    resumed = make_trainer(data, *MODES[mode])
    resumed.load_checkpoint(str(path))
    assert resumed.get_num_updates() == 4
    train(resumed, range(4, 7))
    for got, expected in zip(weights(resumed), weights(trainer), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("arguments", [[], ["--checkpoint-activations"], ["--sentence-avg"]])
def test_equals_fairseqs_cross_entropy(arguments: list[str], data: Path) -> None:
    """Two update-freq batches, one padded: the same loss, norm and weights by both criterions."""
    results = {}
    for criterion in ("cross_entropy", "chunked_cross_entropy"):
        # Adam's usual epsilon is below rounding, and would move an element without a gradient by it.
        trainer = make_trainer(data, "--dropout", "0", "--attention-dropout", "0",
                               "--adam-eps", "1e-5", *arguments, criterion=criterion)  # fmt: skip
        with metrics.aggregate(criterion):
            logs = train(trainer, range(2))
        results[criterion] = (logs, weights(trainer))
    logs, expected = results["cross_entropy"]
    ours, got = results["chunked_cross_entropy"]
    for mine, theirs in zip(ours, logs, strict=True):
        assert set(mine) == set(theirs)
        for name in {"loss", "nll_loss", "gnorm"} & set(theirs):
            assert float(mine[name]) == pytest.approx(float(theirs[name]), rel=1e-6)
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_overflow_is_left_behind(data: Path) -> None:
    """The first loss scales overflow fp16; fairseq halves them until updates succeed."""
    trainer = make_trainer(data, "--memory-efficient-fp16", "--fp16-init-scale", str(2**24))
    with metrics.aggregate("train"):
        logs = train(trainer, range(16))
    assert logs[0] is None
    assert logs[-1] is not None
    assert 0 < trainer.get_num_updates() < 16
    assert all(torch.isfinite(w).all() for w in weights(trainer))


def test_state_dict_reaches_fairseqs_loader(data: Path) -> None:
    trainer = make_trainer(data)
    train(trainer, range(1))
    trainer.consolidate_optimizer()  # as fairseq does before
    trainer.save_checkpoint(str(data / "c.pt"), {"train_iterator": {"epoch": 1}})
    state = checkpoint_utils.load_checkpoint_to_cpu(str(data / "c.pt"))
    assert set(state["last_optimizer_state"]) == {"state", "param_groups"}
