"""The middleware: it watches the responses of the checkout routes and hands over what it captured."""
