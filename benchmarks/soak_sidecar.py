"""The soak's shop, for its sidecar `butter-middleware deliver --app soak_sidecar:app --follow`."""

from crash import shop

app = shop()
