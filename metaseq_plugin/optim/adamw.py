"""AdamW as OPT was trained with: PyTorch's fused kernel, decoupled decay, betas (0.9, 0.95).

    fairseq-train DATA --optimizer adamw --adam-betas '(0.9, 0.95)' --weight-decay 0.1 --clip-norm 1.0 …

One update, as fairseq's trainer makes it:
(1) ``multiply_grads`` and ``clip_grad_norm`` only note a factor: the gradients are gone through once
    for their norm, and not again to be scaled;
(2) ``step`` hands the factor to the fused kernel, which applies it while it updates;
(3) of a sharded parameter, the rank's own shard is updated, and moments are kept for it;
(4) parameters of 16 bits (``--memory-efficient-fp16``, ``--memory-efficient-bf16``) keep fp32 moments
    and are updated in fp32 copies, some millions of elements at a time, then rounded to nearest.

Plain ``--fp16`` and ``--bf16`` hand this optimizer fp32 master weights, so (4) does not concern them.
fairseq saves only the model's 16 bits of these and resumes from them; here the state holds the masters
too, so that a resumed run goes on exactly.

Weight decay acts on every parameter, as it did in OPT: metaseq gives its Adam one group of flattened
parameters. ``--no-decay-vectors`` spares biases and LayerNorms, as other trainers do.
"""

from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Union

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor
from torch.optim.adamw import adamw

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.distributed.gradient_norm import total_norm
from metaseq_plugin.distributed.run import current
from metaseq_plugin.layout.held import local
from metaseq_plugin.layout.layout import FULLY_SHARDED
from metaseq_plugin.optim.fp32_copies import ELEMENTS_IN_FP32


@dataclass
class AdamWConfig(FairseqDataclass):
    """The names are those of fairseq's ``adam``; the defaults are OPT's."""

    adam_betas: List[float] = field(
        default_factory=lambda: [0.9, 0.95],
        metadata={"help": "decay rates of the means of the gradient and of its square"},
    )
    adam_eps: float = field(
        default=1e-8, metadata={"help": "added to the root of the mean square in the denominator"}
    )
    weight_decay: float = field(
        default=0.1,
        metadata={"help": "part of a weight taken off at an update, in units of --lr"},
    )
    no_decay_vectors: bool = field(
        default=False,
        metadata={"help": "do not decay biases and LayerNorm weights (OPT decayed them)"},
    )
    lr: List[float] = II("optimization.lr")
    # These say whether the parameters given are fp32 copies of the model's (has_master_weights).
    fp16: bool = II("common.fp16")
    bf16: bool = II("common.bf16")
    memory_efficient_fp16: bool = II("common.memory_efficient_fp16")
    memory_efficient_bf16: bool = II("common.memory_efficient_bf16")
    ddp_backend: str = II("distributed_training.ddp_backend")


def has_master_weights(cfg: AdamWConfig) -> bool:
    """Whether ``Trainer._build_optimizer`` gives copies of the parameters, to be saved with the state."""
    # Sharded parameters are fp32 themselves; this config's bf16 stays set where the trainer's is taken out.
    return (
        (cfg.fp16 or cfg.bf16)
        and not (cfg.memory_efficient_fp16 or cfg.memory_efficient_bf16)
        and cfg.ddp_backend != FULLY_SHARDED
    )


def check_config(cfg: AdamWConfig) -> None:
    """Refuse settings with which Adam is not defined, all problems in one message."""
    problems = []
    if len(cfg.adam_betas) != 2 or not all(0 <= beta < 1 for beta in cfg.adam_betas):
        problems.append(
            f"`--adam-betas` must be two numbers in [0, 1), but is {tuple(cfg.adam_betas)}. "
            "OPT's are '(0.9, 0.95)'."
        )
    for option, value, remedy in (
        ("--adam-eps", cfg.adam_eps, "Set 1e-8 as OPT did."),
        ("--weight-decay", cfg.weight_decay, "Set 0.1 as OPT did."),
        ("--lr", cfg.lr[0], "OPT-125M's is 6e-4."),
    ):
        if value < 0:
            problems.append(f"`{option}` must be at least 0, but is {value}. {remedy}")
    if problems:
        raise UserError(*problems)


