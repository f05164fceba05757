"""Serving the explorer: on the loopback address, until it is interrupted."""

from __future__ import annotations

import threading
from pathlib import Path

from probe.dashboard.failure import say
from probe.errors import InputError

HOST, PORT = "127.0.0.1", 8050


def open_explorer(folder: str | Path = "runs", *, host: str = HOST, port: int = PORT) -> int:
    """Show the records of a folder in the browser until interrupted.

    Args:
        folder: where the records are, or one record.
        host: the address to listen on; the default is this machine only.
        port: the port.

    Returns:
        0.

    Raises:
        InputError: no such folder, or the port is taken.
    """
    from werkzeug.serving import make_server

    from probe.dashboard.explorer.app import build

    app = build(folder)
    try:
        server = make_server(host, port, app.server, threaded=True)
    except (OSError, SystemExit) as error:
        raise InputError(f"port {port} of {host} cannot be had: give another with --port") from error
    threading.Thread(target=_warm, daemon=True).start()
    say(f"explorer of {Path(folder)}: http://{host}:{server.server_port}/ (Ctrl+C ends it)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("explorer ended")
    finally:
        server.server_close()
    return 0


def _warm() -> None:
    """Import what the first page would wait for, while the browser still opens."""
    from probe import explainers as ex
    from probe.deepzoom import zoom  # noqa: F401 - imports torch
    from probe.viz import _along, _heads  # noqa: F401

    ex.registry()
