"""The strength of records as evidence: their IDs, and how to improve Stripe's weak ones."""

from collections.abc import Sequence
from typing import Final

from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.extract.explanation import told
from butter_middleware.models.checkout import EVIDENCE_IDS, Record
from butter_middleware.models.http import CheckoutResponse

_STRONG: Final = frozenset({"invoice_id", "charge_id"})
"""The IDs that Butter asks Stripe's merchants for."""
_REMEDIES: Final = {
    "checkout.session": (
        "Retrieve the session with expand=['payment_intent.latest_charge'], or annotate(request, charge_id=...)."
    ),
    "payment_intent": (
        "Return its latest_charge too (expand=['latest_charge'] gives it whole), or the Checkout Session, or "
        "annotate(request, invoice_id=...)."
    ),
    "subscription": "Return its latest_invoice too, or annotate(request, invoice_id=...).",
}
_REMEDY: Final = (
    "Give the payment intent's latest_charge as charge_id, or return the Checkout Session, or "
    "annotate(request, invoice_id=...)."
)


def ids_of(record: Record) -> str:
    """Name the IDs that match a record to a dispute, such as `invoice_id+charge_id`."""
    return "+".join(name for name in EVIDENCE_IDS if name in record.fields)


def weakness(route: CheckoutRoute, response: CheckoutResponse, records: Sequence[Record], *, recorded: bool) -> str:
    """Return how to add an invoice or a charge, if no record of a Stripe checkout has one. Otherwise an empty text."""
    if any(record.fields["psp"] != "stripe" or _STRONG & record.fields.keys() for record in records):
        return ""
    if recorded:
        remedy = "Pass charge_id= or invoice_id= to butter.record()."
    else:
        seen, _comma, _rest = told(response, route.extract).saw.partition(",")
        remedy = _REMEDIES.get(seen, _REMEDY)
    return f"{route}: the records carry neither invoice_id nor charge_id, which match a dispute best. {remedy}"
