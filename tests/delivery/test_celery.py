"""The Celery example for a merchant's own queue, with a real worker process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import HERE, served, until
from shops import CREDENTIALS, SHOPPER
from starlette.testclient import TestClient

from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.server


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "broker"
    folder.mkdir()
    monkeypatch.setenv("CELERY_BROKER_URL", "filesystem://")
    monkeypatch.setenv("BROKER_FOLDER", str(folder))
    return folder


def test_a_checkout_goes_through_celery(example: Any, broker: Path) -> None:
    """The shop publishes, a worker delivers. A record that Butter accepts later is retried, a refused one is listed."""
    shop = example("celery_outbox")
    sys.path.insert(0, str(HERE / "servers"))
    from celery_worker import options  # noqa: PLC0415 - it stands with the servers

    shop.queue.conf.broker_transport_options = options(str(broker))
    client = TestClient(shop.app, client=("10.0.0.9", 4711))
    fake = FakeButter(**CREDENTIALS)
    fake.respond_with(503, 409, 422)
    with served(fake) as url:
        for cart in (1, 2, 3):
            assert client.post(f"/checkout/{cart}", headers={"x-forwarded-for": SHOPPER}).status_code == 200
        assert shop.butter.flush(20)
        worker = subprocess.Popen(
            [sys.executable, str(HERE / "servers" / "celery_worker.py")],
            env=os.environ | {"SHOP_BUTTER": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=broker,
        )
        try:
            until(lambda: len(fake.records) == 2, "two of three records", 60)
        finally:
            worker.send_signal(signal.SIGTERM)
            output, _ = worker.communicate(timeout=60)
    assert {record["ipv4_address"] for record in fake.records} == {SHOPPER}
    assert len({record["invoice_id"] for record in fake.records}) == 2
    assert b"DeadRecordError" in output
    assert [text for text in (b"shopper@example.com", SHOPPER.encode()) if text in output] == []
