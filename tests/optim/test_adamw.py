"""AdamW through fairseq's stock wrappers, against PyTorch's own AdamW run by hand in fp32."""

import copy
import functools
import io
from typing import Any, Callable, Optional

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import (
    OPTIMIZER_REGISTRY,
    FairseqOptimizer,
    FP16Optimizer,
    MemoryEfficientFP16Optimizer,
    build_optimizer,
)
from omegaconf import DictConfig
from torch import Tensor, nn

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.optim import adamw
from metaseq_plugin.optim.adamw import FairseqAdamW, Fp32StateAdamW
from metaseq_plugin.optim.fp32_copies import ELEMENTS_IN_FP32

LR, BETAS, EPS, DECAY, CLIP = 1e-2, (0.8, 0.9), 1e-6, 0.3, 0.5
OPTIONS = ["--lr", str(LR), "--adam-betas", str(BETAS), "--adam-eps", str(EPS),
           "--weight-decay", str(DECAY)]  # fmt: skip
MODES = {
    "fp32": [],
    "fp16": ["--fp16", "--fp16-no-flatten-grads"],  # fairseq flattens on GPUs only
    "bf16": ["--bf16"],
    "memory-efficient-fp16": ["--memory-efficient-fp16"],
    "memory-efficient-bf16": ["--memory-efficient-bf16"],
}


@functools.cache
def parse(*arguments: str) -> DictConfig:
    """The configuration of ``fairseq-train`` with these arguments, by the real parser."""
    parser = options.get_training_parser()
    given = ["data", "--optimizer", "adamw", "--arch", "opt_8m", "--fp16-init-scale", "64"]
    args = options.parse_args_and_arch(
        parser, [*given, "--task", "opt_language_modeling", *arguments]
    )
    return convert_namespace_to_omegaconf(args)


def make_model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.LayerNorm(9), nn.Linear(9, 4))
    return model.to(dtype)


def dtype_of(mode: str) -> torch.dtype:
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[
        mode.replace("memory-efficient-", "")
    ]


def make_optimizer(mode: str, model: nn.Module, *arguments: str) -> FairseqOptimizer:
    """As fairseq's trainer builds it."""
    cfg = parse(*OPTIONS, *MODES[mode], *arguments)
    params = list(model.parameters())
    if mode == "fp32":
        return build_optimizer(cfg.optimizer, params)
    wrapper = MemoryEfficientFP16Optimizer if "memory" in mode else FP16Optimizer
    return wrapper.build_optimizer(cfg, params)


def loss_of(model: nn.Module, update: int) -> Tensor:
    generator = torch.Generator().manual_seed(update)
    x = torch.randn(5, 6, generator=generator).to(next(model.parameters()).dtype)
    return model(x).float().square().sum()


def run(model: nn.Module, optimizer: FairseqOptimizer, updates: range, freq: int = 1) -> None:
    """Updates as ``Trainer.train_step`` makes them; ``freq`` batches each."""
    for update in updates:
        optimizer.zero_grad()
        for batch in range(freq):
            optimizer.backward(loss_of(model, update * freq + batch))
        optimizer.multiply_grads(1 / (5 * freq))
        optimizer.clip_grad_norm(CLIP)
        optimizer.step()


