"""The result of a preset for a response: the paid objects' fields, or why there are none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from butter_middleware.models.reasons import Skip


@dataclass(frozen=True, slots=True, repr=False)
class Payments:
    """The fields of each paid object, iterated as mappings. If there are none, `skip` is the reason.

    Your own extractor may return it, or build mappings from its fields.
    """

    fields: tuple[Mapping[str, str], ...] = ()
    skip: Skip = Skip.NOT_PAID
    """Why there are none."""
    remedy: str = ""
    """For a person, if something can be done about `skip`."""
    looks_paid: bool = False
    """No object was recognised, but the body has one of the PSP's words for paid."""
    everyday: bool = False
    """The state is known and does not mean paid: a refusal, or a step. False if the deciding value is missing."""
    test_mode: bool = False
    """The PSP reports that no money moved, so this is not evidence in production."""
    addresses: tuple[str, ...] = ()
    """For each of `fields`, the shopper's address that the PSP saw. Empty if the object has none."""

    def with_addresses(self) -> Iterator[Mapping[str, str]]:
        """Yield the fields with `ipv4_address`, which counts only on a route with `address_from_body=True`."""
        for number, fields in enumerate(self.fields):
            yield {**fields, "ipv4_address": "".join(self.addresses[number : number + 1])}

    def __iter__(self) -> Iterator[Mapping[str, str]]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        return f"Payments({len(self)})" if self.fields else f"Payments({self.skip})"
