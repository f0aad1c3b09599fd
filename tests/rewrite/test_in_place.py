"""Calls that change their argument: a graph reads the changed value wherever PyTorch does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from paragon_export.errors import TraceError
from paragon_export.rewrite.fx_network import record
from tests.graph.test_trace import Snippet


def changed_by_relu(x: Tensor) -> Tensor:
    y = x - 0.5
    z = F.relu(y, inplace=True)
    return z + y


def changed_by_position(x: Tensor) -> Tensor:
    y = x - 0.5
    z = F.leaky_relu(y, 0.1, True)
    return z * 3 + y


def changed_by_method(x: Tensor) -> Tensor:
    y = x - 0.5
    kept = y + 0.25
    y.mul_(2.0)
    return y + kept


def changed_by_operator(x: Tensor) -> Tensor:
    y = x + 0.5
    same = y
    y += x
    y *= 2.0
    y -= 0.25
    y /= 4.0
    return y + same


def changed_by_index(x: Tensor) -> Tensor:
    y = x + 0.5
    y[:, :2] = y[:, 1:] * 2.0
    return y


def changed_twice(x: Tensor) -> Tensor:
    y = x - 0.5
    z = y
    z += 1.0
    y += 1.0
    return z + y


def counted(x: Tensor) -> Tensor:
    """Numbers never change: ``before`` stays the height."""
    height = x.shape[2]
    before = height
    height += 3
    return F.pad(x, (0, 0, 0, height - before))


def counted_by_method(x: Tensor) -> Tensor:
    height = x.size(2) * 2
    before = height
    height -= x.size(2)
    return F.pad(x, (0, 0, before, height))


def changed_from_zeros(x: Tensor) -> Tensor:
    """Made of sizes alone, and a tensor all the same."""
    y = torch.zeros(x.shape[3])
    same = y
    y += 1.0
    return x + y + same


FUNCTIONS = [
    changed_from_zeros,
    changed_by_relu,
    changed_by_position,
    changed_by_method,
    changed_by_operator,
    changed_by_index,
    changed_twice,
    counted,
    counted_by_method,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_later_reads_see_the_change(function: Callable[[Tensor], Tensor]) -> None:
    """Nothing is changed in place any more, and the result is the same."""
    module = Snippet(function)
    graph = record(module)
    image = torch.rand(1, 3, 4, 5)
    expected = function(image.clone())
    without_changes = fx.GraphModule(module, graph)
    kept = image.clone()
    for node in graph.nodes:  # all that is left is pure
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "inplace"}
        if node.target == "mul_":
            node.target = "mul"
    without_changes.recompile()
    assert torch.equal(without_changes(kept), expected)
    assert torch.equal(kept, image)


def test_layers_that_change_their_argument_are_known() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y = x - 0.5
            z = self.relu(y)
            return z + y

    *_, total, output = record(Network()).nodes
    assert output.args == (total,)
    assert [node.name for node in total.args] == ["relu", "relu"]


def view_of_changed(x: Tensor) -> Tensor:
    y = x - 0.5
    part = y[:, :1]
    y += 1.0
    return part


def changed_view(x: Tensor) -> Tensor:
    y = x - 0.5
    part = y.reshape(1, 3, -1)
    part += 1.0
    return y


def data_of_changed(x: Tensor) -> Tensor:
    y = x - 0.5
    part = y.data
    before = part + 1.0
    y += 1.0
    return part + before


def same_type(x: Tensor) -> Tensor:
    y = x - 0.5
    same = y.type_as(x)
    y += 1.0
    return same + 1.0


def view_of_view(x: Tensor) -> Tensor:
    y = x - 0.5
    first, second = y[:, :1], y[:, 1:].permute(0, 1, 3, 2)
    second *= 2.0
    return first + 1.0


@pytest.mark.parametrize(
    "function", [view_of_changed, changed_view, view_of_view, data_of_changed, same_type]
)
def test_reading_a_part_of_what_was_changed_is_refused(
    function: Callable[[Tensor], Tensor],
) -> None:
    with pytest.raises(TraceError, match="changes a tensor in place"):
        record(Snippet(function))


def test_attributes_that_a_trace_changes_are_restored() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torch.rand(1, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.mean = self.mean.type_as(x)
            self.seen = x
            return x - self.mean

    network = Network()
    mean = network.mean
    record(network)
    assert network.mean is mean
    assert not hasattr(network, "seen")
    image = torch.rand(1, 3, 2, 2)
    assert torch.equal(network(image), image - mean)


def test_code_that_proxies_do_not_suit_is_one_error() -> None:
    def fails(x: Tensor) -> Tensor:
        return {}[x]  # type: ignore[index]

    with pytest.raises(TraceError, match="cannot be traced symbolically: KeyError"):
        record(Snippet(fails))
