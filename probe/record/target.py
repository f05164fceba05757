"""Where a record goes: into memory, or into a folder that has its name only when it is complete."""

from pathlib import Path

from probe.errors import InputError
from probe.record.writer import MemoryWriter, Writer


def writer(
    expected: int,
    store: str | Path | None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    request: str = "",
    keep_bits: int | None = None,
) -> Writer:
    """A writer into memory, or into a folder.

    Args:
        expected: how many layers will probably come, of all towers together.
        store: the folder to be made; None for memory.
        overwrite: replace a record that is already there, after this one is complete.
        resume: continue what a killed run of the same request left, and keep what is written when this run fails.
        request: stands for the model, the inputs and the options of this run.
        keep_bits: bits of the mantissa that float statistics keep, 1 to 23; None for all of them.

    Raises:
        InputError: something is there that may not be replaced or continued; an option that cannot be used.
        RecordError: the folder cannot be made.
    """
    if store is None:
        if resume:
            raise InputError("resume: got no store, expected the folder whose capture is to be continued")
        return MemoryWriter(expected, keep_bits)
    from probe.record.zarr_writer import ZarrWriter

    return ZarrWriter(
        expected, Path(store), overwrite=overwrite, resume=resume, request=request, keep_bits=keep_bits
    )
