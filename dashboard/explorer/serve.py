"""Serving the explorer: on the loopback address, until it is interrupted."""

from __future__ import annotations

import threading
from pathlib import Path

from probe.dashboard.failure import say
from probe.errors import InputError

HOST, PORT = "127.0.0.1", 8050


def open_explorer(
    folder: str | Path = "runs",
    *,
    host: str = HOST,
    port: int = PORT,
    expose: bool = False,
    token: str | None = None,
) -> int:
    """Show the records of a folder in the browser until interrupted.

    Args:
        folder: where the records are, or one record.
        host: the address to listen on; the default is this machine only.
        port: the port.
        expose: whether `host` may be an address that other machines reach; they need the token then.
        token: that token; made up where none is given.

    Returns:
        0.

    Raises:
        InputError: no such folder, the port is taken, or the address can be reached from elsewhere and `expose` was not given.
    """
    from werkzeug.serving import WSGIRequestHandler, make_server

    from probe.dashboard.explorer.app import build
    from probe.dashboard.explorer.safety import access

    class Quiet(WSGIRequestHandler):
        """Answers without a line for each."""

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing: errors are still told."""

    allowed = access(host, expose=expose, token=token)
    app = build(folder, allowed)
    try:
        server = make_server(host, port, app.server, threaded=True, request_handler=Quiet)
    except (OSError, SystemExit) as error:
        raise InputError(f"port {port} of {host} cannot be had: give another with --port") from error
    if allowed.hosts is None:
        say(
            f"warning: other machines can reach this explorer at {host}; who has the token sees every record of the folder"
        )
    query = f"?token={allowed.token}" if allowed.token else ""
    say(f"explorer of {Path(folder)}: http://{host}:{server.server_port}/{query} (Ctrl+C ends it)")
    threading.Thread(target=_warm, daemon=True).start()
    try:
        server.serve_forever()  # ends at an interruption, which werkzeug takes for itself
    finally:
        server.server_close()
        say("explorer ended")
    return 0


def _warm() -> None:
    """Import what the first page would wait for, while the browser still opens."""
    from probe import explainers as ex
    from probe.deepzoom import zoom  # noqa: F401 - imports torch
    from probe.viz import _along, _heads  # noqa: F401

    ex.registry()
