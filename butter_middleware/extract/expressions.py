"""Declarative extraction: one JMESPath expression a field (https://jmespath.org/specification.html)."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError

from butter_middleware.checkout import CheckoutFields
from butter_middleware.errors import ConfigurationError, ExtractionError
from butter_middleware.exchange import CheckoutResponse

FIELDS: Final = tuple(sorted(CheckoutFields.__annotations__))


def json(**fields: str) -> Callable[[CheckoutResponse], Mapping[str, Any]]:
    """Return an extractor that reads each field by a JMESPath expression, such as `invoice_id="invoice.id || invoice"`.

    An expression that finds nothing leaves its field to the annotations.

    Raises:
        ConfigurationError: no field, an unknown field, or an expression that does not compile, which is shown.
    """
    if not fields:
        msg = (
            "extract.json() has no field. Write extract.json(customer_email='customer.email', invoice_id='invoice.id')."
        )
        raise ConfigurationError(msg)
    compiled = {name: _compile(name, expression) for name, expression in fields.items()}

    def extract(response: CheckoutResponse) -> Mapping[str, Any]:
        body = response.json()
        return {name: _search(name, expression, body) for name, expression in compiled.items()}

    return extract


def _compile(name: str, expression: object) -> Any:  # noqa: ANN401 - jmespath's parsed result has no public type
    if name not in FIELDS:
        near = get_close_matches(name, FIELDS, 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        msg = f"extract.json(): {name} is no field of a checkout.{meant} The fields are {', '.join(FIELDS)}."
        raise ConfigurationError(msg)
    if not isinstance(expression, str):
        msg = f"extract.json(): {name} is no string. Write a JMESPath expression, such as 'invoice.id || invoice'."
        raise ConfigurationError(msg)
    try:
        return jmespath.compile(expression)
    except JMESPathError as error:
        reason = str(error).splitlines()[0]
        msg = f"extract.json(): {name}={expression!r} is no JMESPath expression: {reason}"
        raise ConfigurationError(msg) from None


def _search(name: str, expression: Any, body: Any) -> Any:  # noqa: ANN401 - JSON is any type
    try:
        return expression.search(body)
    except JMESPathError as error:
        # The library's own text quotes the value that a function refused.
        msg = f"the expression of {name} failed on this body ({type(error).__name__})"
        raise ExtractionError(msg) from None
