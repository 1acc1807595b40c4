"""Garbage collection, a signal or an exception may interrupt a thread at any line. No later thread waits forever."""

import subprocess
import sys

import pytest

SHOP = """
import sys, threading, types
from pathlib import Path

import httpx

import butter_middleware
from butter_middleware import Butter, ButterMiddleware, Checkout, CheckoutRoute, annotate, client_ip

sent, events = [], []

def answer(request):
    sent.append(request)
    return httpx.Response(200, json={})

butter = Butter(
    username="merchant", password="s3cret-pass", client_ip=client_ip.direct(), transport=httpx.MockTransport(answer),
    routes=[CheckoutRoute("/checkout/{cart}", psp="stripe")], on_event=events.append,
)

def buy(number):
    butter.record(Checkout(
        customer_email="a@example.com", ipv4_address="81.2.69.142", psp="stripe", invoice_id=f"in_{number}"
    ))

going_on = True
OURS = str(Path(butter_middleware.__file__).parent)

def is_ours(frame):
    return frame.f_code.co_filename.startswith(OURS) or frame.f_code.co_filename == threading.__file__

def at_each_step(happens):
    "Return a function for `settrace` by which `happens` is called once at each line, but not within itself."
    seen, within = set(), threading.local()

    def trace(frame, event, _argument):
        step = frame.f_code, frame.f_lineno
        if event == "line" and step not in seen and going_on and not getattr(within, "it", False):
            seen.add(step)
            within.it = True
            try:
                happens()
            finally:
                within.it = False
        return trace

    return lambda frame, event, argument: trace if is_ours(frame) else None
"""

COLLECTED = """
@types.coroutine
def for_ever():
    yield

async def app(scope, receive, send):
    if scope["path"] != "/checkout/unanswered":
        annotate(scope, customer_email="a@example.com", invoice_id=scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
    await for_ever()

async def ignore(_message):
    pass

shop = ButterMiddleware(app, butter=butter)

def begun(path):
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"", "headers": [],
        "client": ("81.2.69.142", 50000),
    }
    request = shop(scope, None, ignore)
    request.send(None)
    return request

requests = [(begun(f"/checkout/{number}"), begun("/checkout/unanswered")) for number in range(4000)]
ended = 0

def collect():
    global ended
    ended += 1
    for request in requests.pop():
        request.close()  # as the garbage collector does, on the thread on which it happens to run

trace = at_each_step(collect)
threading.settrace(trace)
sys.settrace(trace)
buy("first")
butter.flush(20)
butter.status()
butter.close()
going_on = False
butter.close()  # waits for the threads that are still at it
butter.flush(20)
status = butter.status()
print(ended > 200, status.captured == len(sent) - 1 == ended, status.skipped == {"unanswered": ended})
"""

CLOSED = """
sys.settrace(at_each_step(butter.close))
for number in range(3):
    buy(number)
    butter.flush(20)
butter.close()
going_on = False
butter.close()
print(len(sent), butter.status().lost)
"""

CLOSED_ONCE = """
def closes_at(wanted):
    "Return a function for `settrace` by which the handler runs once, at this line of the pipeline."
    def trace(frame, event, _argument):
        global lines
        lines += event == "line"
        if lines == wanted:
            sys.settrace(None)
            frame.f_trace = None
            butter.close()
        return trace

    return lambda frame, event, argument: trace if frame.f_code.co_filename.endswith("pipeline.py") else None

bought = lines = 0
while bought <= lines:
    butter.close()  # so that the threads are started
    bought, lines = bought + 1, 0
    sys.settrace(closes_at(bought))
    buy(bought)
    sys.settrace(None)
    butter.flush(20)
butter.close()
print(bought > 40, len(sent) - bought, butter.status().lost)
"""

INTERRUPTED = """
class Late(Exception):
    pass

seen, interrupted, broken = set(), [], []

def trace(frame, event, _argument):
    step = frame.f_code, frame.f_back.f_code, frame.f_back.f_lineno
    if is_ours(frame) and step not in seen:
        seen.add(step)
        interrupted.append(frame.f_code.co_name)
        sys.settrace(None)
        raise Late  # at a call, where Python looks for signals too

def job():
    sys.settrace(trace)
    try:
        buy(len(sent))
        butter.flush(20)
    except Late:
        pass
    finally:
        sys.settrace(None)

def next_job():
    buy(f"after {len(seen)}")
    if not butter.flush(20):
        broken.append(interrupted[-1])

buy("first")
butter.flush(20)
jobs = -1
while jobs < len(interrupted):
    jobs = len(interrupted)
    job()
    thread = threading.Thread(target=next_job, daemon=True)
    thread.start()
    thread.join()
print(jobs > 20, broken)
"""


@pytest.mark.server
@pytest.mark.parametrize(
    ("happens", "printed"),
    [(COLLECTED, "True True True"), (CLOSED, "3 0"), (CLOSED_ONCE, "True 0 0"), (INTERRUPTED, "True []")],
    ids=["a request is garbage", "a signal's handler closes", "it closes once", "a job's time is over"],
)
def test_an_interruption_at_any_line_blocks_no_thread(happens: str, printed: str) -> None:
    """The interrupted thread may hold a lock. It takes it again, or an exception leaves the code that releases it."""
    command = [sys.executable, "-W", "error", "-c", SHOP + happens]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout.strip() == printed, ran.stderr