class Fp32StateAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW(fused=True)`` whose moments are fp32 whatever the parameters are."""

    # fairseq's memory-efficient wrapper puts loaded moments back uncast by itself, but leaves them
    # on the CPU; load_state_dict below does both.
    disable_mem_eff_fp16_loading_hack = True
    supports_memory_efficient_fp16 = True

    @torch.no_grad()
    def step(
        self,
        closure: Optional[Callable[[], Any]] = None,
        factor: Union[float, Tensor] = 1.0,
        found_inf: Optional[Tensor] = None,
    ) -> Any:
        """One update with gradients that are to be multiplied by ``factor`` first.

        Args:
            found_inf: () fp32; where it is 1, parameters and state stay as they are, to the bit.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_grad = [p for p in group["params"] if p.grad is not None]
            fp32 = [p for p in with_grad if p.dtype == torch.float32]
            self._update(group, fp32, [local(p) for p in fp32], _grads(fp32), factor, found_inf)
            for params in _buckets(p for p in with_grad if p.dtype != torch.float32):
                copies = [p.float() for p in params]
                grads = [g.float() for g in _grads(params)]
                self._update(group, params, copies, grads, factor, found_inf)
                torch._foreach_copy_(params, copies)
        return loss

    def _update(
        self,
        group: Dict[str, Any],
        params: List[Tensor],
        fp32_params: List[Tensor],
        fp32_grads: List[Tensor],
        factor: Union[float, Tensor],
        found_inf: Optional[Tensor],
    ) -> None:
        """Update ``fp32_params`` in place, with the state kept under ``params``."""
        if not params:
            return
        states = [self._state_of(p) for p in params]
        # The kernel divides by a scale and writes the quotient back; without one it does neither.
        grad_scale = None
        if isinstance(factor, Tensor) or factor != 1.0:
            if not isinstance(
                factor, Tensor
            ):  # filled in there: a copy from the host waits for the device
                factor = torch.full((), factor, dtype=torch.float32, device=fp32_params[0].device)
            grad_scale = factor.to(fp32_params[0].device, torch.float32).reciprocal()
        adamw(
            fp32_params,
            fp32_grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            grad_scale=grad_scale,
            found_inf=found_inf,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state_of(self, param: Tensor) -> Dict[str, Tensor]:
        state = self.state[param]
        if not state:
            held = local(param)
            state["step"] = torch.zeros((), dtype=torch.float32, device=held.device)
            state["exp_avg"] = torch.zeros_like(held, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(held, dtype=torch.float32)
        return state

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """As PyTorch's, which would round the moments to the parameters' type.

        It puts the counts of updates where the saved groups' kernel wants them. The fused one reads them
        on the parameters' device, and a converted checkpoint does not say that it will be used.
        """
        groups = [{**group, "fused": True} for group in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "param_groups": groups})
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for saved_id, param in zip(saved_ids, params, strict=True):
            if param.dtype != torch.float32 and saved_id in state_dict["state"]:
                for name in ("exp_avg", "exp_avg_sq"):
                    saved = state_dict["state"][saved_id][name]
                    self.state[param][name] = saved.to(device=param.device, dtype=torch.float32)


def _grads(params: Iterable[Tensor]) -> List[Tensor]:
    return [local(p.grad) for p in params if p.grad is not None]


def _buckets(params: Iterable[Tensor]) -> Iterator[List[Tensor]]:
    """Cut ``params`` into runs of at most ELEMENTS_IN_FP32 elements, or of one parameter."""
    bucket: List[Tensor] = []
    num_elements = 0
    for param in params:
        if bucket and num_elements + param.numel() > ELEMENTS_IN_FP32:
            yield bucket
            bucket, num_elements = [], 0
        bucket.append(param)
        num_elements += param.numel()
    if bucket:
        yield bucket


@register_optimizer("adamw", dataclass=AdamWConfig)
class FairseqAdamW(FairseqOptimizer):
    """``Fp32StateAdamW`` as fairseq's trainer and its 16-bit wrappers drive it."""

    def __init__(self, cfg: AdamWConfig, params: Iterable[Tensor]) -> None:
        super().__init__(cfg)
        check_config(cfg)
        params = list(params)
        groups: List[Dict[str, Any]] = [{"params": params}]
        if cfg.no_decay_vectors:
            groups = [
                {"params": [p for p in params if p.dim() > 1]},
                {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0},
            ]
        self._optimizer = Fp32StateAdamW(groups, fused=True, **self.optimizer_config)
        self._factor: Union[float, Tensor] = 1.0  # what the gradients are still to be multiplied by
        self._found_inf: Optional[Tensor] = None

    @property
    def optimizer_config(self) -> Dict[str, Any]:
        """Arguments of the PyTorch optimizer."""
        return {
            "lr": self.cfg.lr[0],
            "betas": tuple(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    @property
    def supports_flat_params(self) -> bool:
        """Flattened parameters do not show which of them are vectors; FSDP2's are not flattened."""
        return not self.cfg.no_decay_vectors or self.cfg.ddp_backend == FULLY_SHARDED

    def multiply_grads(self, c: Union[float, Tensor]) -> None:
        """Multiply gradients by ``c``, when they are used."""
        self._factor = self._factor * c

    def clip_grad_norm(
        self, max_norm: float, aggregate_norm_fn: Optional[Callable[[Tensor], Tensor]] = None
    ) -> Tensor:
        """Bound the gradients' norm (none if ``max_norm`` is 0); returns the norm before, ().

        ``aggregate_norm_fn`` is not asked: it would count what several ranks hold several times.
        """
        norm = self._factor * total_norm(list(self.params), current().grid)
        if max_norm > 0:
            self._factor = self._factor * (max_norm / (norm + 1e-6)).clamp(max=1.0)
        return norm

    def refuse_if(self, bad: Tensor) -> None:
        """Let the next step change nothing if ``bad``, () fp32 on the parameters' device, is 1; the host need not know."""
        self._found_inf = bad

    def step(
        self,
        closure: Optional[Callable[[], Any]] = None,
        scale: float = 1.0,
        groups: Optional[Any] = None,
    ) -> None:
        """One update with the gradients divided by ``scale``; fairseq's ``groups`` has no meaning."""
        factor = self._factor if scale == 1.0 else self._factor / scale
        found_inf, self._factor, self._found_inf = self._found_inf, 1.0, None
        self.optimizer.step(closure, factor=factor, found_inf=found_inf)

    def zero_grad(self) -> None:
        """Drop the gradients, and with them what they were to be multiplied by."""
        super().zero_grad()
        self._factor, self._found_inf = 1.0, None

    def state_dict(self) -> Dict[str, Any]:
        """PyTorch's, and the parameters themselves where they are nowhere else in the checkpoint."""
        state_dict = self.optimizer.state_dict()
        if has_master_weights(self.cfg):
            state_dict["master_weights"] = [p.detach() for p in self.params]
        return state_dict

    def load_state_dict(
        self, state_dict: Dict[str, Any], optimizer_overrides: Optional[Dict[str, Any]] = None
    ) -> None:
        """Take the moments from ``state_dict``, and the settings from this run's options.

        PyTorch would take the settings from the checkpoint as well, so that ``--adam-betas`` or
        ``--weight-decay`` had no effect on a resumed run. The learning rate is the scheduler's.
        """
        saved_groups = [len(group["params"]) for group in state_dict["param_groups"]]
        if saved_groups != [len(group["params"]) for group in self.param_groups]:
            raise UserError(
                "`--no-decay-vectors` and the model must be as in the checkpoint, whose optimizer has "
                f"groups of {saved_groups} parameters, but give "
                f"{[len(group['params']) for group in self.param_groups]}. "
                "Set them alike, or --reset-optimizer."
            )
        settings = [
            {name: group[name] for name in ("betas", "eps", "weight_decay")}
            for group in self.param_groups
        ]
        self.optimizer.load_state_dict(state_dict)
        for group, ours in zip(self.param_groups, settings, strict=True):
            group.update(ours)
            group.update(optimizer_overrides or {})
        if has_master_weights(self.cfg) and "master_weights" in state_dict:
            for param, saved in zip(self.params, state_dict["master_weights"], strict=True):
                param.data.copy_(saved)
