"""A hub id as a folder on this machine: what is cached is used at once, the network is not asked for long."""

from __future__ import annotations

from pathlib import Path

from probe.errors import ModelError

HUB_SECONDS = 5.0  # how long to wait for the hub's first answer
_TEXTS = ("*.json", "*.jinja", "*.txt", "*.model", "README.md")


def snapshot(name: str, advice: str) -> Path:
    """The folder with the files of a hub model; its name is the commit.

    Args:
        name: "owner/model".
        advice: What the user can do instead, the end of each message.

    Raises:
        ModelError: Not cached, and the network is forbidden, absent, or has no such model.
    """
    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached: Path | None = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        cached = None
    except (HFValidationError, ValueError) as error:
        raise ModelError(f"{name!r} is neither a folder here nor a hub id; {advice}") from error
    if cached is not None and (cached / "config.json").is_file() and weight_files(cached):
        return cached
    if is_offline_mode():
        raise ModelError(f"{name} is not in the hub's cache and HF_HUB_OFFLINE forbids the network; {advice}")
    return _fetch(name, advice)


def _fetch(name: str, advice: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError, RepositoryNotFoundError
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        info = HfApi().model_info(name, timeout=HUB_SECONDS)
        safe = any(s.rfilename.endswith(".safetensors") for s in info.siblings or ())
        wanted = [*_TEXTS, "*.safetensors" if safe else "*.bin"]
        return Path(
            snapshot_download(name, revision=info.sha, allow_patterns=wanted, ignore_patterns=["*/*"])
        )
    except RepositoryNotFoundError as error:
        raise ModelError(f"the hub has no model {name}, or it is private; {advice}") from error
    except (HTTPError, OSError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(f"{name} is not cached here and cannot be fetched ({reason}); {advice}") from error
    finally:
        if not silent:
            enable_progress_bars()


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights: safetensors if there are any, else PyTorch's."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
