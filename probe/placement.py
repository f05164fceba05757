"""How a model object stands on its devices: offloaded, quantised, compiled, wrapped; and what of that cannot be heard.

Measured on accelerate 1.15 and torch 2.13: weights that accelerate moves in and out (`device_map`, CPU and disk offload) and
quantised linear layers leave queries and keys as they are, so capture is exact. Compiled code was traced without us: neither
hooks nor an interface stand in it as they do in Python, and running it uncompiled would change its rounding.
"""

from dataclasses import dataclass

import torch

from probe.errors import ModelError


@dataclass(frozen=True)
class Placement:
    """Where a model's parts are, and in what form.

    Attributes:
        devices: where parameters rest, in order of first use ("meta" where they are not loaded).
        offloaded: names of modules whose weights accelerate brings in for each call.
        quantised: names of modules with quantised weights.
        compiled: names of modules that `torch.compile` replaced; "" is the model itself.
        wrapped: a wrapper that runs copies of the model ("DataParallel"), or None.
    """

    devices: tuple[str, ...]
    offloaded: tuple[str, ...]
    quantised: tuple[str, ...]
    compiled: tuple[str, ...]
    wrapped: str | None


def placement(model: torch.nn.Module) -> Placement:
    """Look at a model; nothing is run or moved."""
    named = list(model.named_modules())
    return Placement(
        devices=tuple(dict.fromkeys(str(p.device) for p in (*model.parameters(), *model.buffers()))),
        offloaded=tuple(name for name, m in named if _offloads(getattr(m, "_hf_hook", None))),
        quantised=tuple(name for name, m in named if _is_quantised(m)),
        compiled=tuple(name for name, m in named if _is_compiled(m)),
        wrapped=next((type(m).__name__ for _, m in named if isinstance(m, torch.nn.DataParallel)), None),
    )


def ready(model: torch.nn.Module) -> None:
    """Refuse a model that cannot be heard, or that does not compute the same each time.

    Raises:
        ModelError: it, or a part of it, is in training mode, or see `refuse`.
    """
    training = next(  # quantised layers are made with the flag set, and do not look at it
        (
            name
            for name, part in model.named_modules()
            if part.training and ".quantized" not in type(part).__module__
        ),
        None,
    )
    if training is not None:
        raise ModelError(
            f"{training or type(model).__name__}: is in training mode (dropout, statistics of the batch); "
            "call model.eval() first"
        )
    refuse(model)


def refuse(model: torch.nn.Module) -> None:
    """Refuse by name, before it runs, a model that cannot be heard.

    Raises:
        ModelError: compiled as a whole or in parts, a TorchScript module, or wrapped in DataParallel.
    """
    for name, module in model.named_modules():
        where = name or type(module).__name__
        if _is_compiled(module):
            whole = "the model is" if not name else f"{len(placement(model).compiled)} of its modules are"
            raise ModelError(
                f"{where}: {whole} compiled (torch.compile) and cannot be heard; give the uncompiled module"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{where}: a TorchScript module cannot be heard; give the Python module")
        if isinstance(module, torch.nn.DataParallel):
            raise ModelError(
                f"{where}: DataParallel runs copies of the model in threads, which cannot be heard; "
                "give the model inside it (model.module)"
            )


def input_device(model: torch.nn.Module) -> torch.device:
    """Where a model wants its inputs: as accelerate says, else where its first weights are; the CPU without any."""
    for module in model.modules():  # the outermost first
        place = _execution_device(getattr(module, "_hf_hook", None))
        if place is not None:
            return place
    places = (p.device for p in (*model.parameters(), *model.buffers()))
    return next((place for place in places if place.type != "meta"), torch.device("cpu"))


def _execution_device(hook: object) -> torch.device | None:
    for one in getattr(hook, "hooks", (hook,)):
        place = getattr(one, "execution_device", None)
        if place is not None:
            return torch.device(f"cuda:{place}" if isinstance(place, int) else place)
    return None


def _offloads(hook: object) -> bool:
    return any(bool(getattr(one, "offload", False)) for one in getattr(hook, "hooks", (hook,)))


def _is_quantised(module: torch.nn.Module) -> bool:
    home = type(module).__module__
    if ".nn.quantized" in home or home.startswith("bitsandbytes"):
        return True
    plain = (torch.Tensor, torch.nn.Parameter)
    own = module.parameters(recurse=False)
    return any(p.is_quantized or type(p.data) not in plain or _is_packed(p) for p in own)


def _is_packed(parameter: torch.nn.Parameter) -> bool:
    """Whole numbers as weights: 8 or 4 bits packed, as bitsandbytes, GPTQ and AWQ do."""
    return not parameter.is_floating_point() and not parameter.is_complex() and parameter.ndim > 1


def _is_compiled(module: torch.nn.Module) -> bool:
    """As `torch.compile(module)`, `module.compile()` or `module.forward = torch.compile(module.forward)` leave it."""
    return (
        getattr(module, "_orig_mod", None) is not None
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module.forward, "get_compiler_config")
    )
