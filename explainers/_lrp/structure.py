"""Which autograd nodes only copy, select or rearrange: their own backward hands relevance on rightly."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

COPIES = frozenset(
    """
    Alias AsStrided Cat Stack Clone Contiguous Expand Repeat View UnsafeView ReshapeAlias Permute T Transpose Swapdims
    Movedim Squeeze SqueezeMulti Unsqueeze Unflatten Select Slice Split SplitWithSizes UnsafeSplit UnsafeSplitWithSizes
    Unbind Narrow Index IndexSelect IndexPut IndexCopy Gather Take TakeAlongDim MaskedSelect MaskedScatter Scatter Where
    Flip Roll Rot Unfold ImCol Diagonal Tril Triu ReflectionPadD ReplicationPadD ConstantPadNd PixelShuffle
    PixelUnshuffle ChannelShuffle Max Amax Topk Sort MaxPoolDWithIndices AdaptiveMaxPoolD ToCopy SliceScatter
    SelectScatter DiagonalScatter
    """.split()  # noqa: SIM905
)
OTHERS = ("CopySlices", "CopyBackwards", "AccumulateGrad")


def carries(value: object) -> bool:
    """Whether a tensor depends on the input that is explained: it has a place in the relevance graph."""
    return isinstance(value, Tensor) and value.grad_fn is not None


def nodes_between(outputs: Iterable[Any], stop: Iterable[Any]) -> Iterator[Any]:
    """The graph's nodes from some tensors' own (`grad_fn`) back to, and without, the nodes in `stop`."""
    seen = set(stop)
    todo = [node for node in outputs if node is not None]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        todo += [following for following, _ in node.next_functions if following is not None]


def only_copies(node: Any) -> bool:
    """Whether a node belongs to PyTorch and copies, selects or rearranges."""
    if hasattr(type(node), "_forward_cls"):  # somebody's own autograd function
        return False
    name = "".join(c for c in type(node).__name__ if not c.isdigit())
    return name.removesuffix("Backward") in COPIES or name in OTHERS
