"""A shop whose success page asks Stripe for the checkout session, and answers with it.

The session names the shopper's e-mail, the invoice and the subscription; the charge too, where the payment intent is
expanded.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn stripe_session:app
"""

from fastapi import FastAPI

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip, extract

butter = Butter(
    client_ip=client_ip.aws_alb(),
    routes=[
        CheckoutRoute("/success", psp="stripe", extract=extract.stripe(), methods=["GET"]),
    ],
)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


@app.get("/success")
def success(session_id: str) -> dict[str, object]:
    """Return the session. An object of Stripe's SDK as it stands carries your API key: return its `to_dict()`."""
    return retrieve(session_id)


def retrieve(session_id: str) -> dict[str, object]:
    """Stand for `client.v1.checkout.sessions.retrieve(session_id, {"expand": [...]}).to_dict()`."""
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
