"""The middleware: it watches the responses of the checkout routes and hands captures over."""
