"""`butter-middleware info`: shows what a bug report needs, without secrets."""

import os
import platform
import sqlite3
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from butter_middleware import config
from butter_middleware.cli.check import read_by
from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.cli.options import app_option, command, listening, load
from butter_middleware.cli.output import Output
from butter_middleware.errors import ConfigurationError
from butter_middleware.outbox import SQLiteOutbox

_PACKAGES: Final = (
    *("butter-middleware", "anyio", "click", "fastapi", "httpx", "jmespath", "opentelemetry-api", "pydantic", "rich"),
    *("starlette", "uvicorn", "hypercorn", "granian", "gunicorn", "django", "litestar", "mangum"),
    *("procrastinate", "psycopg", "sqlalchemy", "brotli", "zstandard", "backports.zstd", "sentry-sdk"),
)
_VARIABLES: Final = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("FORWARDED_ALLOW_IPS", "WEB_CONCURRENCY"),
)


@command("info", ok="shown", attention="shown, but the app or the environment's configuration cannot be used")
@app_option
def info(output: Output, *, app: str | None) -> ExitCode:
    """Show versions, platform and options for a bug report, without secrets.

    It shows which environment variables are set, but not their values. With --app it also shows the options and the
    checkout routes of your Butter. Nothing is sent.
    """
    fields: dict[str, Any] = {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "sqlite": sqlite3.sqlite_version,
    }
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            fields[name] = version(name)
    variables = sorted(
        name
        for name, value in os.environ.items()
        if value.strip() and (name.startswith("BUTTER_") or name.upper() in _VARIABLES)
    )
    fields["variables"] = ", ".join(variables) or None
    try:
        if app is not None:
            fields |= _of_app(app)
        else:
            with listening([]):
                fields |= {"environment": config.environment(None), "base_url": config.base_url(None)}
    except (ConfigurationError, Failure):
        # Without the reason, because it may quote the app's data.
        fields["problem"] = "the configuration cannot be used: `butter-middleware check` says why"
    output.fields(fields)
    return ExitCode.ATTENTION if "problem" in fields else ExitCode.OK


def _of_app(app: str) -> dict[str, Any]:
    butter = load(app)
    outbox = type(butter.outbox).__name__
    if isinstance(butter.outbox, SQLiteOutbox):
        path, home = Path(butter.outbox.path), Path.home()
        outbox += f" at {Path('~', path.relative_to(home)) if path.is_relative_to(home) else path}"
    return {
        "app": app,
        "environment": butter.environment,
        "base_url": butter.base_url,
        "client_ip": repr(butter.strategy),
        "ipv4_beacon": butter.beacon is not None,
        "outbox": outbox,
        "dry_run": butter.dry_run,
        "routes": [f"{route}: {route.psp}, {read_by(route)}" for route in butter.routes.routes],
    }
