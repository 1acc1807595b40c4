"""An endpoint's annotations become a record if it accepted a payment. Otherwise the reason is logged once."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from asgi import body, drive, http_scope, no_request, start
from fastapi import FastAPI, Request
from shops import ROUTE, SHOPPER
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, StreamingResponse
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate
from butter_middleware._utils.asgi import Message, Receive, Scope, Send
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.anyio
ANNOTATED = CheckoutRoute("/checkout/{cart_id}", psp="stripe")
MakeButter = Callable[..., Butter]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pays(*messages: Message, then: BaseException | None = None, annotated: bool = True, late: bool = False) -> Any:
    """Return an app that takes the payment, annotates it, answers, and then raises."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if annotated:
            annotate(scope, customer_email="a@example.com", invoice_id="in_1")
        for message in messages:
            await send(message)
            if late:
                annotate(scope, customer_email="a@example.com", invoice_id="in_late")
        if then is not None:
            raise then

    return app


async def settled(butter: Butter, fake: FakeButter) -> list[Any]:
    assert await anyio.to_thread.run_sync(butter.flush)
    return [record["invoice_id"] for record in fake.records]


# Post/Redirect/Get.


@pytest.mark.parametrize(
    ("status", "taken"), [(302, True), (303, True), (300, False), (301, False), (307, False), (400, False)]
)
@pytest.mark.parametrize("annotated", [True, False])
async def test_a_redirect_after_payment(
    make_butter: MakeButter,
    fake: FakeButter,
    status: int,
    taken: bool,  # noqa: FBT001 - parametrized
    annotated: bool,  # noqa: FBT001 - parametrized
) -> None:
    """An annotated 302 or 303 is a success. Other redirects are not, nor is a 302 or 303 without an annotation."""
    butter = make_butter(ANNOTATED)
    sent = (start(status, headers=[(b"location", b"/thanks")]), body())
    assert await drive(ButterMiddleware(pays(*sent, annotated=annotated), butter), http_scope()) == list(sent)
    counted = await settled(butter, fake), butter.status().skipped
    assert counted == ((["in_1"], {}) if taken and annotated else ([], {"status": 1}))


async def test_a_form_that_redirects_in_fastapi(make_butter: MakeButter, fake: FakeButter) -> None:
    """FastAPI's users return the framework's own redirect, whose default status is 307."""
    butter, app = make_butter(ANNOTATED), FastAPI()
    app.add_middleware(ButterMiddleware, butter=butter)

    @app.post("/checkout/{cart_id}")
    def pay(cart_id: str, request: Request) -> RedirectResponse:
        annotate(request, customer_email="a@example.com", invoice_id=cart_id)
        return RedirectResponse("/thanks", status_code=303)

    await anyio.to_thread.run_sync(
        lambda: TestClient(app).post("/checkout/in_7", headers={"x-forwarded-for": SHOPPER}, follow_redirects=False)
    )
    assert await settled(butter, fake) == ["in_7"]


async def test_an_annotation_after_the_redirect_began_is_too_late(make_butter: MakeButter, fake: FakeButter) -> None:
    """A redirect is classified when it begins."""
    butter = make_butter(ANNOTATED)
    await drive(ButterMiddleware(pays(start(303), body(), annotated=False, late=True), butter), http_scope())
    assert (await settled(butter, fake), butter.status().skipped) == ([], {"status": 1})


async def test_an_annotated_redirect_on_a_route_with_an_extractor(make_butter: MakeButter, fake: FakeButter) -> None:
    """It counts like a 2xx. There is no JSON for the extractor, so the evidence counts as missing."""
    butter = make_butter(ROUTE)
    await drive(ButterMiddleware(pays(start(303, headers=[]), body()), butter), http_scope())
    assert (await settled(butter, fake), butter.status().skipped) == ([], {"not_json": 1})


def test_a_bad_request_is_not_a_redirect() -> None:
    """A route that begins a checkout accepts any redirect to the PSP's page: 300 to 399, no other status."""
    route = CheckoutRoute("/pay", psp="stripe", join=lambda _response: "key")
    assert [status for status in (299, 300, 303, 399, 400, 402) if route.redirects(status)] == [300, 303, 399]
    assert [status for status in (199, 200, 299, 399, 400, 500) if route.takes(status, annotated=True)] == [
        200,
        299,
        399,
    ]


