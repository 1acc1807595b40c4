"""For one request, what each preset would have answered, as data: for a person who sets one up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from butter_middleware.client_ip import platforms
from butter_middleware.client_ip.address import PRIVATE
from butter_middleware.client_ip.strategies import ClientIP, Forwarded, SingleHeader, Strategy, TrustedHops

CONFIGURED: Final = "configured"
"""The name of the strategy that was given."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one strategy makes of a request."""

    name: str
    """As it is written in the configuration."""
    result: ClientIP
    remedy: str
    """Where there is no address: what would have to be otherwise."""


def explain(scope: Mapping[str, Any], configured: Strategy | None = None) -> list[Explanation]:
    """Resolve one request's address in every way there is; `configured` comes first. Never raises.

    An answer proves nothing by itself: a header that is there may be the client's own.
    """
    candidates: dict[str, Strategy] = {} if configured is None else {CONFIGURED: configured}
    candidates |= {
        "client_ip.direct()": platforms.direct(),
        "client_ip.nginx(private networks)": platforms.nginx((*PRIVATE, "unix:")),
        "client_ip.Forwarded(private networks)": Forwarded((*PRIVATE, "unix:")),
        "client_ip.aws_alb()": platforms.aws_alb(),
        "client_ip.cloudfront_alb()": platforms.cloudfront_alb(),
        "client_ip.TrustedHops(3)": TrustedHops(3),
        "client_ip.cloudflare()": platforms.cloudflare(),
        "client_ip.fly()": platforms.fly(),
        "client_ip.SingleHeader('True-Client-IP')": SingleHeader("True-Client-IP"),
        "client_ip.SingleHeader('Fastly-Client-IP')": SingleHeader("Fastly-Client-IP"),
        "client_ip.SingleHeader('X-Azure-SocketIP')": SingleHeader("X-Azure-SocketIP"),
        "client_ip.railway()": platforms.railway(),
        "client_ip.vercel()": platforms.vercel(),
        "client_ip.digitalocean()": platforms.digitalocean(),
    }
    results = {name: strategy.resolve(scope) for name, strategy in candidates.items()}
    return [Explanation(name, result, result.reason.remedy) for name, result in results.items()]
