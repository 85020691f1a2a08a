"""The published OPT baselines: one row a size, and what all have in common, as options of ``fairseq-train``.

    baseline("opt_125m").options(num_ranks=16)     # {"arch": "opt_125m", …, "lr": 0.0006, …}

The sources. Rows: metaseq's launcher (opt_job_constants.py, opt_baselines.py; commit f7ffa5fd), which had them from
Table 2.1 of Brown et al. 2020 (arXiv:2005.14165) and Table 1 of Zhang et al. 2022 (arXiv:2205.01068).
``opt_175b_as_trained``: the script of run 12.00, posted in metaseq's issue 223. Dimensions stand in ``sizes.py``.

Here are metaseq's options that have no counterpart:
  --full-megatron-init                       is how every OPT of ours starts; its sigma is --init-std
  --tensor-parallel-init-model-on-gpu        every rank draws only what it holds, of the same weights in any layout
  --distribute-checkpointed-activations      with --sequence-parallel a layer's input is cut already
  --memory-efficient-fp16                    FSDP2 keeps fp32 master weights, of which a rank holds its shard: --fp16
  --gradient-predivide-factor 32             FSDP2 sums gradients in fp32, which does not overflow
  --clip-norm-type l2                        is the only one
  --share-decoder-input-output-embed, --decoder-learned-pos, --no-scale-embedding, --no-emb-dropout,
  --activation-fn relu                       are what --arch opt is
  --vocab-filename, --merges-filename        the tokenizer lies in DATA
  --num-workers-valid                        --num-workers is for both
"""

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Mapping, Optional

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.batch import UNITS, Asked, Batch, deal, read_tokens
from metaseq_plugin.launch.spec import Value
from metaseq_plugin.layout.layout import FULLY_SHARDED, check_divides
from metaseq_plugin.sizes import ARCH, DIMENSIONS, MAX_POSITIONS, SIZES, dimensions_of

M = UNITS["M"]
TOTAL_TOKENS = 300_000_000_000
WARMUP_TOKENS = 375_000_000
BATCH_TOKENS = "batch-tokens"  # the one option here that is not fairseq-train's

# Of every baseline, in the order of a command.
COMMON: Mapping[str, Value] = {
    "tokens-per-sample": MAX_POSITIONS,
    "sample-break-mode": "none",
    "criterion": "chunked_cross_entropy",  # for vocab_parallel_cross_entropy
    "optimizer": "adamw",
    "lr-scheduler": "polynomial_decay",
    "adam-betas": "(0.9, 0.95)",
    "adam-eps": 1e-8,
    "weight-decay": 0.1,
    "clip-norm": 1.0,
    "dropout": 0.1,
    "attention-dropout": 0.1,
    "init-std": 0.006,
    "fp16": True,
    "fp16-init-scale": 4,
    "fp16-scale-window": 256,  # metaseq's default; fairseq's depends on the number of ranks
    "ddp-backend": FULLY_SHARDED,
    "no-reshard-after-forward": True,  # ZeRO-2
    "use-sharded-state": True,
    "checkpoint-activations": True,
    "num-workers": 8,
    "required-batch-size-multiple": 1,
    "validate-interval-updates": 2000,
    "save-interval-updates": 2000,
    "seed": 1,
    "log-format": "json",
    "log-interval": 1,
}

# What the layout and the batch are made of: a command without one of them would train with another batch.
NEEDED = ("arch", "model-parallel-size", "batch-size", "update-freq", "tokens-per-sample")

# An option that is set to anything else than this -> what of a recipe makes no sense then.
HALF_PRECISION = ("fp16", "fp16-init-scale", "fp16-scale-window", "threshold-loss-scale")
DISPLACED: Mapping[str, tuple[Value, tuple[str, ...]]] = {
    "bf16": (False, HALF_PRECISION),
    "memory-efficient-bf16": (False, HALF_PRECISION),
    "memory-efficient-fp16": (False, ("fp16",)),
    "cpu": (False, HALF_PRECISION),  # computes in fp32
    "ddp-backend": (FULLY_SHARDED, ("no-reshard-after-forward", "use-sharded-state")),
}