# A client that disconnects.


async def gone(message: Message) -> None:
    if message["type"] == "http.response.body":
        raise OSError


async def hears(_message: Message) -> None: ...


async def served(app: Any, send: Send) -> BaseException | None:
    """Run one exchange, and return the exception of the app."""
    try:
        await app(http_scope(), no_request, send)
    except BaseException as error:  # noqa: BLE001 - it is what the test asks for
        return error
    return None


CHUNK = body(b"<p>Thank you", more_body=True)


LEFT = [
    *(None, ClientDisconnect(), asyncio.CancelledError(), GeneratorExit()),
    ExceptionGroup("tasks", [ClientDisconnect(), ExceptionGroup("more", [ClientDisconnect()])]),
    BaseExceptionGroup("tasks", [asyncio.CancelledError(), ClientDisconnect()]),
]
"""How an app may end after the client disconnected. Task groups put exceptions into groups."""


@pytest.mark.parametrize("then", LEFT, ids=repr)
async def test_an_annotation_counts_although_the_client_disconnects(
    make_butter: MakeButter, fake: FakeButter, then: BaseException | None
) -> None:
    """Servers and frameworks report a disconnect in different ways. An annotation before it counts in all of them."""
    butter = make_butter(ANNOTATED)
    assert await served(ButterMiddleware(pays(start(), CHUNK, then=then), butter), hears) is then
    assert (await settled(butter, fake), butter.status().skipped) == (["in_1"], {})


async def test_a_send_that_raises_oserror_is_a_disconnect(make_butter: MakeButter, fake: FakeButter) -> None:
    """The app may raise any exception afterwards."""
    butter = make_butter(ANNOTATED)

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        annotate(scope, customer_email="a@example.com", invoice_id="in_1")
        await send(start(headers=[]))
        try:
            await send(CHUNK)
        except OSError as error:
            raise LookupError from error

    assert isinstance(await served(ButterMiddleware(app, butter), gone), LookupError)
    assert await settled(butter, fake) == ["in_1"]


class Page:
    """A page whose second part comes after the disconnect. Not a generator, because trio warns if one stays open."""

    _begun = False

    def __aiter__(self) -> "Page":
        return self

    async def __anext__(self) -> bytes:
        if self._begun:
            await anyio.sleep_forever()
        self._begun = True
        return b"<p>Thank you"


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_stream_of_starlette(make_butter: MakeButter, fake: FakeButter, spec_version: str) -> None:
    """Starlette's StreamingResponse learns of it by the disconnect message, or by the server's exception."""
    butter, app = make_butter(ANNOTATED), FastAPI()
    app.add_middleware(ButterMiddleware, butter=butter)

    @app.post("/checkout/{cart_id}")
    def pay(cart_id: str, request: Request) -> StreamingResponse:
        annotate(request, customer_email="a@example.com", invoice_id=cart_id)
        return StreamingResponse(Page(), media_type="text/html")

    sent = anyio.Event()

    async def receive() -> Message:
        await sent.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message.get("body"):
            sent.set()
            if spec_version == "2.4":
                raise OSError

    scope = http_scope("/checkout/in_5", asgi={"version": "3.0", "spec_version": spec_version})
    with anyio.fail_after(20):
        with contextlib.suppress(Exception):  # what a server would log
            await app(scope, receive, send)
    assert await settled(butter, fake) == ["in_5"]


@pytest.mark.parametrize("then", [RuntimeError(), OSError(), SystemExit(), KeyboardInterrupt()], ids=repr)
async def test_an_app_that_fails_midway_makes_no_record(
    make_butter: MakeButter, fake: FakeButter, then: BaseException
) -> None:
    """It annotated and began to answer, but its own exception means that the checkout failed."""
    butter = make_butter(ANNOTATED)
    assert await served(ButterMiddleware(pays(start(), CHUNK, then=then), butter), hears) is then
    assert (await settled(butter, fake), butter.status().skipped) == ([], {"incomplete": 1})


