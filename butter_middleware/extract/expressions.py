"""Declarative extraction: one JMESPath expression for each field (https://jmespath.org/specification.html)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from jmespath.exceptions import JMESPathError

from butter_middleware import config
from butter_middleware.errors import ConfigurationError, ExtractionError, syntax_problem
from butter_middleware.extract.explanation import Explaining, Explanation, Field
from butter_middleware.extract.paths import attempts, path
from butter_middleware.models.checkout import CheckoutFields
from butter_middleware.models.http import CheckoutResponse

FIELDS: Final = tuple(sorted(CheckoutFields.__annotations__))
_KNOWN: Final = (*FIELDS, "ipv4_address")


@dataclass(frozen=True, slots=True)
class Expressions(Explaining):
    """The extractor that `json` returns."""

    fields: Mapping[str, str]

    def __call__(self, response: CheckoutResponse) -> Mapping[str, Any]:
        """Read a response.

        Raises:
            ExtractionError: the body is not JSON, or an expression failed on it.
        """
        body = response.json()
        return {name: _search(name, expression, body) for name, expression in self.fields.items()}

    def values(self, response: CheckoutResponse) -> Mapping[str, Any]:
        """Return the same fields as a call. They are personal data."""
        return self(response)

    def explain(self, response: CheckoutResponse) -> Explanation:
        """Return what was tried."""
        body = response.json()
        fields = (Field(name, tuple(attempts(text, body))) for name, text in self.fields.items())
        return Explanation("extract.json()", f"{len(self.fields)} expressions", tuple(fields))


def json(**fields: str) -> Expressions:
    """Return an extractor that reads each field by a JMESPath expression, such as `invoice_id="invoice.id || invoice"`.

    If an expression finds nothing, an annotation can give the field. Null, false, and an empty list, object or string
    count as nothing. `ipv4_address` is for routes with `address_from_body=True`.

    Raises:
        ConfigurationError: no field is given, a field is unknown, or an expression does not compile. The text shows
            which one.
    """
    if not fields:
        msg = (
            "extract.json() has no field. Write extract.json(customer_email='customer.email', invoice_id='invoice.id')."
        )
        raise ConfigurationError(msg)
    for name, expression in cast("dict[str, object]", fields).items():
        if name not in _KNOWN:
            msg = f"extract.json(): {name} is not a field of a checkout. {config.meant(name, _KNOWN, 'fields')}"
            raise ConfigurationError(msg)
        if not isinstance(expression, str):
            msg = (
                f"extract.json(): {name} is not a string. Write a JMESPath expression, such as 'invoice.id || invoice'."
            )
            raise ConfigurationError(msg)
        try:
            path(expression)
        except JMESPathError as error:
            msg = f"extract.json(): {name}={expression!r} is not a JMESPath expression: {syntax_problem(error)}"
            raise ConfigurationError(msg) from None
    return Expressions(fields)


def _search(name: str, expression: str, body: Any) -> Any:  # noqa: ANN401 - JSON is any type
    try:
        found = path(expression).parsed.search(body)
    except Exception as error:  # noqa: BLE001 - JMESPath's functions raise any of Python's errors
        # Without the error's text, which may quote the value that a function refused.
        msg = f"the expression of {name} failed on this body ({type(error).__name__})"
        raise ExtractionError(msg) from None
    nothing = found is False or found in ([], {}) or (isinstance(found, str) and not found.strip())
    return None if nothing else found
