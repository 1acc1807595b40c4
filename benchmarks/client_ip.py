"""The cost of resolving one shopper's address: CPU microseconds per call, for three resolvers in one interleaved run.

Run it: python benchmarks/client_ip.py [--rounds 200] [--calls 500]

Each is called with a cold cache, as in a shop whose shoppers are all different: no address occurs twice.
"""

import argparse
import importlib
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from uvicorn.middleware.proxy_headers import _TrustedHosts  # pyright: ignore[reportPrivateUsage]

from butter_middleware import client_ip

TRUSTED = ["10.0.0.0/8"]
Scope = dict[str, Any]


class Resolver(Protocol):
    """Finds an address in a scope."""

    def __call__(self, scope: Scope) -> str | None: ...


def ours() -> Resolver:
    strategy = client_ip.RightmostUntrusted(TRUSTED)
    return lambda scope: strategy.resolve(scope).ipv4


def uvicorn() -> Resolver:
    """Uvicorn's `ProxyHeadersMiddleware` without the await: its own objects in its own order."""
    trusted = _TrustedHosts(TRUSTED)

    def resolve(scope: Scope) -> str | None:
        if scope["client"][0] not in trusted:
            return str(scope["client"][0])
        values = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return trusted.get_trusted_client_address(b", ".join(values).decode("latin1"))[0]

    return resolve


def ipware() -> Resolver:
    """python-ipware, configured for the rightmost public address."""
    try:
        module: Any = importlib.import_module("python_ipware")
    except ImportError:
        sys.exit("The comparison needs python-ipware: pip install python-ipware")
    resolver = module.IpWare(precedence=("X_FORWARDED_FOR",), leftmost=False)

    def resolve(scope: Scope) -> str | None:
        values = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        address, _trusted = resolver.get_client_ip({"X_FORWARDED_FOR": b", ".join(values).decode("latin1")})
        return None if address is None else str(address)

    return resolve


def public() -> str:
    return f"81.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def proxy() -> str:
    return f"10.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def one_hop() -> str:
    return public()


def three_hops() -> str:
    return f"{public()}, {proxy()}, {proxy()}"


def long_header() -> str:
    return ", ".join(["1.2.3.4"] * 999 + [public()])


def scopes(header: Callable[[], str]) -> Iterator[tuple[Scope, str]]:
    """Yield requests of a browser through proxies, each with the right address."""
    while True:
        text = header()
        headers = [
            (b"host", b"shop.example"),
            (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            (b"accept", b"application/json"),
            (b"content-type", b"application/json"),
            (b"content-length", b"2"),
            (b"cookie", b"session=0123456789abcdef"),
            (b"x-forwarded-for", text.encode()),
            (b"x-forwarded-proto", b"https"),
        ]
        right = [part for part in text.split(", ") if not part.startswith("10.")][-1]
        yield {"type": "http", "client": (proxy(), 40000), "headers": headers}, right


def measure(resolve: Resolver, batch: list[tuple[Scope, str]]) -> float:
    """Return this thread's microseconds per call, for one batch."""
    start = time.thread_time_ns()
    for scope, _right in batch:
        resolve(scope)
    return (time.thread_time_ns() - start) / 1000 / len(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    resolvers = {"butter-middleware": ours(), "uvicorn": uvicorn(), "python-ipware": ipware()}
    cases = {"one hop": one_hop, "three hops": three_hops, "1000 elements": long_header}
    print(f"{'median of a call, in us':30}" + "".join(f"{name:>20}" for name in resolvers))
    for case, header in cases.items():
        source = scopes(header)
        calls = options.calls if case != "1000 elements" else max(1, options.calls // 20)
        times: dict[str, list[float]] = {name: [] for name in resolvers}
        batch: list[tuple[Scope, str]] = []
        for _ in range(options.rounds):
            batch = [next(source) for _ in range(calls)]
            for name, resolve in resolvers.items():
                times[name].append(measure(resolve, batch))
        wrong = [name for name, resolve in resolvers.items() for scope, right in batch if resolve(scope) != right]
        print(f"{case:30}" + "".join(f"{statistics.median(each):20.2f}" for each in times.values()))
        if wrong:
            print(f"{'':30}a wrong answer from: {', '.join(sorted(set(wrong)))}")


if __name__ == "__main__":
    main()
