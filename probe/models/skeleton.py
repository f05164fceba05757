"""A model without its weights, from its config alone: enough to look at how it computes attention."""

from pathlib import Path

import torch

from probe.errors import ModelError
from probe.models import catalog
from probe.models.hub import HUB_SECONDS
from probe.models.load import _find, _quiet


def skeleton(name: str) -> torch.nn.Module:
    """The model on the "meta" device; of a hub model only the config is fetched, if it is not cached.

    Args:
        name: a name of `probe models`, a folder that transformers saved, or a hub id.

    Raises:
        ModelError: there is no such model, or transformers has no class for it.
    """
    import transformers

    hub = name.count("/") == 1 and catalog.find(name) is None and not Path(name).expanduser().exists()
    hub = hub and not name.startswith((".", "/", "~")) and not name.endswith("/")
    place = _config_folder(name) if hub else _find(name).folder
    with _quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{name}: its config cannot be read: {_line(error)}") from error
        kind = (getattr(config, "architectures", None) or ["(none)"])[0]
        made = getattr(transformers, kind, None)
        if made is None:
            raise ModelError(
                f"{name} is a {kind}, which this transformers ({transformers.__version__}) does not have; "
                "load it yourself and give the object to probe.survey"
            )
        try:
            with torch.device("meta"):
                model: torch.nn.Module = made._from_config(config)
        except (
            ValueError,
            RuntimeError,
            TypeError,
            ImportError,
            AttributeError,
            NotImplementedError,
        ) as error:
            raise ModelError(f"{name}: a {kind} cannot be made from its config: {_line(error)}") from error
    return model.eval()


def _config_folder(name: str) -> Path:
    """Where the config of a hub model is; it is asked for once, without waiting long."""
    from huggingface_hub import HfApi, hf_hub_download, is_offline_mode
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json", local_files_only=True)).parent
    except LocalEntryNotFoundError:
        if is_offline_mode():
            raise ModelError(
                f"the config of {name} is not in the hub's cache and HF_HUB_OFFLINE forbids the network"
            ) from None
    except (HFValidationError, ValueError) as error:
        raise ModelError(f"{name!r} is neither a folder here nor a hub id") from error
    try:
        revision = HfApi().model_info(name, timeout=HUB_SECONDS).sha
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent
    except (HTTPError, OSError) as error:
        raise ModelError(
            f"the config of {name} is not cached here and cannot be fetched ({_line(error)})"
        ) from error


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
