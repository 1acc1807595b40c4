"""Extraction with a response model that the shop already has."""

from collections.abc import Callable, Iterator
from typing import TypeVar, cast

from pydantic import AliasChoices, AliasPath, BaseModel, ValidationError

from butter_middleware import config
from butter_middleware.errors import ConfigurationError, ExtractionError
from butter_middleware.models.http import EXTRACTOR_REMEDY, CheckoutResponse, Extracted, json_text

ModelT = TypeVar("ModelT", bound=BaseModel)


def model(model: type[ModelT], function: Callable[[ModelT], Extracted]) -> Callable[[CheckoutResponse], Extracted]:
    """Return an extractor that parses the body as `model` and gives it to `function`.

    `function` returns what any extractor returns: a mapping, a `Checkout`, several of them, or None. If the body does
    not fit the model, the extractor raises `ExtractionError`, and the capture is parked.

    Raises:
        ConfigurationError: `model` is not a pydantic model, or `function` is a coroutine function.
    """
    given = cast("object", model)
    if not isinstance(given, type) or not issubclass(given, BaseModel):
        msg = "extract.model(): the first argument is not a pydantic model class. Pass the endpoint's response model."
        raise ConfigurationError(msg)
    config.function("extract.model(): function", function, EXTRACTOR_REMEDY)

    def extract(response: CheckoutResponse) -> Extracted:
        try:
            parsed = model.model_validate_json(json_text(response.body, "response"))
        except ValidationError as error:
            # Only the names of the model itself: a deeper key of the body could be personal data.
            wrong = sorted({str(e["loc"][0]) for e in error.errors() if e["loc"]} & set(_names(model)))
            msg = f"the response does not fit {model.__name__}: see {', '.join(wrong) or 'the body'}"
            raise ExtractionError(msg) from None
        return function(parsed)

    return extract


def _names(model: type[BaseModel]) -> Iterator[str]:
    """Yield the keys that the model reads from a body: the names of its fields, or their aliases."""
    for name, info in model.model_fields.items():
        yield name
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
        yield from (str(choice.path[0] if isinstance(choice, AliasPath) else choice) for choice in choices)