@pytest.mark.parametrize("status", [402, 500])
async def test_a_refusal_makes_no_record_if_the_client_disconnects(
    make_butter: MakeButter, fake: FakeButter, status: int
) -> None:
    """Annotations count only with a success."""
    butter = make_butter(ANNOTATED)
    await drive(ButterMiddleware(pays(start(status), CHUNK), butter), http_scope())
    assert (await settled(butter, fake), butter.status().skipped) == ([], {"status": 1})


async def test_an_annotation_after_the_response_began_needs_its_end(make_butter: MakeButter, fake: FakeButter) -> None:
    """It came after the 2xx, and without the end nothing shows that the request succeeded."""
    butter = make_butter(ANNOTATED)
    await drive(ButterMiddleware(pays(start(), CHUNK, annotated=False, late=True), butter), http_scope())
    assert (await settled(butter, fake), butter.status().skipped) == ([], {"incomplete": 1})
    await drive(ButterMiddleware(pays(start(), CHUNK, body(), annotated=False, late=True), butter), http_scope())
    assert await settled(butter, fake) == ["in_late"]


async def test_half_a_body_is_never_extracted(make_butter: MakeButter, fake: FakeButter) -> None:
    """An extractor needs the whole body, whatever was annotated."""
    butter = make_butter(ROUTE)
    await drive(ButterMiddleware(pays(start(), body(b'{"invoice": "in_2"}', more_body=True)), butter), http_scope())
    assert (await settled(butter, fake), butter.status().skipped) == ([], {"incomplete": 1})


async def test_a_customers_id_makes_no_second_record(make_butter: MakeButter, fake: FakeButter) -> None:
    """Another customer may open the same invoice later. The first address stays the only one."""
    butter = make_butter(ANNOTATED)

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        customer = "" if scope["path"].endswith("guest") else "cus_1"
        annotate(scope, customer_email="a@example.com", invoice_id="in_1", customer_id=customer)
        await send(start(headers=[]))
        await send(body())

    await drive(ButterMiddleware(app, butter), http_scope("/checkout/guest"))
    await settled(butter, fake)
    other = [(b"x-forwarded-for", b"81.2.69.143")]
    await drive(ButterMiddleware(app, butter), http_scope("/checkout/known", headers=other))
    assert (await settled(butter, fake), butter.status().skipped) == (["in_1"], {"duplicate": 1})
    assert fake.records[0]["ipv4_address"] == SHOPPER


# Annotations that have no effect.


@pytest.mark.parametrize(
    ("app", "route", "says"),
    [
        (pays(start(307), body()), ANNOTATED, "answered 307, which is not a success"),
        (pays(start(402), body()), ROUTE, "After a payment, answer 2xx, 302 or 303"),
        (pays(), ANNOTATED, "call butter.record(request, ...) right after it"),
        (pays(start(), CHUNK), ROUTE, "annotate all fields before the response begins"),
        (pays(start(headers=[]), body()), ROUTE, "the response is not JSON"),
    ],
    ids=["redirect", "refusal", "no answer", "cut", "no JSON"],
)
async def test_an_annotation_without_effect_is_logged(
    make_butter: MakeButter, caplog: pytest.LogCaptureFixture, app: Any, route: CheckoutRoute, says: str
) -> None:
    """Once for each route, with the remedy and without values. Responses without an annotation are only counted."""
    butter = make_butter(route)
    for _again in range(3):
        await drive(ButterMiddleware(app, butter), http_scope())
    said = [record.getMessage() for record in caplog.records if "POST /checkout/{cart_id}" in record.getMessage()]
    assert len(said) == 1
    assert says in said[0]
    assert "a@example.com" not in caplog.text


async def test_a_response_without_annotation_is_only_counted(
    make_butter: MakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused payment is usual."""
    butter = make_butter(ANNOTATED)
    for status in (402, 303):
        await drive(ButterMiddleware(pays(start(status), body(), annotated=False), butter), http_scope())
    assert butter.status().skipped == {"status": 2}
    assert "POST /checkout" not in caplog.text
