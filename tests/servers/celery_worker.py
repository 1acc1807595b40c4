"""The example's Celery worker, with a broker of files, and its Butter in the tests."""

import importlib
import os
import sys
from functools import partialmethod
from pathlib import Path

from butter_middleware import Butter

EXAMPLES = Path(__file__).parents[2] / "examples"


def main() -> None:
    given = {"username": "merchant", "password": "s3cret-pass", "base_url": os.environ["SHOP_BUTTER"]}
    Butter.__init__ = partialmethod(Butter.__init__, **given)  # type: ignore[assignment,method-assign]
    sys.path.insert(0, str(EXAMPLES))
    queue = importlib.import_module("celery_outbox").queue
    queue.conf.broker_transport_options = options(os.environ["BROKER_FOLDER"])
    queue.worker_main(["worker", "--pool=solo", "--loglevel=DEBUG", "--without-gossip", "--without-mingle"])


def options(folder: str) -> dict[str, str]:
    """Return the broker's options."""
    return {"data_folder_in": folder, "data_folder_out": folder, "control_folder": f"{folder}-control"}


if __name__ == "__main__":
    main()
