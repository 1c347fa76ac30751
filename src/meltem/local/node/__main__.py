"""`python -m meltem.local.node --home <cluster home> [teardown|preflight]`: the node of one local cluster (as root)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from meltem.errors import MeltemError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m meltem.local.node", description=__doc__)
    parser.add_argument("--home", required=True, type=Path, help="directory of the cluster (it has cluster.json)")
    parser.add_argument("verb", nargs="?", default="run", choices=("run", "teardown", "preflight"))
    options = parser.parse_args()
    # structlog loads rich for pretty tracebacks wherever it is installed: 4 MiB that a daemon has no use for.
    sys.modules.setdefault("rich", None)  # pyright: ignore[reportArgumentType]
    try:
        if options.verb == "preflight":
            from meltem.local.node.preflight import preflight

            problems = preflight(options.home)
            for problem in problems:
                print(f"{problem.what}\n  {problem.remedy}")
            return 1 if any(p.fatal for p in problems) else 0
        if options.verb == "teardown":
            from meltem.local.config import load_cluster
            from meltem.local.node.teardown import teardown

            teardown(load_cluster(options.home))
            return 0
        from meltem.local.node.node import main as run

        run(options.home)
    except MeltemError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
