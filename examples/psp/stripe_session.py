"""A shop whose success page asks Stripe for the checkout session, and answers with it.

The session has the shopper's e-mail, the invoice and the subscription. It has the
charge too if the payment intent is expanded.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn stripe_session:app
"""

from fastapi import FastAPI

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    client_ip,
    extract,
)

butter = Butter(
    client_ip=client_ip.aws_alb(),
    routes=[
        CheckoutRoute(
            "/success", psp="stripe", extract=extract.stripe(), methods=["GET"]
        ),
    ],
)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


@app.get("/success")
def success(session_id: str) -> dict[str, object]:
    """Return the session as `to_dict()`: the SDK's object contains your API key."""
    return retrieve(session_id)


def retrieve(session_id: str) -> dict[str, object]:
    """Replace this with `client.v1.checkout.sessions.retrieve(...).to_dict()`."""
    return {
        "id": session_id,
        "object": "checkout.session",
        "livemode": True,
        "status": "complete",
        "payment_status": "paid",
        "customer": "cus_7",
        "customer_details": {"email": "ada@example.com"},
        "invoice": {"id": "in_7", "object": "invoice", "status": "paid"},
        "subscription": "sub_7",
        "payment_intent": None,
    }
