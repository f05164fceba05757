"""The labelled data behind a panel, as a file: CSV, Parquet or NPZ."""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from flask import Response, request

from probe.dashboard.explorer.panels import PANELS
from probe.dashboard.explorer.state import State
from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    import xarray as xr
    from dash import Dash

    from probe.dashboard.explorer.store import Store

KINDS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet", "npz": "application/octet-stream"}

ROWS = 1_000_000
"""Of a table, at most."""


def serve(app: Dash, store: Store) -> None:
    """Add the route `/_data/<panel>.<kind>?<state>`.

    Args:
        app: the app, all pages registered.
        store: the records.
    """

    def data(panel: str, kind: str) -> Response:
        try:
            state = State.of(request.query_string.decode("utf-8", "replace"))
            if panel not in PANELS or kind not in KINDS:
                raise InputError(f"{panel}.{kind}: no such data; kinds are {', '.join(KINDS)}")
            body = encoded(PANELS[panel].result(state, store), kind)
        except ProbeError as error:
            return Response(f"{error}\n", status=404 if panel not in PANELS else 400, mimetype="text/plain")
        name = "-".join([panel, *(p.replace("/", "-") for p in (state.record, state.other) if p)])
        answer = Response(body, mimetype=KINDS[kind])
        answer.headers.set("Content-Disposition", "attachment", filename=f"{name}.{kind}")
        return answer

    app.server.add_url_rule("/_data/<panel>.<kind>", "panel_data", data)


def encoded(result: xr.Dataset, kind: str) -> bytes:
    """A result as the bytes of a file; dimensions become columns, attributes go along where the kind has a place for them.

    Args:
        result: any.
        kind: "csv", "parquet" or "npz".

    Raises:
        InputError: another kind, or a table, which has a row for each combination of all dimensions, that is too large.
    """
    about = json.dumps(_plain(result.attrs), ensure_ascii=False)
    if kind == "npz":
        arrays = {str(name): _array(variable.values) for name, variable in result.variables.items()}
        file = io.BytesIO()
        np.savez_compressed(file, attributes=np.array(about), **arrays)
        return file.getvalue()
    if kind not in KINDS:
        raise InputError(f"kind {kind!r}, expected one of {', '.join(KINDS)}")
    if (rows := math.prod(result.sizes.values())) > ROWS:
        sizes = " × ".join(f"{name} {size:,}" for name, size in result.sizes.items())
        raise InputError(
            f"a table of this result would have {rows:,} rows ({sizes}), at most {ROWS:,}: take NPZ"
        )
    table = result.to_dataframe().reset_index()
    for column in table.columns:
        if table[column].dtype == object or "string" in str(table[column].dtype).lower():
            table[column] = table[column].map(str).astype(object)
    if kind == "csv":
        return f"# {about}\n{table.to_csv(index=False)}".encode()
    import pyarrow
    import pyarrow.parquet

    found = pyarrow.Table.from_pandas(table, preserve_index=False)
    found = found.replace_schema_metadata(
        {**(found.schema.metadata or {}), b"attention-probe": about.encode()}
    )
    sink = io.BytesIO()
    pyarrow.parquet.write_table(found, sink)
    return sink.getvalue()


def _array(values: Any) -> Any:
    """Texts as fixed-width Unicode, so that no reader needs pickle."""
    return (
        values
        if values.dtype.kind in "biufU"
        else np.array([str(v) for v in values.ravel()]).reshape(values.shape)
    )


def _plain(value: Any) -> Any:
    from probe.dashboard.as_json import plain

    return plain(value)
