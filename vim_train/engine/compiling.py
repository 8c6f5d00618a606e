"""`ops.compile`: torch.compile of the forward that training and evaluation share."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vim_train.config.schema import Compile, Determinism

MODES = {Compile.reduce_overhead: "reduce-overhead", Compile.max_autotune: "max-autotune"}
"""torch's names for those that run CUDA graphs."""


class Compiled(nn.Module):
    """A model whose forward is compiled; the model itself, and so the names of its weights, stay as they are.

    Graphs are for one number of images each: an evaluation's last batch is filled up with black ones, as another graph
    would take longer than any evaluation.
    """

    def __init__(self, model: nn.Module, how: Compile, eval_batch: int) -> None:
        super().__init__()
        self.module = torch.compile(model, dynamic=False, mode=MODES.get(how))
        self.how, self.eval_batch = how, eval_batch

    def forward(self, images: Tensor, **keywords: Tensor) -> Tensor:
        """As the model's, for (B, C, H, W) images with B that of every other pass of its kind, or below."""
        if self.how in MODES:
            torch.compiler.cudagraph_mark_step_begin()  # nothing of an earlier pass is needed any more
        if torch.is_grad_enabled() or len(images) >= self.eval_batch:
            return self.module(images, **keywords)
        count = len(images)
        filled = torch.cat([images, images.new_zeros(self.eval_batch - count, *images.shape[1:])])
        return self.module(filled, **keywords)[:count]


def compiles(how: Compile, device: torch.device, determinism: Determinism, tell: Callable[[str], None]) -> Compile:
    """`how`, or none where this machine cannot compile for `device`, which `tell` is told in a line."""
    if how is Compile.none:
        return how
    import torch._inductor.config as inductor  # takes a second

    inductor.deterministic = determinism is not Determinism.relaxed  # chooses nothing by time
    try:
        with inductor.patch(force_disable_caches=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no cache
            torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except (RuntimeError, OSError) as error:
        tell(f"ops.compile={how.name}: goes on without, as nothing can be compiled here: {str(error).splitlines()[0]}")
        return Compile.none
    return how


def compile_forward(model: nn.Module, how: Compile, eval_batch: int) -> nn.Module:
    """`model` as training and evaluation are to call it; it compiles when it is first called."""
    return model if how is Compile.none else Compiled(model, how, eval_batch)


def own_gradients(parameters: list[nn.Parameter], how: Compile, device: torch.device) -> bool:
    """Whether gradients have to stay where they are from step to step, as they now are.

    A CUDA graph's own are overwritten by the next pass, while passes of one step are added up.
    """
    if how not in MODES or device.type != "cuda":
        return False
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    return True