@dataclass(frozen=True)
class Baseline:
    """One row.

    Attributes:
        batch_tokens: of an update, of all ranks.
        lr: the highest.
        model_parallel_size: metaseq's MP.
        end_lr_share: of ``lr``, at the last update.
        warmup_updates, total_updates: where they do not follow from tokens; of ``batch_tokens``.
        others: what is not as in ``COMMON``; None leaves an option out.
    """

    name: str
    size: str
    batch_tokens: int
    lr: float
    model_parallel_size: int
    end_lr_share: float = 0.1
    warmup_updates: Optional[int] = None
    total_updates: Optional[int] = None
    others: Mapping[str, Value] = field(default_factory=dict)

    @property
    def arch(self) -> str:
        return f"{ARCH}_{self.size}"

    @property
    def warmup_tokens(self) -> int:
        """Tokens until the rate is highest: 375e6, or those of ``warmup_updates``."""
        return (
            WARMUP_TOKENS
            if self.warmup_updates is None
            else self.warmup_updates * self.batch_tokens
        )

    @property
    def total_tokens(self) -> int:
        """Tokens to train on: 300e9, or those of ``total_updates``."""
        return (
            TOTAL_TOKENS if self.total_updates is None else self.total_updates * self.batch_tokens
        )

    def options(
        self, num_ranks: int, overrides: Optional[Mapping[str, Value]] = None
    ) -> dict[str, Value]:
        """Options of ``fairseq-train`` -> values, for ``num_ranks`` ranks.

        The batch is shared out to them (``batch.py``). Where the batch is another, warmup and total updates
        are those of as many tokens, rounded down as metaseq rounds; the end of the rate follows --lr.

        Args:
            overrides: options that are wanted otherwise, and "batch-tokens"; None or False leaves one out.

        Raises:
            UserError: a layout or batch that does not divide, a part of them that is left out, or a value that is
                no number.
        """
        asked = dict(overrides or {})
        for option in NEEDED:
            if option in asked and (asked[option] is None or asked[option] is False):
                raise UserError(
                    f"`--{option}` must have a value in a recipe, but is left out. Set one, or leave it to the recipe."
                )
        parts = whole(asked, "model-parallel-size", self.model_parallel_size)
        self.check_parts(parts, num_ranks, asked)
        batch = self.batch(asked, num_ranks, parts)
        warmup = max(1, self.warmup_tokens // batch.batch_tokens)
        total = whole(asked, "total-num-update", self.total_tokens // batch.batch_tokens)
        recipe: dict[str, Value] = {
            "arch": self.arch,
            "model-parallel-size": parts,
            "batch-size": batch.batch_size,
            "update-freq": batch.update_freq,
            "lr": self.lr,
            "end-learning-rate": self.end_lr(asked),
            "warmup-updates": warmup,
            "total-num-update": total,
            "max-update": total,
            **COMMON,
            **self.others,
        }
        for option, (usual, displaced) in DISPLACED.items():
            if option in asked and (asked[option] or False) != usual:  # None and False are alike
                recipe = {name: value for name, value in recipe.items() if name not in displaced}
        asked.pop(BATCH_TOKENS, None)
        chosen = {**recipe, **asked}
        return {
            name: value
            for name, value in chosen.items()
            if value is not None and value is not False
        }

    def check_parts(self, parts: int, num_ranks: int, asked: Mapping[str, Value]) -> None:
        """Refuse model parts that the ranks, or the model, cannot be shared out to."""
        if num_ranks < 1:
            raise UserError(
                f"The number of ranks must be at least 1, but is {num_ranks}. Set --nodes."
            )
        if parts < 1:
            raise UserError(
                f"`--model-parallel-size` must be at least 1, but is {parts}. Set 1 to not cut."
            )
        settings = {name: asked.get(name.replace("_", "-")) for name in DIMENSIONS}
        known = {name: whole(asked, name.replace("_", "-"), 0) for name, value in settings.items()
                 if value is not None and not isinstance(value, bool)}  # fmt: skip
        model = dimensions_of({"_name": asked.get("arch") or self.arch, **known})
        check_divides(
            parts,
            {
                "the number of ranks": num_ranks,
                "the attention heads": model["decoder_attention_heads"],
                "the feed-forward dimension": model["decoder_ffn_embed_dim"],
            },
        )

    def batch(self, asked: Mapping[str, Value], num_ranks: int, parts: int) -> Batch:
        """This row's batch, or the one that is asked for."""
        tokens, batch_size, update_freq = (
            asked.get(option) for option in (BATCH_TOKENS, "batch-size", "update-freq")
        )
        wanted = Asked(
            self.batch_tokens if tokens is None else read_tokens(str(tokens), f"--{BATCH_TOKENS}"),
            whole(asked, "tokens-per-sample", MAX_POSITIONS),
            None if batch_size is None else whole(asked, "batch-size", 0),
            None if update_freq is None else whole(asked, "update-freq", 0),
        )
        batch = deal(wanted, num_ranks, parts)
        if tokens is not None and batch.batch_tokens != wanted.batch_tokens:
            raise UserError(
                f"`--{BATCH_TOKENS}` must be that of --batch-size and --update-freq "
                f"({batch.batch_tokens:,}), but is {wanted.batch_tokens:,}. Leave one of them out."
            )
        return batch

    def end_lr(self, asked: Mapping[str, Value]) -> float:
        """The rate at the last update: a share of the highest."""
        lr = self.lr if asked.get("lr") is None else asked["lr"]
        try:
            return round(float(str(lr)) * self.end_lr_share, 12)
        except ValueError:
            raise UserError(
                f"`--lr` must be a number, but is {lr}. Set for example {self.lr}."
            ) from None


def whole(asked: Mapping[str, Value], option: str, otherwise: int) -> int:
    """The whole number that ``option`` is set to, perhaps as text."""
    value = asked.get(option)
    if value is None:
        return otherwise
    try:
        return int(str(value).strip("[]"))
    except ValueError:
        raise UserError(f"`--{option}` must be a whole number, but is {value}. Set one.") from None


# fmt: off
ROWS = (
    #        name               size    batch tokens   LR      MP
    Baseline("opt_8m_mp1",      "8m",   M // 8,        1e-3,   1),
    Baseline("opt_8m",          "8m",   M // 8,        1e-3,   2),
    Baseline("opt_125m",        "125m", M // 2,        6e-4,   2),
    Baseline("opt_350m",        "350m", M // 2,        3e-4,   2),
    Baseline("opt_760m",        "760m", M // 2,        2.5e-4, 2),
    Baseline("opt_1.3b",        "1.3b", M,             2e-4,   2),
    Baseline("opt_2.7b",        "2.7b", M,             1.6e-4, 4),
    Baseline("opt_6.7b",        "6.7b", 2 * M,         1.2e-4, 2),
    Baseline("opt_13b",         "13b",  4 * M,         1e-4,   2),
    Baseline("opt_30b",         "30b",  4 * M,         1e-4,   2),
    Baseline("opt_66b",         "66b",  2 * M,         8e-5,   8),
    Baseline("opt_175b",        "175b", 2 * M,         3e-5,   8),
    # 992 A100s: 8 model parts x 124 x 8 sequences. 3e-5 is the rate when the script was posted; it was changed in
    # mid-flight. 143,052 updates are 300e9 tokens of 2 M, rounded up.
    Baseline("opt_175b_as_trained", "175b", 124 * 8 * MAX_POSITIONS, 3e-5, 8, end_lr_share=0.2,
             warmup_updates=2000, total_updates=143_052, others={
        "clip-norm": 0.3,
        "threshold-loss-scale": 0.25,
        "no-reshard-after-forward": None,  # ZeRO-3
        "save-interval-updates": 250,
        "validate-interval-updates": 1000,
    }),
)
# fmt: on
BASELINES = {row.name: row for row in ROWS}
assert {row.size for row in ROWS} == set(SIZES)


def baseline(name: str) -> Baseline:
    """The row ``name``, such as ``opt_125m``.

    Raises:
        UserError: there is none; says which name is nearest.
    """
    if name not in BASELINES:
        likely = name if name.startswith(ARCH) else f"{ARCH}_{name}"
        near = get_close_matches(likely, BASELINES, 1, cutoff=0.75)
        advice = f"Did you mean {near[0]}?" if near else "Set one of them."
        raise UserError(
            f"A baseline must be one of {', '.join(BASELINES)}, but is {name}. {advice}"
        )
    return BASELINES[name]