def run_by_hand(mode: str, updates: int, freq: int = 1) -> nn.Module:
    """The same with ``torch.optim.AdamW`` in fp32, gradients from a model of the mode's type."""
    model = make_model(dtype_of(mode))
    masters = [nn.Parameter(p.detach().float()) for p in model.parameters()]
    reference = torch.optim.AdamW(masters, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    scale = 64.0 if dtype_of(mode) == torch.float16 else 1.0
    for update in range(updates):
        model.zero_grad()
        for batch in range(freq):
            (loss_of(model, update * freq + batch) * scale).backward()
        for master, p in zip(masters, model.parameters(), strict=True):
            assert p.grad is not None
            master.grad = p.grad.float() / (5 * freq * scale)
        nn.utils.clip_grad_norm_(masters, CLIP)
        reference.step()
        for master, p in zip(masters, model.parameters(), strict=True):
            p.data.copy_(master.data)
            if "memory" in mode:
                master.data.copy_(p.data)
    return model


@pytest.mark.parametrize("freq", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_equals_adamw_by_hand(mode: str, freq: int) -> None:
    model = make_model(dtype_of(mode))
    run(model, make_optimizer(mode, model), range(6), freq)
    # fp32: rounding of the folded factor. 16 bits: the same, where it decides how a weight rounds.
    tolerance = 1e-6 if mode == "fp32" else torch.finfo(dtype_of(mode)).eps
    for got, expected in zip(
        model.parameters(), run_by_hand(mode, 6, freq).parameters(), strict=True
    ):
        assert got.dtype == dtype_of(mode)
        assert torch.allclose(got.float(), expected.float(), rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("mode", MODES)
def test_continues_bit_for_bit(mode: str) -> None:
    model = make_model(dtype_of(mode))
    optimizer = make_optimizer(mode, model)
    run(model, optimizer, range(4))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    run(model, optimizer, range(4, 9))

    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    resumed = make_model(dtype_of(mode))
    resumed.load_state_dict(saved["model"])
    resumed_optimizer = make_optimizer(mode, resumed)
    resumed_optimizer.load_state_dict(saved["optimizer"])
    moments = resumed_optimizer.optimizer.state.values()
    assert {s[k].dtype for s in moments for k in ("exp_avg", "exp_avg_sq")} == {torch.float32}
    run(resumed, resumed_optimizer, range(4, 9))
    for got, expected in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(got, expected)


def test_state_is_plain_pytorch() -> None:
    """PyTorch's AdamW takes the state and goes on with it as ours does."""
    model = make_model(torch.float32)
    optimizer = make_optimizer("fp32", model)
    run(model, optimizer, range(3))
    twin = copy.deepcopy(model)
    plain = torch.optim.AdamW(twin.parameters(), fused=True)
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, step in ((model, optimizer.step), (twin, plain.step)):
        m.zero_grad()
        loss_of(m, 3).backward()
        step()
    for got, expected in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(got, expected)


def test_sixteen_bit_gradients_are_not_scaled_in_sixteen_bits() -> None:
    """A gradient of 2**-8 that is worth 2**-26 after unscaling would be 0 in fp16."""
    model = nn.Linear(1, 1, bias=False).half()
    model.weight.data.fill_(1.0)
    optimizer = make_optimizer("memory-efficient-fp16", model)
    model.weight.grad = torch.full_like(model.weight, 2.0**-8)
    optimizer.multiply_grads(2.0**-12)  # the loss scale of 64 takes another 2**-6
    optimizer._multiply_factor = 2.0**-18
    optimizer.step()
    moment = optimizer.optimizer.state[model.weight]["exp_avg"].item()
    assert moment == pytest.approx((1 - BETAS[0]) * 2.0**-26, rel=1e-6)


def test_buckets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for elements in (ELEMENTS_IN_FP32, 10, 1):
        monkeypatch.setattr(adamw, "ELEMENTS_IN_FP32", elements)
        model = make_model(torch.bfloat16)
        run(model, make_optimizer("memory-efficient-bf16", model), range(3))
        weights.append([p.detach().clone() for p in model.parameters()])
    for other in weights[1:]:
        assert all(torch.equal(a, b) for a, b in zip(weights[0], other, strict=True))


def test_zero_grad_forgets_the_factor() -> None:
    """fairseq zeroes gradients after an overflow, half-way through an update."""
    model = make_model(torch.float32)
    expected = make_model(torch.float32)
    optimizer = make_optimizer("fp32", model)
    optimizer.backward(loss_of(model, 0))
    optimizer.multiply_grads(1e3)
    run(model, optimizer, range(2))
    run(expected, make_optimizer("fp32", expected), range(2))
    assert torch.equal(next(model.parameters()), next(expected.parameters()))


def test_clipping_reports_the_norm_before() -> None:
    model = make_model(torch.float32)
    optimizer = make_optimizer("fp32", model)
    optimizer.backward(loss_of(model, 0))
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    optimizer.multiply_grads(0.5)
    assert torch.allclose(optimizer.clip_grad_norm(0.0), norm / 2)
    assert torch.allclose(optimizer.clip_grad_norm(1e-3), norm / 2)
    assert torch.allclose(optimizer.clip_grad_norm(0.0), torch.tensor(1e-3))


@pytest.mark.parametrize("spelling", ["(0.8, 0.9)", "0.8,0.9", "[0.8, 0.9]"])
def test_options_take_effect(spelling: str) -> None:
    cfg = parse(
        "--adam-betas", spelling, "--adam-eps", "1e-5", "--weight-decay", "0.2", "--lr", "3e-4"
    )
    group = build_optimizer(cfg.optimizer, make_model(torch.float32).parameters()).param_groups[0]
    assert group["betas"] == (0.8, 0.9)
    assert (group["eps"], group["weight_decay"], group["lr"]) == (1e-5, 0.2, 3e-4)
    assert isinstance(group["lr"], float)
    assert group["fused"]


def test_defaults_are_opts() -> None:
    group = build_optimizer(
        parse("--lr", "1").optimizer, make_model(torch.float32).parameters()
    ).param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.95), 1e-8, 0.1)


def test_registered_class_is_ours() -> None:
    assert OPTIMIZER_REGISTRY["adamw"] is FairseqAdamW


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--adam-betas", "0.9"], "--adam-betas"),
        (["--adam-betas", "(0.9, 1.0)"], "--adam-betas"),
        (["--adam-eps=-1e-8"], "--adam-eps"),
        (["--weight-decay=-0.1"], "--weight-decay"),
        (["--lr=-1"], "--lr"),
    ],
)
def test_wrong_settings_are_refused(arguments: list[str], option: str) -> None:
    cfg = parse("--lr", "1e-3", *arguments)
    with pytest.raises(UserError, match=f"`{option}` must "):
        build_optimizer(cfg.optimizer, make_model(torch.float32).parameters())


