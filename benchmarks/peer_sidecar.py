"""The shop for its sidecar, `butter-middleware deliver --app peer_sidecar:app --follow`."""

from peer_shops import ours_external

app = ours_external()
