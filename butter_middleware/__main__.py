"""`python -m butter_middleware`, and the command `butter-middleware`."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from butter_middleware.cli import cli  # noqa: PLC0415 - an extra: the core runs without it
        from butter_middleware.cli.failure import guard_streams  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.exit("The command line is an extra. Run: pip install 'butter-middleware[cli]'")
    guard_streams()
    cli()


if __name__ == "__main__":
    main()
