"""The control plane: customers, users, roles, API keys and the tokens made from them."""
