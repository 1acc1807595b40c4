"""A shop whose shoppers pay on Stripe's own page.

The shopper's request creates the session: it has the address, but no payment. Stripe's
webhook has the payment, but not the address. Both name the session, so the outbox can
join them, in any worker and in any order.

Set: BUTTER_USERNAME, BUTTER_PASSWORD, STRIPE_WEBHOOK_SECRET,
     and BUTTER_OUTBOX to a file on a disk that lasts.
Run: uvicorn stripe_hosted_page:app
"""

import hashlib
import hmac
import os
from uuid import uuid4

from fastapi import FastAPI, HTTPException, Request

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    client_ip,
    extract,
)

SECRET = os.environ["STRIPE_WEBHOOK_SECRET"]

butter = Butter(
    client_ip=client_ip.aws_alb(),
    outbox=os.environ["BUTTER_OUTBOX"],
    join_ttl=21 * 86400,  # seconds: a bank debit may take 14 working days
    routes=[
        # The shopper starts. The answer is the session, and its ID joins both parts.
        CheckoutRoute("/sessions", psp="stripe", join="id"),
        # Stripe reports a card payment when the session is complete, and a bank debit
        # days later. Stripe sends other events to this URL too. They give no key, and
        # the preset refuses a session that is not paid.
        CheckoutRoute(
            "/stripe/webhook",
            psp="stripe",
            extract=extract.stripe(),
            source="request",
            join=(
                "contains(['checkout.session.completed', "
                "'checkout.session.async_payment_succeeded'], type) && data.object.id"
            ),
            address=False,
        ),
    ],
)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


@app.post("/sessions")
def begin() -> dict[str, str]:
    """Make a session, and return the URL of the page where the shopper pays."""
    session = create_session()
    return {"id": session["id"], "url": session["url"]}


@app.post("/stripe/webhook")
async def webhook(request: Request) -> dict[str, bool]:
    """Verify the signature. A response with an error status is not captured."""
    if not is_signed(await request.body(), request.headers.get("stripe-signature", "")):
        raise HTTPException(400)
    return {"received": True}


def is_signed(payload: bytes, header: str) -> bool:
    """Replace this with `stripe.Webhook.construct_event`, which also checks the age."""
    fields = {
        name: value
        for name, _equals, value in (part.partition("=") for part in header.split(","))
    }
    signed = f"{fields.get('t', '')}.".encode() + payload
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), fields.get("v1", "").encode())


def create_session() -> dict[str, str]:
    """Replace this with `client.v1.checkout.sessions.create(...).to_dict()`."""
    number = uuid4().hex
    session = {
        "id": f"cs_{number}",
        "object": "checkout.session",
        "status": "open",
        "payment_status": "unpaid",
    }
    return session | {"url": f"https://checkout.stripe.com/c/pay/cs_{number}"}
