"""Objects of the official SDKs, returned by a shop's FastAPI endpoint, end to end."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from fastapi import FastAPI, Request
from psp_objects import CHARGE, EMAIL, INTENT, INVOICE, OF_PURCHASE, OF_SALE, PRESETS, PURCHASED, SESSION, SUBSCRIPTION
from shops import SHOPPER
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate
from butter_middleware.testing import FakeButter

Sell = Callable[[str, Callable[[], Any]], list[dict[str, str]]]


@pytest.fixture
def sell(make_butter: Callable[..., Butter], fake: FakeButter) -> Sell:
    """Run a checkout whose endpoint returns the result of `pay`. Return the records that reach Butter."""

    def run(psp: str, pay: Callable[[], Any]) -> list[dict[str, str]]:
        app = FastAPI()
        route: Any = CheckoutRoute("/pay", psp, PRESETS[psp])  # type: ignore[arg-type]
        butter = make_butter(route, send_network_transaction_id=True)

        @app.post("/pay", response_model=None)
        def endpoint(request: Request) -> Any:
            annotate(request, customer_email=EMAIL)
            return pay()

        response = TestClient(ButterMiddleware(app, butter)).post("/pay", headers={"x-forwarded-for": SHOPPER})
        assert response.status_code == 200
        assert butter.flush()
        for record in fake.records:
            assert (record.pop("ipv4_address"), record.pop("psp")) == (SHOPPER, psp)
        return fake.records

    return run


STRIPE: list[tuple[dict[str, Any], dict[str, str]]] = [
    (
        INTENT | {"latest_charge": CHARGE},
        {
            "customer_id": "cus_1",
            "charge_id": "ch_1",
            "transaction_id": "pi_1",
            "network_transaction_id": "net1",
        },
    ),
    (SESSION, {"customer_id": "cus_1", "invoice_id": "in_1", "subscription_id": "sub_1"}),
    (
        INVOICE | {"payments": {"object": "list", "data": [{"status": "paid", "payment": {"payment_intent": INTENT}}]}},
        {"customer_id": "cus_1", "invoice_id": "in_1", "transaction_id": "pi_1"},
    ),
    (
        SUBSCRIPTION | {"latest_invoice": INVOICE | {"charge": CHARGE}},
        {"customer_id": "cus_1", "invoice_id": "in_1", "subscription_id": "sub_1", "charge_id": "ch_1"}
        | {"network_transaction_id": "net1"},
    ),
]


@pytest.mark.parametrize("serialise", ["to_dict", "as it stands"])
@pytest.mark.parametrize(("values", "ids"), STRIPE, ids=[values["object"] for values, _ids in STRIPE])
def test_stripe(sell: Sell, values: dict[str, Any], ids: dict[str, str], serialise: str) -> None:
    """A StripeObject with expanded parts, from `to_dict()` or serialised by FastAPI."""
    stripe = pytest.importorskip("stripe")
    paid = stripe.StripeObject.construct_from({"livemode": True} | values, "sk_live_x")
    whole = paid.to_dict() if serialise == "to_dict" else paid
    assert sell("stripe", lambda: whole) == [{"customer_email": EMAIL} | ids]


ANSWER = """<?xml version="1.0" encoding="UTF-8"?>
<transaction>
  <id>t1</id><status>submitted_for_settlement</status><type>sale</type><amount>10.00</amount>
  <merchant-account-id>m</merchant-account-id><order-id>decoy</order-id><global-id>decoy</global-id>
  <customer><id>c1</id><email></email><global-id>decoy</global-id></customer>
  <subscription-id>s1</subscription-id><network-transaction-id>net1</network-transaction-id>
</transaction>"""


def public(part: Any) -> Any:
    """Return the fields of an SDK's object, without the gateway and its keys, as a shop does."""
    if isinstance(part, list):
        return [public(item) for item in part]
    if hasattr(part, "__dict__") and not isinstance(part, Decimal):
        fields = vars(part).items()
        return {name: public(value) for name, value in fields if name != "gateway" and not name.startswith("_")}
    return part


@pytest.mark.parametrize("wrap", [public, lambda sale: {"success": True, "transaction": public(sale)}])
def test_braintree(sell: Sell, wrap: Callable[[Any], Any]) -> None:
    """The SDK reads the sale from Braintree's answer."""
    braintree = pytest.importorskip("braintree")

    class Answers(braintree.util.http.Http):  # type: ignore[misc, name-defined]
        def http_do(self, *_request: Any) -> list[Any]:
            return [201, ANSWER]

    configuration = braintree.Configuration(
        braintree.Environment.Production, merchant_id="m", public_key="p", private_key="k", http_strategy=Answers
    )
    result = braintree.BraintreeGateway(configuration).transaction.sale({"amount": "10.00"})
    expected = {"customer_email": EMAIL, "customer_id": "c1"} | OF_SALE
    assert sell("braintree", lambda: wrap(result.transaction)) == [expected]


def test_adyen(sell: Sell) -> None:
    """The endpoint returns the SDK's message of a payment."""
    adyen = pytest.importorskip("Adyen").Adyen()
    adyen.client.platform, adyen.client.xapikey, adyen.client.live_endpoint_prefix = "live", "k", "x"
    adyen.client._init_http_client()
    raw = '{"resultCode": "Authorised", "pspReference": "P1", "additionalData": {"networkTxReference": "net1"}}'
    adyen.client.http_client.request = lambda *_args, **_options: (raw, "{}", 200, {})
    result = adyen.checkout.payments_api.payments({"reference": "decoy"})
    expected = {"customer_email": EMAIL, "transaction_id": "P1", "network_transaction_id": "net1"}
    assert sell("adyen", lambda: result.message) == [expected]


@pytest.mark.parametrize("part", ["collection", "charge_invoice"])
def test_recurly(sell: Sell, part: str) -> None:
    """The endpoint returns a purchase's invoice collection, or only its invoice, as cast by the SDK."""
    recurly = pytest.importorskip("recurly")
    answer = {"object": "invoice_collection", "charge_invoice": PURCHASED, "credit_invoices": []}
    collection = recurly.Resource.cast_json(answer)
    assert sell("recurly", lambda: collection if part == "collection" else collection.charge_invoice) == [OF_PURCHASE]
