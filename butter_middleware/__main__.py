"""`python -m butter_middleware`, and the command `butter-middleware`."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command line."""
    try:
        from butter_middleware.cli import cli  # noqa: PLC0415 - an extra: the core runs without it
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.exit("The command line is an extra. Run: pip install 'butter-middleware[cli]'")
    try:
        cli()
    finally:
        _drop_what_nobody_reads()


def _drop_what_nobody_reads() -> None:
    """Have standard error keep nothing, from whomever: from Python 3.14 on the process would end with 120 instead."""
    if sys.stderr is None:  # it was closed when the process began
        return
    try:
        sys.stderr.flush()
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())


if __name__ == "__main__":
    main()
