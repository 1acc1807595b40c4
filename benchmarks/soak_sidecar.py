"""The soak's shop, for `butter-middleware deliver --app soak_sidecar:app --follow` beside it."""

from crash import shop

app = shop()
