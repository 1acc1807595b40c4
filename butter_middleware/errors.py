"""Every exception that this package raises.

ButterError
├── ConfigurationError   (also a ValueError) a mistake in what the merchant wrote, raised at import
│   └── HTTPClientError  an environment variable keeps the HTTP client from being made; sending waits until it is fixed
├── ExtractionError      a response that an extractor could not read; parks the capture
├── OutboxFullError      an outbox at its bound; the record is lost, counted and logged
├── OutboxClosedError    an outbox used before `open` or after `close`; the record is lost, counted and logged
├── OutboxBusyError      an outbox's file whose lock another process has held for too long; for the command line
├── OutboxReplacedError  an outbox's file that was replaced; what is still in memory is written again
├── OutboxBrokenError    an outbox's file that cannot be read or written now; for the command line
└── InputError           a file of past checkouts that cannot be read to its end; what was sent stays sent
"""

from typing import Final

ERROR_INDEX: Final = "docs/errors.md"
"""The page that has a row, with an anchor, for each reason and each log line. Messages name it."""


def see(anchor: str) -> str:
    """Return the sentence that names a row of the error index."""
    return f"See {ERROR_INDEX}#{anchor.replace('_', '-')}."


def syntax_problem(error: Exception) -> str:
    """Return JMESPath's error message, without the expression that it ends with."""
    return str(error).partition("\n")[0].removesuffix(", for expression:").rstrip(":")


class ButterError(Exception):
    """Base of every exception that this package raises. Its text never contains personal data."""


class ConfigurationError(ButterError, ValueError):
    """A mistake in the configuration, raised when the object is built. The text has the place and the remedy."""


class HTTPClientError(ConfigurationError):
    """The environment keeps the HTTP client from being made: SSL_CERT_FILE, or a proxy's variable, is wrong."""


class ExtractionError(ButterError):
    """A response that could not be read as the extractor asked. The capture is parked, nothing is lost."""


class OutboxFullError(ButterError):
    """An outbox that has reached its bound and takes no more."""


class OutboxClosedError(ButterError):
    """An outbox that is not open in this process: before `open`, after `close`, or in a forked child."""


class OutboxBusyError(ButterError):
    """An outbox's file whose lock another process has held for too long. Nothing was done."""


class OutboxReplacedError(ButterError):
    """An outbox's file, or its log, that was replaced or deleted in use. Raised once. The store then continues."""


class OutboxBrokenError(ButterError):
    """An outbox's file that cannot be read or written now: its content, or the disk."""


class InputError(ButterError):
    """A file of past checkouts that cannot be read, or not beyond a line. The text has the line and the remedy."""