def resumed_group(overrides: Optional[dict[str, Any]]) -> dict[str, Any]:
    """The settings after a run of OPTIONS is resumed with other betas."""
    model = make_model(torch.float32)
    optimizer = make_optimizer("fp32", model)
    run(model, optimizer, range(1))
    resumed = make_optimizer("fp32", model, "--adam-betas", "(0.7, 0.75)")
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()), overrides)
    return resumed.param_groups[0]


def test_options_beat_the_checkpoint_and_overrides_beat_options() -> None:
    assert resumed_group(None)["betas"] == (0.7, 0.75)
    assert resumed_group({"betas": (0.5, 0.6)})["betas"] == (0.5, 0.6)
    assert resumed_group(None)["weight_decay"] == DECAY


def test_no_decay_vectors() -> None:
    model = make_model(torch.float32)
    before = copy.deepcopy(model)
    optimizer = make_optimizer("fp32", model, "--no-decay-vectors")
    assert not optimizer.supports_flat_params
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, old in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.allclose(p, old * (1 - LR * DECAY) if p.dim() > 1 else old)
    with pytest.raises(UserError, match="`--no-decay-vectors`"):
        make_optimizer("fp32", model).load_state_dict(optimizer.state_dict())


def test_closure() -> None:
    model = make_model(torch.float32)
    optimizer = make_optimizer("fp32", model)

    def closure() -> Tensor:
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    typed: Callable[[], Tensor] = closure
    before = next(model.parameters()).detach().clone()
    optimizer.step(typed)
    assert not torch.equal(before, next(model.parameters()))


@pytest.mark.parametrize("step", [torch.tensor(3.0), 3], ids=["tensor", "number"])
def test_loaded_counts_of_updates_lie_where_the_fused_kernel_reads_them(step: Any) -> None:
    """The meta device stands for a GPU; metaseq's and fairseq's checkpoints have groups without "fused"."""
    weight = nn.Parameter(torch.empty(2, device="meta"))
    optimizer = Fp32StateAdamW([weight], fused=True)
    entry = {"step": step, "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    group = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "params": [0]}
    optimizer.load_state_dict({"state": {0: entry}, "param_groups": [group]})
    assert {tensor.device.type for tensor in optimizer.state[weight].values()} == {"meta"}
    assert optimizer.param_groups[0]["fused"]
