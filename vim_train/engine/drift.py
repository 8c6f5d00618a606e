"""Whether all ranks hold the same weights. They take the same updates, so these are equal to the bit, or memory, a GPU
or a network has made a mistake that nothing else shows.
"""

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from vim_train.engine.ranks import Ranks

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class DriftError(Exception):
    """Ranks hold different weights: one line that names the rank, the parameter and the step."""


def replicated(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that are equal in all ranks: not the statistics of each rank's own batches."""
    own = {id(buffer) for module in model.modules() if isinstance(module, _NormBase) for buffer in module.buffers()}
    buffers = {name: buffer for name, buffer in model.named_buffers() if id(buffer) not in own}
    return {**dict(model.named_parameters()), **buffers}


def checksums(tensors: list[Tensor]) -> Tensor:
    """Two sums of the bits of each tensor, (n, 2) int64 on the CPU: integers, so exact in any order.

    A flipped bit changes both; the second is weighted by place and sees what has moved.
    """
    sums = []
    for tensor in tensors:
        plain = tensor.detach().contiguous().flatten()
        bits = (plain.to(torch.int8) if tensor.dtype is torch.bool else plain.view(_BITS[plain.element_size()])).long()
        place = torch.arange(1, 2 * len(bits), 2, device=bits.device)
        sums.append(torch.stack([bits.sum(), (bits * place).sum()]))
    return torch.stack(sums).cpu()


def check_replicas(model: nn.Module, ema: nn.Module | None, ranks: Ranks, step: int) -> None:
    """Compare the weights and averaged weights of all ranks; all have to ask.

    Raises:
        DriftError: in all ranks, where those of one differ.
    """
    if ranks.world == 1:
        return
    tensors = replicated(model)
    tensors |= {} if ema is None else {f"ema {name}": tensor for name, tensor in replicated(ema).items()}
    shares = [share.tolist() for share in ranks.gather(checksums(list(tensors.values())))]
    for name, *sums in zip(tensors, *shares, strict=True):
        if any(each != sums[0] for each in sums):
            raise DriftError(f"{_who(sums)} at step {step}: {name} is the first that differs; {_CURE}")


_CURE = "start again to go on from the newest checkpoint, without that machine if it happens again"


def _who(sums: list[list[int]]) -> str:
    """Which ranks differ from the majority, if there is one."""
    by_content = Counter(map(tuple, sums))
    content, count = by_content.most_common(1)[0]
    if 2 * count <= len(sums):
        return f"ranks {' and '.join(map(str, range(len(sums))))} hold different weights"
    odd = [str(rank) for rank, each in enumerate(sums) if tuple(each) != content]
    return f"rank{'s' if len(odd) > 1 else ''} {', '.join(odd)} hold{'' if len(odd) > 1 else 's'} other weights"
