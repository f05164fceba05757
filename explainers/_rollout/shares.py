"""How much of a token's vector the skip connection around attention carries, measured by norms inside a model."""

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from probe.errors import ModelError
from probe.explainers.layers import Layer

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class SharesOfModel:
    """A context that watches a model's blocks: for each attention module, ‖x_i‖ / (‖x_i‖ + ‖a_i‖) per token.

    x is the input of the block, a the output of its attention module. That the block really goes on with x + a is proven while
    it runs: a module inside must be given exactly this sum.
    """

    def __init__(self, model: Any, sample: int) -> None:
        import torch

        self._module: Any = model if isinstance(model, torch.nn.Module) else getattr(model, "model", None)
        self._sample = sample
        self._inputs: dict[str, Tensor] = {}
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._proven: set[str] = set()
        self._hooks = ExitStack()

    def __enter__(self) -> "SharesOfModel":
        import torch

        if isinstance(self._module, torch.nn.Module):
            blocks = [n for n, _ in self._module.named_modules() if n.rpartition(".")[2].isdigit()]
            try:
                for name in blocks:
                    self._watch(name)
            except BaseException:
                self._hooks.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def of(self, layer: Layer) -> "Tensor":
        """The share of every token in a layer that was heard, [N] float64.

        Raises:
            ModelError: the attention's output is not added to the block's input as it is.
        """
        found = self._sums.get(layer.module)
        if found is None or layer.module not in self._proven:
            raise ModelError(
                f"{layer.module}: its output is not added to the block's input as it is (a norm or a projection stands between "
                "them), so the skip connection's share cannot be measured; use residual='half'"
            )
        x, a = found
        return x / (x + a).clamp(min=1e-300)

    def _watch(self, block: str) -> None:
        """Hooks on a block: its input, the outputs of what is in it, and the sum."""
        here: dict[str, Any] = {}
        awaited: dict[str, Tensor] = {}

        def entered(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            here["x"] = given[0] if given else named.get("hidden_states")
            awaited.clear()

        def left(name: str) -> Any:
            def look(_: Any, __: Any, output: Any) -> None:
                a = output[0] if isinstance(output, tuple) else output
                if _fits(a, here.get("x")):
                    x = here["x"]
                    norms = [t[self._sample].double().norm(dim=-1) for t in (x, a) if self._sample < len(t)]
                    if len(norms) == 2:
                        self._sums[name] = (norms[0], norms[1])
                        awaited[name] = x + a

            return look

        def given(_: Any, arguments: tuple[Any, ...]) -> None:
            for name, total in list(awaited.items()):
                if any(_fits(x, total) and bool((x == total).all()) for x in arguments[:1]):
                    self._proven.add(name)
                    del awaited[name]

        module = self._module.get_submodule(block)
        self._keep(module.register_forward_pre_hook(entered, with_kwargs=True))
        for name, part in module.named_children():
            whole = f"{block}.{name}"
            self._keep(part.register_forward_pre_hook(given))
            self._keep(part.register_forward_hook(left(whole)))

    def _keep(self, handle: "torch.utils.hooks.RemovableHandle") -> None:
        self._hooks.callback(handle.remove)


def _fits(x: Any, other: Any) -> bool:
    shape = getattr(other, "shape", None)
    return shape is not None and getattr(x, "shape", None) == shape
