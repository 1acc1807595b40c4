"""What a preset found in a response: the paid objects' fields, or why there are none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from butter_middleware.models.reasons import Skip


@dataclass(frozen=True, slots=True, repr=False)
class Payments:
    """The fields of each paid object, iterated as mappings; where there are none, `skip` says why.

    An extractor of your own may pass it on, or build its mappings of these.
    """

    fields: tuple[Mapping[str, str], ...] = ()
    skip: Skip = Skip.NOT_PAID
    """Why there are none."""
    remedy: str = ""
    """For a person, where something can be done about `skip`."""
    looks_paid: bool = False
    """Nothing was recognised, and the body has one of the PSP's words for paid."""
    everyday: bool = False
    """The gate found a word, which is not one for paid: a refusal, or a step."""
    test_mode: bool = False
    """The PSP says that no money moved: no evidence in production."""
    addresses: tuple[str, ...] = ()
    """The shopper's address as the PSP saw it, of each of `fields`; empty where the object has none."""

    def with_addresses(self) -> Iterator[Mapping[str, str]]:
        """Give the fields with `ipv4_address`, which counts on a route with `address_from_body=True` only."""
        for number, fields in enumerate(self.fields):
            yield {**fields, "ipv4_address": "".join(self.addresses[number : number + 1])}

    def __iter__(self) -> Iterator[Mapping[str, str]]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        return f"Payments({len(self)})" if self.fields else f"Payments({self.skip})"
