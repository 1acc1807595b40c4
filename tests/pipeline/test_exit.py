"""A script records checkouts and ends: the records are sent at the exit of the interpreter."""

import subprocess
import sys

import pytest

from butter_middleware.testing import FakeButter

SCRIPT = """
import atexit, sys, threading, time
from butter_middleware import Butter, Checkout, client_ip

butter = Butter(username="merchant", password="s3cret-pass", client_ip=client_ip.direct(), base_url=sys.argv[1])

def buy():
    for number in range(5):
        butter.record(Checkout(
            customer_email="a@example.com", ipv4_address="81.2.69.142", psp="stripe", invoice_id=f"in_{number}"
        ))
"""
NO_MORE_THREADS = """
from starlette.testclient import TestClient
from butter_middleware import ButterMiddleware

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body"})

TestClient(ButterMiddleware(app, butter)).get("/")  # starts the threads
deadline = time.monotonic() + 20
while "butter-send" not in [thread.name for thread in threading.enumerate()] and time.monotonic() < deadline:
    time.sleep(0.01)

def refuse(_thread):
    raise RuntimeError("can't start new thread at interpreter shutdown")

def end():
    threading.Thread.start = refuse
    buy()

atexit.register(end)
"""
"""As on Python 3.12."""


@pytest.mark.server
@pytest.mark.parametrize("end", ["buy()", NO_MORE_THREADS], ids=["any", "without new threads"])
def test_the_exit_of_the_interpreter_drains(fake: FakeButter, url: str, end: str) -> None:
    """All five arrive, even if the server's name is first looked up at the exit. The log has no error."""
    named = url.replace("127.0.0.1", "localhost")
    command = [sys.executable, "-W", "error", "-c", SCRIPT + end, named]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert sorted(record["invoice_id"] for record in fake.records) == [f"in_{number}" for number in range(5)], (
        ran.stderr
    )
    assert "Error" not in ran.stderr


LATE = """
import asyncio, json, threading, time
from butter_middleware import Butter, Checkout, client_ip

bought = threading.Event()

class Queue:
    async def enqueue(self, record):
        while not bought.is_set():  # so that the exit still drains when the last one comes
            await asyncio.sleep(0.01)
        print(json.loads(record.payload)["invoice_id"], flush=True)

butter = Butter(username="m", password="s3cret-pass", client_ip=client_ip.direct(), outbox=Queue(), drain_timeout=20)

def buy(number):
    butter.record(Checkout(
        customer_email="a@example.com", ipv4_address="81.2.69.142", psp="stripe", invoice_id=f"in_{number}"
    ))

def buy_late():
    while threading.main_thread().is_alive():  # until the exit has begun
        time.sleep(0.01)
    time.sleep(0.2)
    buy(2)
    bought.set()

for number in range(2):
    buy(number)
threading.Thread(target=buy_late, daemon=True).start()
"""


@pytest.mark.server
def test_a_record_made_while_the_exit_drains_is_sent() -> None:
    """The running threads send it. New threads would not start before the process ends."""
    command = [sys.executable, "-W", "error", "-c", LATE]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert sorted(ran.stdout.split()) == ["in_0", "in_1", "in_2"], ran.stderr


GARBAGE = """
import types
from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate, client_ip

butter = Butter(
    username="m", password="s3cret-pass", client_ip=client_ip.direct(),
    routes=[CheckoutRoute("/checkout/{cart}", psp="stripe")],
)

@types.coroutine
def for_ever():
    yield

async def app(scope, receive, send):
    annotate(scope, customer_email="a@example.com", invoice_id="in_1")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await for_ever()

async def ignore(_message):
    pass

scope = {
    "type": "http", "method": "POST", "path": "/checkout/7", "query_string": b"", "headers": [],
    "client": ("81.2.69.142", 50000),
}
request = ButterMiddleware(app, butter=butter)(scope, None, ignore)
request.send(None)
"""


@pytest.mark.server
def test_a_request_that_the_interpreter_ends_starts_no_thread() -> None:
    """It ends as garbage, after all exit hooks. A thread started then never runs."""
    command = [sys.executable, "-c", GARBAGE]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
