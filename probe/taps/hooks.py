"""Forward hooks and contexts that are entered together and taken away together, on every way out."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch


class Hooks(ExitStack):
    """Everything that a tap puts into a model while it listens.

    A tap enters with `with Hooks() as hooks: …; self._hooks = hooks.pop_all()`, so that what was placed before a
    failure is removed, and closes `self._hooks` when it leaves.
    """

    def after(self, module: torch.nn.Module, hook: Callable[..., Any], *, always: bool = False) -> int:
        """Call `hook(module, args, output)` after each forward of `module`; `always`: also after one that failed.

        Returns:
            The number of the hook among the module's own.
        """
        handle = module.register_forward_hook(hook, always_call=always)
        self.callback(handle.remove)
        return int(handle.id)

    def before(self, module: torch.nn.Module, hook: Callable[..., Any], *, keywords: bool = False) -> None:
        """Call `hook(module, args)` before each forward of `module`; `keywords`: `hook(module, args, kwargs)`."""
        self.callback(module.register_forward_pre_hook(hook, with_kwargs=keywords).remove)
