"""A shop that sells several subscriptions at once.

Its own extractor gives one record for each subscription.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn custom_extractor:app
"""

from collections.abc import Iterator

from fastapi import FastAPI

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutFields,
    CheckoutResponse,
    client_ip,
)

butter = Butter(client_ip=client_ip.cloudflare())


@butter.checkout_route("/subscriptions", psp="recurly")
def subscriptions(response: CheckoutResponse) -> Iterator[CheckoutFields]:
    """Yield one record for each paid subscription."""
    order = response.json()
    if order["state"] == "paid":
        for subscription in order["subscriptions"]:
            yield {
                "customer_email": order["account"]["email"],
                "customer_id": order["account"]["code"],
                "subscription_id": subscription["id"],
            }


app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


@app.post("/subscriptions")
def subscribe() -> dict[str, object]:
    """Answer like an endpoint that calls the PSP."""
    return {
        "state": "paid",
        "account": {"email": "shopper@example.com", "code": 4711},
        "subscriptions": [{"id": "sub-a"}, {"id": "sub-b"}],
    }
