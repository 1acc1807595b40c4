"""What the tests share: a Butter that answers in the process, and one that answers on a real socket."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from shops import CREDENTIALS, ROUTE

from butter_middleware import Butter, CheckoutRoute, client_ip
from butter_middleware.testing import FakeButter

settings.register_profile("deep", max_examples=100_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def fake() -> FakeButter:
    return FakeButter(**CREDENTIALS)


@pytest.fixture
def make_butter(fake: FakeButter) -> Iterator[Callable[..., Butter]]:
    """Build a `Butter` that posts to `fake`; each is closed at the end."""
    made: list[Butter] = []

    def make(*routes: CheckoutRoute, **options: Any) -> Butter:
        defaults: dict[str, Any] = {
            "client_ip": client_ip.TrustedHops(1),
            "routes": routes or (ROUTE,),
            "transport": fake.transport(),
            **CREDENTIALS,
        }
        butter = Butter(**(defaults | options))
        made.append(butter)
        return butter

    yield make
    for butter in made:
        butter.close()


@pytest.fixture
def butter(make_butter: Callable[..., Butter]) -> Butter:
    return make_butter()
