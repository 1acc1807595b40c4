"""One preset for each platform that may be in front of the app.

If shoppers can reach the origin around the platform, a preset that reads a header proves nothing. So there are guards.
docs/client-ip.md has the settings of each platform, and the source that was checked.
"""

from collections.abc import Iterable

from butter_middleware.client_ip.address import PRIVATE
from butter_middleware.client_ip.cloudflare_ranges import RANGES
from butter_middleware.client_ip.strategies import Peer, RightmostUntrusted, SingleHeader, TrustedHops


def direct() -> Peer:
    """No proxy: the shopper's own TCP connection reaches the server. Start uvicorn with `--no-proxy-headers`."""
    return Peer()


def nginx(trusted: Iterable[str]) -> RightmostUntrusted:
    """Nginx with `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for`, at the `trusted` addresses."""
    return RightmostUntrusted(trusted)


def haproxy(trusted: Iterable[str]) -> RightmostUntrusted:
    """HAProxy with `option forwardfor`, at the `trusted` addresses. With `if-none` shoppers can forge it.

    With `option forwarded`, use `client_ip.Forwarded(trusted=...)`.
    """
    return RightmostUntrusted(trusted)


def traefik(trusted: Iterable[str]) -> RightmostUntrusted:
    """Traefik, at the `trusted` addresses."""
    return RightmostUntrusted(trusted)


def kubernetes_ingress(trusted: Iterable[str]) -> RightmostUntrusted:
    """An ingress controller whose pods, and load balancer if it has one, are at the `trusted` addresses.

    It sees the shopper only with `externalTrafficPolicy: Local` or the PROXY protocol.
    """
    return RightmostUntrusted(trusted)


def aws_alb(peer_in: Iterable[str] | None = None) -> TrustedHops:
    """AWS's Application Load Balancer in its default mode `append`. In mode `preserve` shoppers can forge it.

    If targets can be reached directly, pass the VPC's network as `peer_in`.
    """
    return TrustedHops(1, peer_in=peer_in)


def api_gateway() -> Peer:
    """AWS's API Gateway, or a function URL, before a Lambda function with Mangum: the `sourceIp` of the event.

    Behind CloudFront or a CDN of your own, use `cloudfront_alb()`. Behind a load balancer, use `aws_alb()`.
    """
    return Peer()


def cloudfront_alb(peer_in: Iterable[str] | None = None) -> TrustedHops:
    """CloudFront in front of an Application Load Balancer: it appends the shopper, the balancer appends CloudFront.

    Shoppers can forge it if they reach the balancer around your distribution. Pass the VPC's network as `peer_in`.
    """
    return TrustedHops(2, peer_in=peer_in)


def cloudflare(peer_in: Iterable[str] = RANGES) -> SingleHeader:
    """Cloudflare, which replaces `CF-Connecting-IP` in each request.

    Only from Cloudflare's published addresses, as of `cloudflare_ranges.LAST_CHANGED`. `peer_in` replaces them, as with
    the addresses of a proxy of yours that lets only Cloudflare reach it.
    """
    return SingleHeader("CF-Connecting-IP", peer_in=peer_in)


def akamai(peer_in: Iterable[str]) -> SingleHeader:
    """Akamai, which sends `True-Client-IP`. Switch "Allow Clients To Set True Client IP Header" off.

    Pass the addresses of your Site Shield map, or of your own proxy behind it, as `peer_in`.
    """
    return SingleHeader("True-Client-IP", peer_in=peer_in)


def fastly(peer_in: Iterable[str], require: tuple[str, str] | None = None) -> SingleHeader:
    """Fastly, with VCL that sets `Fastly-Client-IP` from `client.ip` at the edge. Without it shoppers can forge it.

    Pass Fastly's published ranges, or your own proxy's addresses, as `peer_in`. All customers share these ranges: have
    your VCL set a header to a secret, and pass both as `require`.
    """
    return SingleHeader("Fastly-Client-IP", peer_in=peer_in, require=require)


def gcp_lb(peer_in: Iterable[str] | None = None) -> TrustedHops:
    """Google Cloud's external Application Load Balancer: it appends `client, load balancer`.

    If backends can be reached directly, pass 130.211.0.0/22 and 35.191.0.0/16 (regional balancers: your proxy-only
    subnet) as `peer_in`.
    """
    return TrustedHops(2, peer_in=peer_in)


def cloud_run() -> TrustedHops:
    """Cloud Run without a load balancer of its own. Behind one, use `gcp_lb`."""
    return TrustedHops(1)


def azure_front_door(fdid: str) -> SingleHeader:
    """Azure Front Door, which sets `X-Azure-SocketIP` to its TCP peer, and `X-Azure-FDID` to the profile's ID, `fdid`.

    A client that knows the ID and reaches the origin can forge it: admit the service tag AzureFrontDoor.Backend only.
    """
    return SingleHeader("X-Azure-SocketIP", require=("X-Azure-FDID", fdid))


def azure_app_gateway(peer_in: Iterable[str] | None = None) -> TrustedHops:
    """Azure's Application Gateway, which appends `address:port`.

    If the app can be reached directly, pass the gateway's subnet as `peer_in`.
    """
    return TrustedHops(1, peer_in=peer_in)


def fly() -> SingleHeader:
    """Fly.io, whose proxy sets `Fly-Client-IP`. Behind another proxy or CDN, it is that one's address."""
    return SingleHeader("Fly-Client-IP")


def heroku() -> TrustedHops:
    """Heroku, whose router appends its peer to X-Forwarded-For."""
    return TrustedHops(1)


def render() -> RightmostUntrusted:
    """Render, whose services are behind Cloudflare and Render's own proxies, on private addresses."""
    return RightmostUntrusted((*PRIVATE, *RANGES), on_untrusted_peer="none")


def railway() -> SingleHeader:
    """Railway, whose edge sets `X-Real-IP`. Behind another CDN, it is that one's address."""
    return SingleHeader("X-Real-IP")


def vercel() -> SingleHeader:
    """Vercel, which sets `X-Vercel-Forwarded-For`. Behind another proxy, it is that one's address."""
    return SingleHeader("X-Vercel-Forwarded-For")


def digitalocean() -> SingleHeader:
    """DigitalOcean's App Platform, whose edge sets `DO-Connecting-IP`."""
    return SingleHeader("DO-Connecting-IP")
