"""The data plane: one region, its objects, their bytes and who may see them."""
