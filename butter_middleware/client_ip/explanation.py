"""Shows the result of each preset for one request, for a person who chooses one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from butter_middleware.client_ip import platforms
from butter_middleware.client_ip.strategies import ClientIP, Forwarded, SingleHeader, Strategy, TrustedHops

_INTERNAL: Final = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "unix:"]
"""The usual addresses of one's own proxies."""
CONFIGURED: Final = "configured"
"""The name of the configured strategy."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One strategy's result for a request."""

    name: str
    """The strategy as written in the configuration, or `configured`."""
    result: ClientIP
    remedy: str
    """If there is no address: what to change."""


def explain(scope: Mapping[str, Any], configured: Strategy | None = None) -> list[Explanation]:
    """Resolve one request's address with every strategy, `configured` first. Never raises.

    A result proves nothing by itself: the client may have written the header.
    """
    # Some are equal, so that each platform has its name. HAProxy, Traefik and ingress controllers work like nginx.
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
