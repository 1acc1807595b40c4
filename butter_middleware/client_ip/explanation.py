"""What each preset makes of one request, for a person who chooses one."""

from collections.abc import Iterator, Mapping
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
    candidates: dict[str, Strategy] = {} if configured is None else {CONFIGURED: configured}
    candidates |= {f"client_ip.{name}": strategy for name, strategy in _candidates()}
    results = {name: strategy.resolve(scope) for name, strategy in candidates.items()}
    return [Explanation(name, result, result.remedy) for name, result in results.items()]


def _candidates() -> Iterator[tuple[str, Strategy]]:
    """Give each strategy with the code that makes it. Some are equal, so that each platform has its name."""
    yield "direct()", platforms.direct()
    # The presets of HAProxy, Traefik and ingress controllers are the same as nginx's.
    yield f"nginx({_INTERNAL})", platforms.nginx(_INTERNAL)
    yield f"Forwarded({_INTERNAL})", Forwarded(_INTERNAL)
    yield "aws_alb()", platforms.aws_alb()
    yield "azure_app_gateway()", platforms.azure_app_gateway()
    yield "cloud_run()", platforms.cloud_run()
    yield "heroku()", platforms.heroku()
    yield "cloudfront_alb()", platforms.cloudfront_alb()
    yield "gcp_lb()", platforms.gcp_lb()
    yield "TrustedHops(3)", TrustedHops(3)
    yield "render()", platforms.render()
    yield "cloudflare()", platforms.cloudflare()
    yield "fly()", platforms.fly()
    for header in ("True-Client-IP", "Fastly-Client-IP", "X-Azure-SocketIP"):
        yield f"SingleHeader({header!r})", SingleHeader(header)
    yield "railway()", platforms.railway()
    yield "vercel()", platforms.vercel()
    yield "digitalocean()", platforms.digitalocean()
