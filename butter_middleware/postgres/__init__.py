"""One queue for many machines, in PostgreSQL with procrastinate. The extra `butter-middleware[postgres]`."""

from butter_middleware.postgres.names import Names
from butter_middleware.postgres.outbox import PostgresOutbox
from butter_middleware.postgres.tasks import blueprint
from butter_middleware.postgres.worker import Pace, Worker

__all__ = ["Names", "Pace", "PostgresOutbox", "Worker", "blueprint"]
