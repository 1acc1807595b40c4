"""One preset for each platform: what is in front of the app.

If shoppers can reach the origin around the platform, a preset that reads a header proves nothing: hence the guards.
Each docstring says how the platform sets the header, when it can be forged, and its source with the date of the check.
"""

from collections.abc import Iterable

from butter_middleware.client_ip.address import PRIVATE
from butter_middleware.client_ip.cloudflare_ranges import RANGES
from butter_middleware.client_ip.strategies import Peer, RightmostUntrusted, SingleHeader, TrustedHops


def direct() -> Peer:
    """No proxy: the shopper's own TCP connection reaches the server.

    Nothing that the shopper writes is read. Forged only if the server itself replaces the peer: start uvicorn with
    `--no-proxy-headers`. With `--forwarded-allow-ips '*'`, the shopper chooses the address by writing `address:port`
    into X-Forwarded-For.
    Checked 2026-11: https://uvicorn.dev/settings/#http
    """
    return Peer()


def nginx(trusted: Iterable[str]) -> RightmostUntrusted:
    """Nginx with `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for`, at the `trusted` addresses.

    It appends the peer it saw to what came. Forged only from a trusted address.
    Checked 2026-11: https://nginx.org/en/docs/http/ngx_http_proxy_module.html#var_proxy_add_x_forwarded_for
    """
    return RightmostUntrusted(trusted)


def haproxy(trusted: Iterable[str]) -> RightmostUntrusted:
    """HAProxy with `option forwardfor`, at the `trusted` addresses.

    It adds a header line of its own, below the client's. Forged with `if-none`, which keeps the client's line instead.
    With `option forwarded`, use `client_ip.Forwarded(trusted=...)`.
    Checked 2026-11: https://docs.haproxy.org/3.0/configuration.html#4-option%20forwardfor
    """
    return RightmostUntrusted(trusted)


def traefik(trusted: Iterable[str]) -> RightmostUntrusted:
    """Traefik, at the `trusted` addresses.

    It appends the peer it saw, and discards what came from peers outside `forwardedHeaders.trustedIPs`. With
    `forwardedHeaders.insecure` it keeps what came, left of its own. Forged only if the app can be reached around it.
    Checked 2026-11: https://doc.traefik.io/traefik/routing/entrypoints/#forwarded-headers
    """
    return RightmostUntrusted(trusted)


def kubernetes_ingress(trusted: Iterable[str]) -> RightmostUntrusted:
    """An ingress controller whose pods, and load balancer if it has one, are at the `trusted` addresses.

    The controller sees the shopper only with `externalTrafficPolicy: Local` or the PROXY protocol; without either, what
    arrives is a node's address, which is not public and gives no record. Forged if the app's pods can be reached
    directly.
    Checked 2026-11: https://kubernetes.io/docs/tutorials/services/source-ip/
    """
    return RightmostUntrusted(trusted)


def aws_alb(peer_in: Iterable[str] | None = None) -> TrustedHops:
    """AWS's Application Load Balancer in its default mode `append`, with or without the client's port.

    Its element is the rightmost. Forged in mode `preserve`, which keeps what came, and if targets can be reached
    directly: pass the VPC's network as `peer_in`.
    Checked 2026-11: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/x-forwarded-headers.html
    """
    return TrustedHops(1, peer_in=peer_in)


def api_gateway() -> Peer:
    """AWS's API Gateway, or a function URL, before a Lambda function with Mangum: the `sourceIp` of the event.

    AWS takes it from the connection, for REST APIs (regional and edge-optimised), HTTP APIs and function URLs.
    No header is read: an edge-optimised API's X-Forwarded-For ends with CloudFront's address, and a function URL's
    is cut to what the client wrote. Behind a CDN of your own, `sourceIp` is the CDN's address: use `cloudfront_alb()`
    with API Gateway. The event of a load balancer has no `sourceIp`: use `aws_alb()`.
    Checked 2026-11: https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html,
    https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
    """
    return Peer()


def cloudfront_alb(peer_in: Iterable[str] | None = None) -> TrustedHops:
    """CloudFront in front of an Application Load Balancer: it appends the shopper, the balancer appends CloudFront.

    Forged if the balancer can be reached around your distribution: admit only CloudFront's managed prefix list there,
    all customers' as it is, and only requests with a secret header that the distribution adds; pass the VPC's network
    as `peer_in`. (`CloudFront-Viewer-Address` is `address:port`, with IPv6 unbracketed.)
    Checked 2026-11: https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/
    RequestAndResponseBehaviorCustomOrigin.html#RequestCustomIPAddresses
    """
    return TrustedHops(2, peer_in=peer_in)


def cloudflare(peer_in: Iterable[str] = RANGES) -> SingleHeader:
    """Cloudflare, which replaces `CF-Connecting-IP` in each request.

    Forged if the origin can be reached around Cloudflare: the peer must be one of Cloudflare's published addresses, as
    of the date in `cloudflare_ranges.LAST_CHANGED`. Pass `peer_in` to replace them. If a proxy of yours is in between,
    pass its addresses, and let only Cloudflare reach it. With Pseudo IPv4 in mode "Overwrite" the header holds a hash
    of class E, which gives no record (`pseudo_ipv4`).
    Checked 2026-11: https://developers.cloudflare.com/fundamentals/reference/http-headers/
    """
    return SingleHeader("CF-Connecting-IP", peer_in=peer_in)


