"""What a run of ``fairseq-train`` does, update by update, exactly: to compare runs bit for bit.

recorder = Recorder(tmp_path / "rows", weights=True)
train(…, prepare=recorder)               or        train_ranks(2, …, prepare=recorder)
recorder.rows(), recorder.weights()                recorder.rows(rank=1), recorder.weights()
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Recorder:
    """Appends, for every update: number, sample ids, learning rate, gradient norm and loss.

    Losses, norms and rates are hexadecimal, so that equal means equal. With ``weights`` every rank
    also keeps what it holds of the model after its latest update.
    """

    def __init__(self, path: Path, weights: bool = False) -> None:
        self.path, self.keep_weights = path, weights

    def _file(self, kind: str, rank: int) -> Path:
        return self.path.with_name(f"{self.path.name}-{kind}{rank}")

    def __call__(self, rank: int = 0) -> None:
        from fairseq.model_parallel.megatron_trainer import MegatronTrainer
        from fairseq.trainer import Trainer

        step, log_stats = Trainer.train_step, Trainer._reduce_and_log_stats
        norms: list[str] = []
        losses: list[float] = []  # before fairseq rounds them

        def recording_norm(clip: Any) -> Any:
            def clip_grad_norm(trainer: Any, clip_norm: float) -> Any:
                norm = clip(trainer, clip_norm)
                norms.append(float(norm).hex())
                return norm

            return clip_grad_norm

        def reduce_and_log_stats(
            trainer: Any, outputs: list, sample_size: Any, *more: Any, **named: Any
        ) -> Any:
            losses.append(float(sum(output["loss"] for output in outputs) / sample_size))
            return log_stats(trainer, outputs, sample_size, *more, **named)

        def train_step(trainer: Any, samples: list, raise_oom: bool = False) -> Any:
            norms.clear()  # an overflow leaves none
            lr, output = trainer.get_lr(), step(trainer, samples, raise_oom)
            row = {
                "update": trainer.get_num_updates(),
                "ids": [sample["id"].tolist() for sample in samples if sample["nsentences"]],
                "lr": float(lr).hex(),
                "gnorm": norms[-1] if norms else None,
                "loss": None if output is None else losses[-1].hex(),
            }
            with self._file("rows", rank).open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            if self.keep_weights:
                self._save_weights(trainer.get_model(), rank)
            return output

        Trainer.train_step, Trainer._reduce_and_log_stats = train_step, reduce_and_log_stats
        for trainer_class in (Trainer, MegatronTrainer):  # each has a clip_grad_norm of its own
            trainer_class.clip_grad_norm = recording_norm(vars(trainer_class)["clip_grad_norm"])

    def _save_weights(self, model: Any, rank: int) -> None:
        from metaseq_plugin.layout.held import local_tensors, pieces_of

        pieces = {name: tuple(piece) for name, piece in pieces_of(model).items()}
        held = {"tensors": local_tensors(model), "pieces": pieces}
        torch.save(held, self._file("weights", rank))

    def rows(self, rank: int = 0) -> list[dict]:
        """One dict an update."""
        return [json.loads(line) for line in self._file("rows", rank).read_text().splitlines()]

    def numbers(self, key: str, rank: int = 0) -> list[float]:
        """``key`` ("loss", "gnorm" or "lr") of every update."""
        return [float.fromhex(row[key]) for row in self.rows(rank)]

    def weights(self) -> dict[str, Tensor]:
        """name -> the full tensor after the last update, put together from every rank's pieces."""
        from metaseq_plugin.layout.piece import Piece

        full: dict[str, Tensor] = {}
        covered: dict[str, Tensor] = {}
        for path in sorted(self.path.parent.glob(f"{self.path.name}-weights*")):
            held = torch.load(path)
            for name, tensor in held["tensors"].items():
                piece = Piece(*held["pieces"][name])
                full.setdefault(name, torch.full(piece.shape, torch.nan, dtype=tensor.dtype))
                covered.setdefault(name, torch.zeros(piece.shape, dtype=torch.bool))
                before, seen = full[name][piece.slices], covered[name][piece.slices]
                assert torch.equal(before[seen], tensor[seen]), f"{path}: another {name}"
                full[name][piece.slices] = tensor
                covered[name][piece.slices] = True
        for name, whole in covered.items():
            assert whole.all(), f"{name} is held only in parts"
        return full
