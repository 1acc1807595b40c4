"""The IPv4 address of shoppers on IPv6."""
