"""Finds the shopper's IPv4 address in the peer and the headers. A shopper can neither forge nor erase it.

A function such as `aws_alb()` returns the strategy for a platform. A class such as `TrustedHops` is a strategy for any
other setup. `trusted` and `peer_in` are lists of addresses and networks, such as `["10.0.0.5", "10.1.0.0/16"]`, and
`"unix:"` for a Unix socket. A wrong entry raises `ConfigurationError` when the strategy is built.
"""

from butter_middleware.client_ip.explanation import Explanation, explain
from butter_middleware.client_ip.platforms import (
    akamai,
    api_gateway,
    aws_alb,
    azure_app_gateway,
    azure_front_door,
    cloud_run,
    cloudflare,
    cloudfront_alb,
    digitalocean,
    direct,
    fastly,
    fly,
    gcp_lb,
    haproxy,
    heroku,
    kubernetes_ingress,
    nginx,
    railway,
    render,
    traefik,
    vercel,
)
from butter_middleware.client_ip.reason import Reason
from butter_middleware.client_ip.strategies import (
    ClientIP,
    Forwarded,
    Peer,
    RightmostUntrusted,
    SingleHeader,
    Strategy,
    TrustedHops,
)

__all__ = [
    "ClientIP",
    "Explanation",
    "Forwarded",
    "Peer",
    "Reason",
    "RightmostUntrusted",
    "SingleHeader",
    "Strategy",
    "TrustedHops",
    "akamai",
    "api_gateway",
    "aws_alb",
    "azure_app_gateway",
    "azure_front_door",
    "cloud_run",
    "cloudflare",
    "cloudfront_alb",
    "digitalocean",
    "direct",
    "explain",
    "fastly",
    "fly",
    "gcp_lb",
    "haproxy",
    "heroku",
    "kubernetes_ingress",
    "nginx",
    "railway",
    "render",
    "traefik",
    "vercel",
]
