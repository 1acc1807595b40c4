"""The shopper's IPv4 address, from the headers, unforgeable and inerasable."""
