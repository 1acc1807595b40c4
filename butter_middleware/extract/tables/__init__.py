"""The PSPs' objects as tables: one file a PSP, to be read beside that PSP's own documentation."""

from butter_middleware.extract.tables.adyen import adyen
from butter_middleware.extract.tables.braintree import braintree
from butter_middleware.extract.tables.recharge import recharge
from butter_middleware.extract.tables.recurly import recurly
from butter_middleware.extract.tables.stripe import stripe
from butter_middleware.extract.tables.worldpay import worldpay

__all__ = ["adyen", "braintree", "recharge", "recurly", "stripe", "worldpay"]
