"""``--recompute selective``: of a layer, backward computes norms and dropout again, and no product.

    with Forgetting():
        y = layer(x)        # its norms are ``LayerNorm``, its dropout is ``dropout.dropout``

What a layer keeps without it, and what of that takes next to no time to have again:

    kept: its input, the sum after attention, q, k, v, the attention's output, what follows ReLU
    again: the output of each norm, from its input and its two vectors; each mask of dropout, from the
        generator's state before it

Results of matrix products, of attention and of collectives are all kept, so that backward repeats none of them.
(``torch.utils.checkpoint``'s selective contexts decide operator by operator. They would keep the sums of fc2 and
out_proj besides, only to run the layer again from its start, and under tensor parallelism each of these twice: before its
all-reduce and after it.)

Masks of dropout are not told of here: ``dropout.py`` asks ``current``. The steps: (1) ``LayerNorm`` tells which tensor it made of which; (2) when an operation saves that tensor, or a view of it,
for its gradient, autograd's hook puts a ``Recipe`` in its place; (3) backward asks for the tensor, and the recipe makes it,
once for all that ask. A gathered copy, as sequence parallelism hands on, is another tensor and is kept.
"""

import weakref
from contextvars import ContextVar
from typing import Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` whose output can be forgotten."""

    def forward(self, x: Tensor) -> Tensor:
        """x (…, D) → (…, D)."""
        y = super().forward(x)
        forgetting = current()
        if forgetting is not None:
            forgetting.tell(y, Recipe(self, x))
        return y


class Recipe:
    """How a norm's output is made again, and how many saved it: the last of them to ask lets it go."""

    def __init__(self, norm: LayerNorm, x: Tensor) -> None:
        self.norm, self.x = norm, x.detach()
        self.num_saved = self.num_asked = 0
        self.made: Optional[Tensor] = None

    def make(self) -> Tensor:
        """The values it had; parameters are asked for now, since FSDP has gathered them anew."""
        norm = self.norm
        if self.made is None:
            with torch.no_grad():
                self.made = F.layer_norm(
                    self.x, norm.normalized_shape, norm.weight, norm.bias, norm.eps
                )
        made = self.made
        self.num_asked += 1
        if self.num_asked == self.num_saved:
            self.num_asked, self.made = 0, None
        return made


class View:
    """What was saved of a recipe's tensor: all of it, in some shape."""

    def __init__(self, recipe: Recipe, tensor: Tensor) -> None:
        self.recipe = recipe
        self.place = tensor.size(), tensor.stride(), tensor.storage_offset()
        recipe.num_saved += 1

    def make(self) -> Tensor:
        return self.recipe.make().as_strided(*self.place)


class Forgetting:
    """While it is entered, outputs of norms and masks of dropout are not kept for backward."""

    def __init__(self) -> None:
        # By the storage, and valid while its tensor lives: afterwards the address may be another's.
        self.recipes: dict[int, tuple[weakref.ref[Tensor], Recipe]] = {}
        self.hooks = saved_tensors_hooks(self._pack, self._unpack)

    def __enter__(self) -> None:
        _current.set(self)
        self.hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)
        _current.set(None)
        self.recipes.clear()  # it and its hooks hold each other, and must not hold activations meanwhile

    def tell(self, made: Tensor, recipe: Recipe) -> None:
        """``made`` is what ``recipe`` makes."""
        self.recipes[made.untyped_storage()._cdata] = weakref.ref(made), recipe

    def _pack(self, tensor: Tensor) -> Union[Tensor, View]:
        alive, recipe = self.recipes.get(tensor.untyped_storage()._cdata, (None, None))
        if alive is None or recipe is None or alive() is None:
            return tensor.detach()  # itself would hold the operation that holds it
        return View(recipe, tensor)

    @staticmethod
    def _unpack(packed: Union[Tensor, View]) -> Tensor:
        return packed.make() if isinstance(packed, View) else packed


_current: ContextVar[Optional[Forgetting]] = ContextVar("forgetting", default=None)


def current() -> Optional[Forgetting]:
    """What is entered; nothing is in compiled code, which is not to look."""
    return None if torch.compiler.is_compiling() else _current.get()