def akamai(peer_in: Iterable[str]) -> SingleHeader:
    """Akamai, which sends `True-Client-IP` if "Send True Client IP Header" of the origin's behaviour is on.

    Forged if "Allow Clients To Set True Client IP Header" is on, or the origin can be reached around Akamai: pass
    the addresses of your Site Shield map, or of your own proxy behind it, as `peer_in`.
    Checked 2026-11: https://techdocs.akamai.com/property-mgr/docs/origin-server
    """
    return SingleHeader("True-Client-IP", peer_in=peer_in)


def fastly(peer_in: Iterable[str], require: tuple[str, str] | None = None) -> SingleHeader:
    """Fastly, which sets `Fastly-Client-IP` if the request has none.

    Forged by default: a client's own value is kept. Safe only with VCL that sets it from `client.ip` at the edge
    (`fastly.ff.visits_this_service == 0 && req.restarts == 0`), and only from Fastly's peers: pass its published ranges
    (https://api.fastly.com/public-ip-list), or your own proxy's addresses, as `peer_in`. All customers
    share these ranges, so another customer's service may write anything to your origin. Have your VCL set a header to a
    secret, and pass both as `require`.
    Checked 2026-11: https://www.fastly.com/documentation/reference/http/http-headers/Fastly-Client-IP/
    """
    return SingleHeader("Fastly-Client-IP", peer_in=peer_in, require=require)


def gcp_lb(peer_in: Iterable[str] | None = None) -> TrustedHops:
    """Google Cloud's external Application Load Balancer: it appends `client, load balancer`.

    Forged if backends can be reached directly: pass 130.211.0.0/22 and 35.191.0.0/16 (regional balancers: your
    proxy-only subnet) as `peer_in`.
    Checked 2026-11: https://cloud.google.com/load-balancing/docs/https#x-forwarded-for_header
    """
    return TrustedHops(2, peer_in=peer_in)


def cloud_run() -> TrustedHops:
    """Cloud Run without a load balancer of its own: Google's front end appends the client, as the rightmost.

    Containers cannot be reached around it. Behind a load balancer use `gcp_lb`, and set the ingress to "internal and
    load balancing": the public run.app address would else reach the app with an element less.
    Checked 2026-11: https://cloud.google.com/run/docs/securing/ingress
    """
    return TrustedHops(1)


def azure_front_door(fdid: str) -> SingleHeader:
    """Azure Front Door, which sets `X-Azure-SocketIP` to its TCP peer, and `X-Azure-FDID` to the profile's ID, `fdid`.

    The ID proves that the request came through your profile: anyone's Front Door has the same addresses. Forged by a
    client that knows the ID and reaches the origin: admit the service tag AzureFrontDoor.Backend only.
    `X-Azure-ClientIP` follows what the client wrote into X-Forwarded-For, and is not read.
    Checked 2026-11: https://learn.microsoft.com/azure/frontdoor/front-door-http-headers-protocol
    """
    return SingleHeader("X-Azure-SocketIP", require=("X-Azure-FDID", fdid))


def azure_app_gateway(peer_in: Iterable[str] | None = None) -> TrustedHops:
    """Azure's Application Gateway, which appends `address:port`.

    Forged if the app can be reached directly: pass the gateway's subnet as `peer_in`. Forged too if a rewrite rule sets
    X-Forwarded-For from what came.
    Checked 2026-11: https://learn.microsoft.com/azure/application-gateway/how-application-gateway-works
    """
    return TrustedHops(1, peer_in=peer_in)


def fly() -> SingleHeader:
    """Fly.io, whose proxy sets `Fly-Client-IP`. The rightmost of X-Forwarded-For is the app's own address there.

    Machines are reached through the proxy, or from the organisation's private network, which could forge it. Behind
    another proxy or CDN, it is that one's address.
    Checked 2026-11: https://fly.io/docs/networking/request-headers/
    """
    return SingleHeader("Fly-Client-IP")


def heroku() -> TrustedHops:
    """Heroku, whose router appends its peer to X-Forwarded-For.

    Dynos cannot be reached around it. The retired router appended to the first of several header lines, so that a
    second one of the client's was the rightmost. Router 2.0 fixed that.
    Checked 2026-11: https://devcenter.heroku.com/articles/http-routing#heroku-headers
    """
    return TrustedHops(1)


def render() -> RightmostUntrusted:
    """Render, whose services are behind Cloudflare and Render's own proxies, on private addresses.

    X-Forwarded-For is `shopper, Cloudflare[, Render]`. Services cannot be reached around them. Forged from
    within Cloudflare's ranges, such as from a Worker.
    Checked 2026-11: https://render.com/docs/web-services, https://rohitpaulk.com/articles/render-rails-remote-ip
    """
    return RightmostUntrusted((*PRIVATE, *RANGES), on_untrusted_peer="none")


def railway() -> SingleHeader:
    """Railway, whose edge sets `X-Real-IP`.

    Services without a public TCP proxy are reached through the edge, or from the project's private network, which could
    forge it. Behind another CDN, it is that one's address.
    Checked 2026-11: https://docs.railway.com/networking/public-networking/specs-and-limits
    """
    return SingleHeader("X-Real-IP")


def vercel() -> SingleHeader:
    """Vercel, which sets `X-Vercel-Forwarded-For` and overwrites X-Forwarded-For, so that clients set neither.

    Functions cannot be reached around it. Behind another proxy, it is that one's address.
    Checked 2026-11: https://vercel.com/docs/headers/request-headers
    """
    return SingleHeader("X-Vercel-Forwarded-For")


def digitalocean() -> SingleHeader:
    """DigitalOcean's App Platform, whose edge sets `DO-Connecting-IP`.

    Components with an HTTP route are reached through the edge, or from the app's private network, which could forge it.
    Checked 2026-11: https://docs.digitalocean.com/products/app-platform/
    """
    return SingleHeader("DO-Connecting-IP")
