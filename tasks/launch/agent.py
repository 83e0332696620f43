"""torchrun as a child that does not outlive its parent: `python -m tasks.launch.agent <torchrun arguments>`."""

from __future__ import annotations

import sys

from tasks.launch.guard import end_with_parent


def main(arguments: list[str]) -> None:
    end_with_parent()
    from torch.distributed.run import main as torchrun

    torchrun(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
