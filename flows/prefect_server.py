"""A Prefect server that does not outlive the process that started it: `python -m flows.prefect_server PORT`."""

from __future__ import annotations

import sys

from tasks.launch.guard import end_with_parent


def main(port: int) -> None:
    """Serve on the loopback address until the parent ends."""
    end_with_parent()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
