"""`determinism=strict`: gradients lane by lane, added up in one order, however many ranks have computed them.

Floating-point sums depend on their order. Here the lanes of a step are the leaves of a binary tree: the node (level, i)
is the sum of the nodes (level - 1, 2 i) and (level - 1, 2 i + 1), or the former alone where the latter has no lanes.
Ranks add up what they have of it, exchange that, and all add up the rest.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from vim_train.engine.ranks import Ranks

Node = tuple[int, int]
"""(level, index): the sum of the lanes [index << level, (index + 1) << level)."""


LaneLoss = Callable[[], tuple[Tensor, Tensor]]
"""Computes a lane's mean loss, and that again as it is to be differentiated (a scaler may have scaled it)."""


def add_up(nodes: dict[Node, Tensor], lanes: int) -> dict[Node, Tensor]:
    """The nodes, of a tree with that many leaves, that follow from those given; these may be overwritten."""
    nodes = dict(nodes)
    level = 0
    while 1 << level < lanes:
        for index in sorted(i for at, i in nodes if at == level and i % 2 == 0):
            left, right = (level, index), (level, index + 1)
            if right[1] << level >= lanes:
                nodes[level + 1, index // 2] = nodes.pop(left)
            elif right in nodes:
                nodes[level + 1, index // 2] = nodes.pop(left).add_(nodes.pop(right))
        level += 1
    return nodes


def strict_gradients(
    parameters: list[nn.Parameter], losses: Iterable[tuple[int, LaneLoss]], lanes: int, ranks: Ranks
) -> Tensor:
    """Leave in every `.grad` the mean over all lanes of the step; returns that of the loss, a scalar.

    Args:
        losses: this rank's lanes, each with its number in the step.
        lanes: in the whole step.

    Raises:
        LostRankError: another rank has ended or does not answer.
    """
    nodes: dict[Node, Tensor] = {}
    for number, compute in losses:
        loss, scaled = compute()
        grads = torch.autograd.grad(scaled, parameters, materialize_grads=True)
        nodes[0, number] = torch.cat([*(grad.flatten() for grad in grads), loss.detach().flatten()])
    nodes = {node: total.cpu() for node, total in add_up(nodes, lanes).items()}
    every = {node: total for share in ranks.gather(nodes) for node, total in share.items()}
    [total] = add_up(every, lanes).values()
    total = total.to(ranks.device) / lanes
    *grads, loss = total.split([*(p.numel() for p in parameters), 1])
    for parameter, grad in zip(parameters, grads, strict=True):
        # Fused optimisers go by memory, not by strides: the gradient has to have the parameter's.
        parameter.grad = torch.empty_like(parameter).copy_(grad.view_as(parameter))
    return loss.squeeze()
