"""What each preset makes of one request, for a person who chooses one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from butter_middleware.client_ip import platforms
from butter_middleware.client_ip.strategies import ClientIP, Forwarded, SingleHeader, Strategy, TrustedHops

_INTERNAL: Final = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "unix:"]
"""Where a proxy of one's own usually is."""
CONFIGURED: Final = "configured"
"""The name of the strategy that was given."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one strategy makes of a request."""

    name: str
    """As it is written in the configuration; `configured` for the one that was given."""
    result: ClientIP
    remedy: str
    """If there is no address: what to change."""


def explain(scope: Mapping[str, Any], configured: Strategy | None = None) -> list[Explanation]:
    """Resolve one request's address in every way there is; `configured` comes first. Never raises.

    An answer proves nothing by itself: a header that is there may be the client's own.
    """
    # Some are equal, so that each platform has its name. Those of HAProxy, Traefik and ingress controllers are nginx's.
    strategies: dict[str, Strategy] = {
        "direct()": platforms.direct(),
        f"nginx({_INTERNAL})": platforms.nginx(_INTERNAL),
        f"Forwarded({_INTERNAL})": Forwarded(_INTERNAL),
        "aws_alb()": platforms.aws_alb(),
        "azure_app_gateway()": platforms.azure_app_gateway(),
        "cloud_run()": platforms.cloud_run(),
        "heroku()": platforms.heroku(),
        "cloudfront_alb()": platforms.cloudfront_alb(),
        "gcp_lb()": platforms.gcp_lb(),
        "TrustedHops(3)": TrustedHops(3),
        "render()": platforms.render(),
        "cloudflare()": platforms.cloudflare(),
        "fly()": platforms.fly(),
        "SingleHeader('True-Client-IP')": SingleHeader("True-Client-IP"),
        "SingleHeader('Fastly-Client-IP')": SingleHeader("Fastly-Client-IP"),
        "SingleHeader('X-Azure-SocketIP')": SingleHeader("X-Azure-SocketIP"),
        "railway()": platforms.railway(),
        "vercel()": platforms.vercel(),
        "digitalocean()": platforms.digitalocean(),
    }
    results = {} if configured is None else {CONFIGURED: configured.resolve(scope)}
    results |= {f"client_ip.{name}": strategy.resolve(scope) for name, strategy in strategies.items()}
    return [Explanation(name, result, result.remedy) for name, result in results.items()]
