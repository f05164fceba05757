"""The record: its schema (`schema` describes it), opening a folder of one, and writing it layer by layer."""

from probe.record.folder import is_record, manifest, open_record, read_attributes
from probe.record.schema import (
    CELLS,
    COUNTS,
    FORMAT,
    RESERVED,
    SCHEMA,
    Check,
    attributes,
    chunk_shape,
    dims,
    dtype,
    fill,
    ordered,
    positions,
    strings,
    towers,
    validate,
)

__all__ = [
    "CELLS",
    "COUNTS",
    "FORMAT",
    "RESERVED",
    "SCHEMA",
    "Check",
    "attributes",
    "chunk_shape",
    "dims",
    "dtype",
    "fill",
    "is_record",
    "manifest",
    "open_record",
    "ordered",
    "positions",
    "read_attributes",
    "strings",
    "towers",
    "validate",
]
