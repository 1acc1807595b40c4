"""The shop that only appends, for `butter-middleware deliver --app peer_sidecar:app --follow` beside it."""

from peer_shops import ours_external

app = ours_external()
