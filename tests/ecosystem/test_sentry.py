"""An error tracker with all its data collection gets no personal data from our faults."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import until

from butter_middleware import Checkout, Record

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))
SHOP = Path(__file__).parents[1] / "servers" / "sentry_shop.py"
SAID = [
    "on_event raised RuntimeError",
    "raised ValueError at sentry_shop.py",
    "raised SystemExit",
    "no customer e-mail",
    "is not what Butter accepts: customer_email (not an e-mail address)",
    "the extractor returned str",
    "the response is not JSON",
    "annotate() gave another invoice_id",
    "annotate() had no effect",
    "a record is dead",
    "on hold, answer 401",
    "something else answers in Butter's place",
    "are lost if this process ends now",
    "a record is lost: the outbox could not take it (OperationalError)",
    "the middleware failed on a request: TypeError",
    "the middleware failed on a request: KeyError",
    "cannot be read by this version (KeyError)",
    "cannot be used (ENOENT)",
    "got RouteTable: nothing is captured",
]


@pytest.mark.server
def test_no_personal_data_reaches_sentry(tmp_path: Path) -> None:
    """Each line is an event with stack, local variables, breadcrumbs and request: no e-mail, address, ID or body."""
    from sentry_shop import SECRETS  # noqa: PLC0415 - it loads Sentry's SDK

    folder = tmp_path / "outbox"
    folder.mkdir()
    ran = subprocess.run(
        [sys.executable, str(SHOP), str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    envelopes: list[dict[str, Any]] = [json.loads(line) for line in ran.stdout.splitlines()]
    items = [item for envelope in envelopes for item in envelope["items"]]
    ours = [item for item in items if "butter_middleware" in json.dumps(item)]
    assert [text for text in SAID if text not in json.dumps(ours)] == []
    assert [(secret, item) for item in items for secret in SECRETS if secret in json.dumps(item)] == []
    assert all(item["extra"]["butter_event"] for item in ours if "logentry" in item)
    assert not any("exception" in item for item in ours)


@pytest.mark.server
@pytest.mark.postgres
def test_no_personal_data_reaches_sentry_from_a_worker(database: str, tmp_path: Path) -> None:
    """Procrastinate logs how a job ended, with its frames: an answer, a text that is not a record, a stop."""
    from queues import enqueue, rows  # noqa: PLC0415 - an extra
    from sentry_shop import SECRETS  # noqa: PLC0415 - as above

    from butter_middleware.postgres import PostgresOutbox  # noqa: PLC0415 - as above

    for number in range(5):
        checkout = Checkout(
            customer_email="grace@example.com",
            ipv4_address="81.2.69.142",
            psp="stripe",
            charge_id=f"in_secret_{number}",
        )
        enqueue(PostgresOutbox(database), Record.of(checkout, 0.0))
    rows(database, "UPDATE butter.seen SET record = 'grace@example.com' || record WHERE job = 4")
    doing = "SELECT id FROM butter.procrastinate_jobs WHERE status = 'doing'"
    said = tmp_path / "said"  # not a pipe: it would be full before it is read
    with said.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, str(SHOP.with_name("sentry_worker.py"))],
            env=os.environ | {"BUTTER_POSTGRES_DSN": database},
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            until(lambda: rows(database, doing) == [(5,)], "the last record is on its way", 40)
        finally:
            worker.communicate(b"stop\n", timeout=60)
    text = said.read_text().replace("graceful", "")  # an option of procrastinate
    assert worker.returncode == 0, text
    assert [name for name in ("DeadRecordError", "NotYetError", "FaultError", "Aborted") if name not in text] == []
    assert [secret for secret in SECRETS if secret in text] == []
