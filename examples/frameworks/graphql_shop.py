"""A shop on GraphQL, with Strawberry.

Everything is a POST to one path, so the mutation's resolver annotates the checkout.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn graphql_shop:app
"""

import strawberry
from fastapi import FastAPI
from strawberry.fastapi import GraphQLRouter

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    annotate,
    client_ip,
)

butter = Butter(
    client_ip=client_ip.nginx(["127.0.0.1"]),
    routes=[
        CheckoutRoute(
            "/graphql",
            psp="stripe",
            when=lambda response: bool(response.request.annotations),
        )
    ],
)


@strawberry.type
class Query:
    """What the shop has."""

    @strawberry.field
    def price(self) -> int:
        return 42


@strawberry.type
class Mutation:
    """What a shopper does. The client chooses the fields of the response."""

    @strawberry.mutation
    def checkout(self, info: strawberry.Info, cart: str) -> str:
        invoice = f"in_{cart}"
        annotate(
            info.context["request"],
            customer_email="shopper@example.com",
            invoice_id=invoice,
        )
        return invoice


app = FastAPI()
app.include_router(GraphQLRouter(strawberry.Schema(Query, Mutation)), prefix="/graphql")
app.add_middleware(ButterMiddleware, butter=butter)
